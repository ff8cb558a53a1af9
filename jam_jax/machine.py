"""The machine that a run is on: its size in words, and what it keeps of memory and of compiled programs."""

import ctypes
import os
import platform
import sys
from pathlib import Path

# glibc's `mallopt` parameters (malloc.h), and the largest buffer that they can be told of, an int.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _ARENAS = -1, -2, -3, -8
_KEPT = 2**31 - 1
_LARGE = 2**30  # bytes of the heap that have large pages: less than what glibc keeps of it
_MADV_HUGEPAGE = 14  # of Linux (mman.h)
_COMPILED = 0.5  # seconds that compiling a program takes, at least, if it is to be kept


def machine() -> str:
    """What this runs on: `2 cores, 23 GiB of memory (x86_64)`."""
    pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return f"{os.cpu_count()} cores, {pages * size / 2**30:.0f} GiB of memory ({platform.machine()})"


def keep_freed_memory() -> None:
    """Let this process keep the memory that it frees, for its next step, where the C library is glibc.

    XLA allocates a program's buffers anew in every call. By default glibc gives large ones back to the system at once,
    and the next call faults every page in again: on two cores that is up to 40% of a small model's training step. For
    commands that run the same programs many times; a command that streams more than it holds should leave it.
    Its pages are large ones, where Linux gives them when asked: what XLA computes in is large, and touched all over.
    """
    share_freed_memory()  # the arenas of threads are too small for large buffers
    _set(_TRIM_THRESHOLD, _KEPT)
    _set(_MMAP_THRESHOLD, _KEPT)
    if sys.platform == "linux":
        _take_large_pages()


def share_freed_memory() -> None:
    """Let the threads of this process share one heap, where the C library is glibc; before there are any.

    With one for each thread, what one has freed is not there for the others: for commands that stream.
    """
    _set(_ARENAS, 1)


def _take_large_pages() -> None:
    """Have the heap reach further, which takes no memory before it is touched, and ask for large pages there."""
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    _set(_TOP_PAD, _LARGE)
    libc.free(libc.malloc(2**26))  # more than is left of the heap as it is
    _set(_TOP_PAD, 2**17)  # glibc's own
    try:
        maps = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")
    except OSError:  # a system that shows no process to itself: it goes without
        return
    for line in maps.splitlines():
        if line.endswith("[heap]"):
            first, last = (int(end, 16) for end in line.split()[0].split("-"))
            libc.madvise(first, last - first, _MADV_HUGEPAGE)  # where there are none, all stays as it is


def _set(parameter: int, value: int) -> None:
    libc = ctypes.CDLL(None)
    if hasattr(libc, "gnu_get_libc_version"):
        libc.mallopt(parameter, value)


def keep_programs() -> None:
    """Let jax keep what it compiles for later runs: in `~/.cache/jam_jax`, or where JAX_COMPILATION_CACHE_DIR says."""
    import jax

    if jax.config.values["jax_compilation_cache_dir"] is None:
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(root / "jam_jax"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", _COMPILED)
