"""Files larger than memory: what has been written is handed to the disk, and not kept by the system as well.

A system keeps what is written in memory as long as it finds room. Of a checkpoint that is not read again soon this
evicts what others need, and where memory is virtual, finding room takes several times as long as writing.
"""

import errno
import os
from pathlib import Path

EVERY = 128 * 2**20  # bytes after which a growing file is handed over
UNABLE = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)  # what file systems say that cannot be asked for it


def release(path: Path) -> None:
    """Write a file to the disk and free the memory in which the system keeps it; nothing where that cannot be asked.

    OSError if it cannot be written.
    """
    if not hasattr(os, "posix_fadvise"):
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fdatasync(handle)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    except OSError as error:
        if error.errno not in UNABLE:
            raise
    finally:
        os.close(handle)


class Growing:
    """A file that is being written, released now and then."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.kept = 0  # bytes

    def wrote(self, size: int) -> None:
        """So many bytes were written."""
        self.kept += size
        if self.kept >= EVERY:
            release(self.path)
            self.kept = 0
