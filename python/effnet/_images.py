"""What may be given as an image, and its way to a crop or to a pipeline's item."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, Iterable, Union, cast

import numpy as np

from ._library import call, ffi, lib
from .errors import DataError, Error, UsageError

if TYPE_CHECKING:
    import PIL.Image

#: One image: the path of a file; the bytes of an encoded file; pixels, uint8 [height][width][3]; Pillow's.
Image = Union[str, "os.PathLike[str]", bytes, bytearray, memoryview, np.ndarray, "PIL.Image.Image"]


def is_pillow(image: Any) -> bool:
    module = sys.modules.get("PIL.Image")  # whoever has an image of Pillow's has imported it
    return module is not None and isinstance(image, module.Image)


def several(images: Image | Iterable[Image]) -> Iterable[Image]:
    """One image or several, as several."""
    one = isinstance(images, (str, bytes, bytearray, memoryview, os.PathLike)) or is_pillow(images)
    if one or (isinstance(images, np.ndarray) and images.ndim != 4):
        return [cast(Image, images)]
    return cast("Iterable[Image]", images)


class Options:
    """struct effnet_image_options, from the arguments of the methods that take images."""

    def __init__(
        self, max_pixels: int | None, ignore_exif: bool, background: tuple[int, int, int] | None
    ) -> None:
        self.struct = ffi.new("struct effnet_image_options *", lib.effnet_image_defaults())
        self.struct.ignore_exif = self.ignore_exif = ignore_exif
        self.background = None if background is None else tuple(background)
        try:
            if max_pixels is not None:
                self.struct.max_pixels = max_pixels
            if self.background is not None:
                self.struct.has_background = True
                self.struct.background = self.background
        except (OverflowError, IndexError, TypeError) as error:
            raise UsageError(f"max_pixels is a whole number, background three of 0..255: {error}") from None
        if self.background is not None and len(self.background) != 3:
            raise UsageError(f"background: {len(self.background)} numbers, not red, green, blue")


def path_bytes(path: str | os.PathLike[str]) -> bytes:
    name = os.fsencode(path)
    if b"\0" in name:
        raise UsageError(f"{os.fsdecode(name)!r}: a path with a NUL in it")
    return name


def image_path(path: str | os.PathLike[str]) -> bytes:
    """For the library, to which "-" alone would be standard input."""
    name = path_bytes(path)
    return b"./-" if name == b"-" else name


def _pixels(array: np.ndarray) -> np.ndarray:
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise UsageError(f"an image of type {array.dtype} and shape {array.shape}: uint8 [height][width][3] is wanted")
    return np.ascontiguousarray(array)


def _of_pillow(image: PIL.Image.Image, name: str, options: Options) -> np.ndarray:
    """Its pixels as the library would read them from a file: upright, alpha dropped or laid over a background."""
    import PIL.Image
    import PIL.ImageOps

    try:
        if not options.ignore_exif:
            image = PIL.ImageOps.exif_transpose(image)
        if image.mode.startswith("I;16"):
            image = PIL.Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        if options.background is not None and image.has_transparency_data:
            base = PIL.Image.new("RGBA", image.size, (*options.background, 255))
            base.alpha_composite(image.convert("RGBA"))
            image = base
        return _pixels(np.asarray(image.convert("RGB")))
    except UsageError:
        raise
    except Exception as error:  # its plugins raise of every kind: OSError, SyntaxError, struct.error, ...
        raise DataError(f"{name}: {error}") from error


def _unknown(image: Any) -> UsageError:
    return UsageError(f"{type(image).__name__} is no image: a path, bytes, an array or an image of Pillow's is")


# ---------------------------------------------------------------- one image to a crop


def fit(image: Image, name: str, preprocess, options: Options, crop) -> bool:
    """Decodes an image and writes its crop, [crop][crop][3]. Returns whether it is blank without its alpha."""
    decoded = ffi.new("struct effnet_image *")
    if isinstance(image, (str, os.PathLike)):
        call(lib.effnet_image_read, image_path(image), options.struct, decoded)
    elif isinstance(image, (bytes, bytearray, memoryview)):
        data = ffi.from_buffer(image)
        call(lib.effnet_image_decode, data, len(data), name.encode(), options.struct, decoded)
    elif isinstance(image, np.ndarray) or is_pillow(image):
        pixels = _pixels(image) if isinstance(image, np.ndarray) else _of_pillow(image, name, options)
        memory = ffi.from_buffer("uint8_t[]", pixels)
        decoded.height, decoded.width, _ = pixels.shape
        decoded.rgb = memory
        call(lib.effnet_image_fit, decoded, preprocess, crop)
        return False
    else:
        raise _unknown(image)
    try:
        call(lib.effnet_image_fit, decoded, preprocess, crop)
        return decoded.blank_without_alpha
    finally:
        lib.effnet_image_free(decoded)


# ---------------------------------------------------------------- one image to an item of a pipeline


class Item:
    """An image on its way through a pipeline, and the memory that the library reads of it."""

    __slots__ = ("data", "error", "image", "name", "size_bytes")

    def __init__(self, image: Image, index: int, options: Options) -> None:
        self.image = image
        self.error: Error | None = None  # why it has no pixels, although the library may think that it has
        self.data = None
        self.size_bytes = 0
        name = f"image {index}"
        if isinstance(image, (str, os.PathLike)):
            self.name = ffi.new("char[]", image_path(image))
            return
        self.name = ffi.new("char[]", name.encode())
        if isinstance(image, (bytes, bytearray, memoryview)):
            self.data = ffi.from_buffer(image)
        elif isinstance(image, np.ndarray):
            self.data = _pnm(_pixels(image))
        elif is_pillow(image):
            try:
                self.data = _pnm(_of_pillow(image, name, options))
            except DataError as error:
                self.error = error
                self.data = ffi.from_buffer(b"")
        else:
            raise _unknown(image)
        self.size_bytes = len(self.data)


def _pnm(pixels: np.ndarray):
    """A pipeline takes encoded images alone; this encoding is a line before the pixels."""
    height, width, _ = pixels.shape
    return ffi.from_buffer(b"P6 %d %d 255\n" % (width, height) + pixels.tobytes())
