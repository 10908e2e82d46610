"""Files that are no sources: what they are, and what to do with them."""

import re

from .errors import EX_NOINPUT, ConvertError

SEARCHED_TEXT = 4096  # bytes in which a text's second sign is looked for

ELSEWHERE = "take the weights that it was made of, as a PyTorch checkpoint or safetensors"
UNPACK = "unpack it first, and convert the file in it"
SAVE_STATE = "load it where it was made, and torch.save the model's state_dict()"

# (offset, sign, what it is, what to do)
SIGNATURES = (
    (0, b"version https://git-lfs", "a Git LFS pointer in place of the file", "fetch the file with git lfs pull"),
    (0, b"\x1f\x8b", "a gzip archive", UNPACK),
    (0, b"\xfd7zXZ", "an xz archive", UNPACK),
    (0, b"BZh", "a bzip2 archive", UNPACK),
    (0, b"\x28\xb5\x2f\xfd", "a zstd archive", UNPACK),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", UNPACK),
    (0, b"Rar!", "a RAR archive", UNPACK),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras writes them", ELSEWHERE),
    (0, b"\x93NUMPY", "a NumPy array", SAVE_STATE),
    (0, b"\x08\x01\x12", "a TensorFlow SavedModel", ELSEWHERE),
    (4, b"TFL3", "a TensorFlow Lite model", ELSEWHERE),
    (0, b"GGUF", "a GGUF model", ELSEWHERE),
    (0, b"\x89PNG", "a PNG image", "give the network's weights"),
    (0, b"\xff\xd8\xff", "a JPEG image", "give the network's weights"),
    (0, b"%PDF-", "a PDF document", "give the network's weights"),
)
TENSORFLOW_INDEX_END = b"\x57\xfb\x80\x8b\x24\x75\x47\xdb"
TENSORFLOW_DATA = re.compile(r"\.data-\d{5}-of-\d{5}$")
ONNX_SECOND_FIELDS = b"\x12\x1a\x22\x28\x32\x3a\x42"
OLD_TORCH_TAR = (b"sys_info", b"storages", b"./sys_info", b"./storages")


def _tar_kind(data):
    if data[:100].rstrip(b"\0") in OLD_TORCH_TAR:
        return "a checkpoint of PyTorch's first format, a tar archive", "torch.load it, and torch.save its state dict"
    return "a tar archive", UNPACK


def _text_kind(data):
    """Of what begins as a text does, or None."""
    start = data[:SEARCHED_TEXT].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if start.startswith(b"<"):
        page = b"<html" in start or b"<!doctype html" in start
        return (
            "an HTML page, which a failed download leaves" if page else "an XML file",
            "download the file itself",
        )
    if start.startswith((b"{", b"[")):
        if b'"weight_map"' in data:
            return "the index of weights in several files", "load the model from them, and save it in one file"
        return "a JSON file", "give the file of weights beside it"
    if start and all(byte >= 32 or byte in b"\t\r\n" for byte in start):
        return "a text", "give the network's weights"
    return None


def _kind(data, name):
    if not data:
        return "empty", "download or copy it again"
    for offset, sign, what, remedy in SIGNATURES:
        if data[offset : offset + len(sign)] == sign:
            return what, remedy
    if data[257:262] == b"ustar":
        return _tar_kind(data)
    if data[-8:] == TENSORFLOW_INDEX_END or TENSORFLOW_DATA.search(name):
        return "part of a TensorFlow checkpoint", ELSEWHERE
    # An ONNX model has no signature: its first field is a version, and one of these comes next.
    if len(data) > 2 and data[0] == 8 and 3 <= data[1] < 64 and data[2] in ONNX_SECOND_FIELDS:
        return "an ONNX model", ELSEWHERE
    if not any(data[: 1 << 16]):
        return "zeros, which a download that failed leaves", "download it again"
    return _text_kind(data)


def refuse(data, name, label):
    """Raises what is to be said of a file that is no source. name: the file's, without its folder."""
    kind = _kind(data, name)
    if kind is None:
        raise ConvertError(
            f"{label}: neither a PyTorch file nor safetensors: give a checkpoint that torch.save wrote, or safetensors"
        )
    raise ConvertError(f"{label}: {kind[0]}: {kind[1]}")


def refuse_zip(names, label):
    """The same of a zip archive by its members' names, where these tell."""
    if names and all(name.endswith(".npy") for name in names):
        raise ConvertError(f"{label}: an archive of NumPy arrays (.npz): {SAVE_STATE}")
    if any(name.endswith("model.weights.h5") for name in names):
        raise ConvertError(f"{label}: a Keras model: {ELSEWHERE}")
    if any(name.endswith(("serialized_exported_program.json", "models/model.json")) for name in names):
        raise ConvertError(f"{label}: a program that torch.export wrote: {SAVE_STATE}")


def refuse_folder(names, label):
    """Raises what is to be said of a folder by what it holds."""
    if "saved_model.pb" in names:
        raise ConvertError(f"{label}: a TensorFlow SavedModel: {ELSEWHERE}", EX_NOINPUT)
    if "data.pkl" in names:
        raise ConvertError(f"{label}: the folder of an unpacked PyTorch file: give the file itself", EX_NOINPUT)
    weights = sorted(name for name in names if name.endswith((".safetensors", ".bin", ".pth", ".pt", ".ckpt", ".tar")))
    hint = f" ({', '.join(weights[:3])})" if weights else ""
    raise ConvertError(f"{label}: a folder, not a regular file: name the file of weights in it{hint}", EX_NOINPUT)
