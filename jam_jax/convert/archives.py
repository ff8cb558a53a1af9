"""PyTorch's zip archives, held to their own table before their tensors are mapped from disk.

A mapped tensor is bytes at an offset: nothing in between notices that the offset is wrong or that the record is
shorter than the tensor. So the table at the archive's end, the headers in front of the records and the tensors are
compared here. The tensors' bytes are not summed: that would read them all, and some writers leave the sum out.
"""

import mmap
import struct
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

LOCAL = struct.Struct("<4s22xHH")  # of a record's own header: signature, lengths of its name and of its extra fields

Records = dict[int, int]  # where a record's bytes begin in the file → how many they are


def is_archive(path: Path) -> bool:
    """Whether a file begins as an archive does: how torch tells them from its older format."""
    with path.open("rb") as file:
        return file.read(4) == b"PK\3\4"


def check(path: Path) -> Records:
    """Where the records of an archive lie; ValueError if its table and its records contradict each other."""
    try:
        with zipfile.ZipFile(path) as archive, path.open("rb") as file:
            infos = sorted(archive.infolist(), key=lambda info: info.header_offset)
            ends = [*(info.header_offset for info in infos[1:]), archive.start_dir]
            starts = [_start(file, info, end) for info, end in zip(infos, ends, strict=True)]
            if len({info.filename for info in infos}) < len(infos):
                raise ValueError("two records have the same name")
            for start, info in zip(starts, infos, strict=True):
                if info.filename.endswith("/data.pkl") and info.CRC:  # 0 where the writer was told not to sum
                    file.seek(start)
                    if zlib.crc32(file.read(info.file_size)) != info.CRC:
                        raise ValueError("what it says of its tensors has changed since it was written")
    except (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError, struct.error) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        if reason == "File is not a zip file":  # what zipfile says of one without a table
            reason = "its end is missing, as of a copy that was cut short"
        raise ValueError(f"{path} is damaged: {reason}") from error
    return {start: info.file_size for start, info in zip(starts, infos, strict=True)}


def _start(file: BinaryIO, info: zipfile.ZipInfo, end: int) -> int:
    """Where a record's bytes begin, by its own header, which must fit the table; `end`: where the next begins."""
    if info.header_offset < 0:
        raise ValueError(f"the record {info.filename!r} lies outside of the file")
    file.seek(info.header_offset)
    signature, name, extra = LOCAL.unpack(file.read(LOCAL.size))
    start = info.header_offset + LOCAL.size + name + extra
    if signature != b"PK\3\4" or file.read(name) != info.orig_filename.encode():
        raise ValueError(f"the table and the record {info.filename!r} contradict each other")
    if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
        raise ValueError(f"the record {info.filename!r} is not stored as it is")
    # Behind the bytes the header is said once more, if it did not say all before them; then comes the next record. So
    # a length in the header that is wrong is seen, whichever way it moves the bytes.
    if start + info.file_size <= end:
        file.seek(start + info.file_size)
        behind = file.read(min(end - file.tell(), 25))
        if (behind[:4] == b"PK\7\x08" and len(behind) in (16, 24)) if info.flag_bits & 8 else not behind:
            return start
    raise ValueError(f"the record {info.filename!r} and the next do not lie end to end")


def are_records(storages: Iterable[tuple[int, int]], records: Records) -> bool:
    """Whether every storage (its address, its bytes) of a mapped archive is one record, whole.

    The archive is mapped at an address that is not told, but is one for all of them and the beginning of a page.
    """
    found = sorted({storage for storage in storages if storage[1]})
    if not found:
        return True
    (address, size), *_ = found
    bases = [address - start for start, length in records.items() if length == size]
    return any(
        base % mmap.PAGESIZE == 0 and all(records.get(place - base) == length for place, length in found)
        for base in bases
    )
