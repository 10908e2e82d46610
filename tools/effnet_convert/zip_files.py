"""Members of zip archives."""

import io
import struct
import zipfile
import zlib

from .errors import ConvertError

MAX_MEMBER_BYTES = 2 << 30  # of a file inside a compressed archive
ENCRYPTED = 1  # flag of a member
LOCAL_HEADER = struct.Struct("<4s22xHH")  # in front of a member: signature, lengths of name and extra field


class Archive:
    """An archive in memory. What is stored without compression is never copied, and checked only once."""

    def __init__(self, data, label):
        self._data = memoryview(data)
        self._label = label
        self._checked = set()
        try:
            self._zip = zipfile.ZipFile(io.BytesIO(data))
        except (zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError, struct.error) as error:
            if b"PK\x05\x06" not in data[-66_000:]:  # the end record, and the longest comment behind it
                raise self.fail("a zip archive that is cut off: download or copy it again") from None
            raise self.fail(f"broken zip archive ({error})") from None
        self.members = {info.filename: info for info in self._zip.infolist()}
        if len(self.members) != len(self._zip.infolist()):
            raise self.fail("the archive holds a name twice")
        if any(info.flag_bits & ENCRYPTED for info in self.members.values()):
            raise self.fail("an encrypted zip archive: unpack it first, and convert the file in it")

    def fail(self, reason):
        return ConvertError(f"{self._label}: {reason}")

    def read(self, info, max_bytes=MAX_MEMBER_BYTES):
        """A member's bytes, its checksum verified where it has one. The size that the archive claims is a
        limit, not a promise."""
        if info.file_size > max_bytes:
            raise self.fail(f"{info.filename} is larger than {max_bytes} bytes")
        if info.compress_type == zipfile.ZIP_STORED:
            return self._stored(info)
        try:
            with self._zip.open(info) as member:
                data = member.read(info.file_size + 1)
        except MemoryError:
            raise
        except Exception as error:  # BadZipFile, zlib.error, lzma.LZMAError, RuntimeError, ...: no common base
            raise self.fail(f"{info.filename}: broken member ({error})") from None
        if len(data) != info.file_size:
            raise self.fail(f"{info.filename} does not have the {info.file_size} bytes that it claims")
        return data

    def _stored(self, info):
        at = info.header_offset
        if not 0 <= at <= len(self._data) - LOCAL_HEADER.size:
            raise self.fail(f"{info.filename}: broken member (it lies outside of the file)")
        signature, name_bytes, extra_bytes = LOCAL_HEADER.unpack_from(self._data, at)
        start = at + LOCAL_HEADER.size + name_bytes + extra_bytes
        member = self._data[start : start + info.file_size]
        if signature != b"PK\x03\x04" or len(member) != info.file_size:
            raise self.fail(f"{info.filename} does not have the {info.file_size} bytes that it claims")
        # Some writers leave the checksum out: PyTorch without set_crc32_options is one.
        if info.CRC != 0 and info.filename not in self._checked:
            if zlib.crc32(member) != info.CRC:
                raise self.fail(f"{info.filename}: broken member (its checksum is another)")
            self._checked.add(info.filename)
        return member
