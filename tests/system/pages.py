# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which pages of a guest's memory are in memory, by the kernel's word and not by memoc's."""

import contextlib
import ctypes
import mmap
import os

PAGE = 4096
PRESENT, SWAPPED = 1 << 7, 1 << 6  # in the last byte of an entry of pagemap
LOWEST_BIT = bytes(byte & 1 for byte in range(256))  # of what mincore says; the others mean nothing
PROCESS_MADVISE, MADV_PAGEOUT = 440, 21
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.mmap.restype = ctypes.c_void_p
LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]


def mapping(pid, size_bytes):
    """(start, end) of the writable mapping of that size."""
    with open(f"/proc/{pid}/maps", encoding="utf-8", errors="replace") as maps:
        ranges = [tuple(int(word, 16) for word in line.split()[0].split("-")) for line in maps if " rw" in line]
    return next((start, end) for start, end in ranges if end - start == size_bytes)


def fill_and_page_out(pid, size_bytes, fill_bytes):
    """Writes to so much of a mapping of that size, from its start, which its owner has not touched, and has it swapped out."""
    start, _ = mapping(pid, size_bytes)
    with open(f"/proc/{pid}/mem", "r+b", buffering=0) as memory:
        for at in range(0, fill_bytes, 1 << 20):
            os.pwrite(memory.fileno(), os.urandom(1024) * 1024, start + at)
    pidfd = os.pidfd_open(pid)
    try:
        iovec = (ctypes.c_size_t * 2)(start, fill_bytes)
        if LIBC.syscall(ctypes.c_long(PROCESS_MADVISE), pidfd, iovec, ctypes.c_size_t(1), MADV_PAGEOUT, 0) < 0:
            raise OSError(ctypes.get_errno(), "process_madvise")
    finally:
        os.close(pidfd)


def entries_of(pid, size_bytes):
    """The last byte of each entry of pagemap, of the mapping of that size."""
    start, end = mapping(pid, size_bytes)
    with open(f"/proc/{pid}/pagemap", "rb", buffering=0) as pagemap:
        return os.pread(pagemap.fileno(), (end - start) // PAGE * 8, start // PAGE * 8)[7::8]


def swapped_bytes(pid, size_bytes):
    """What only swap has of the private memory of that size."""
    return sum(byte & (PRESENT | SWAPPED) == SWAPPED for byte in entries_of(pid, size_bytes)) * PAGE


def present_pages(guest, size_bytes):
    """A byte for each page of the guest's memory of that size, private or shared: 1 where it is in memory, and not only in swap."""
    if guest.memfd:
        with contextlib.closing(SharedMemory(guest.pid, size_bytes)) as shared:
            return shared.present()
    return bytes(byte >> 7 for byte in entries_of(guest.pid, size_bytes))


class SharedMemory:
    """The file behind a guest's shared memory: which of its pages were never allocated, and which of those are in memory."""

    def __init__(self, pid, size):
        self.size = size
        self.fd = next(os.open(f"/proc/{pid}/fd/{name}", os.O_RDWR) for name in os.listdir(f"/proc/{pid}/fd")
                       if "memory-backend" in os.readlink(f"/proc/{pid}/fd/{name}"))
        self.at = LIBC.mmap(None, size, 0, mmap.MAP_SHARED, self.fd, 0)
        self.holes = self._holes()

    def _holes(self):
        holes, at = [], 0
        while at < self.size:
            at = os.lseek(self.fd, at, os.SEEK_HOLE)
            if at >= self.size:
                break
            try:
                end = os.lseek(self.fd, at, os.SEEK_DATA)
            except OSError:  # no data behind it
                end = self.size
            holes.append((at // PAGE, end // PAGE))
            at = end
        return holes

    def untouched_bytes(self):
        return sum(end - start for start, end in self.holes) * PAGE

    def present(self):
        """A byte for each page: 1 where it is in memory, which it is in the swap cache, too."""
        found = ctypes.create_string_buffer(self.size // PAGE)
        if LIBC.mincore(ctypes.c_void_p(self.at), ctypes.c_size_t(self.size), found):
            raise OSError(ctypes.get_errno(), "mincore")
        return found.raw.translate(LOWEST_BIT)

    def zero_resident_bytes(self):
        present = self.present()
        return sum(present[start:end].count(1) for start, end in self.holes) * PAGE

    def close(self):
        LIBC.munmap(ctypes.c_void_p(self.at), ctypes.c_size_t(self.size))
        os.close(self.fd)
