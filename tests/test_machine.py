"""The machine in words, and memory that is freed and kept."""

import os
import platform
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from jam_jax.machine import machine

FAULTS = """
import ctypes, resource, sys
from jam_jax.machine import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
for _ in range(20):  # 64 MiB, as a program's buffer: more than glibc keeps by itself
    buffer = libc.malloc(2**26)
    ctypes.memset(buffer, 1, 2**26)
    libc.free(buffer)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
"""


def test_the_machine_is_told_by_its_size():
    cores, rest = machine().split(" cores, ")
    assert int(cores) > 0 and int(rest.split(" GiB")[0]) > 0


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator is another C library's")
def test_freed_memory_is_kept_for_the_next_step():
    small = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}  # pages, none large

    def faults(how):
        command = [sys.executable, "-c", FAULTS, how]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=small)
        return int(done.stdout)

    pages = 2**26 // resource.getpagesize()
    assert faults("keep") < 2 * pages  # the first round's, and the interpreter's own
    assert faults("give back") > 10 * pages


PAGES = """
import ctypes, sys
from pathlib import Path
from jam_jax.machine import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
ctypes.memset(ctypes.c_void_p(libc.malloc(ctypes.c_size_t(2**26))), 1, 2**26)
print(Path("/proc/self/smaps_rollup").read_text().split("AnonHugePages:")[1].split()[0])
"""


def large_pages() -> bool:
    """Whether the system gives large pages to who asks for them, and to nobody else."""
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    return setting.exists() and "[madvise]" in setting.read_text()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator is another C library's")
@pytest.mark.skipif(not large_pages(), reason="the system gives no large pages when it is asked, or always")
def test_memory_that_is_kept_has_large_pages():
    small = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}

    def kilobytes(how):
        command = [sys.executable, "-c", PAGES, how]
        return int(subprocess.run(command, capture_output=True, text=True, check=True, env=small).stdout)

    assert kilobytes("keep") > 2**15  # half of what was touched, at least
    assert kilobytes("leave") < 2**12


HEAPS = """
import ctypes, sys, threading
from jam_jax.machine import share_freed_memory
if sys.argv[1] == "share":
    share_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.fdopen.restype = ctypes.c_void_p, ctypes.c_void_p
together = threading.Barrier(4)
def allocate():
    together.wait()
    libc.malloc(1000)
    together.wait()
threads = [threading.Thread(target=allocate) for _ in range(4)]
[thread.start() for thread in threads], [thread.join() for thread in threads]
out = ctypes.c_void_p(libc.fdopen(1, b"w"))
libc.malloc_info(0, out), libc.fflush(out)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator is another C library's")
def test_threads_share_one_heap():
    def heaps(how):
        done = subprocess.run([sys.executable, "-c", HEAPS, how], capture_output=True, text=True, check=True)
        return done.stdout.count("<heap nr=")

    assert heaps("share") == 1 < heaps("own")
