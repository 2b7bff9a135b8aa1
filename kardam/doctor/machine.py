"""This machine: libraries, threads, a port, a place for tokens, the event loop, the disk.

Each look ends in a Finding, and leaves nothing behind.
"""

import asyncio
import importlib.metadata
import os
import platform
import re
import shutil
import socket
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import zmq

from kardam.doctor.finding import Finding, fail, ok, warn
from kardam.errors import Unreachable, Unwritable, UsageError
from kardam.keys import Pass, publish

# Whose versions are told; of the others only what is wrong with them.
TOLD = ("numpy", "pyzmq", "torch", "uvloop")

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

# The loop is asked to wake so many times, after so many seconds. A worker is lost after half a
# minute, so lateness costs speed, and not the run.
WAKES, WAKE_SECONDS, LATE_SECONDS = 40, 0.005, 0.05

# Writes of 4 KiB, each followed by an fsync. A checkpoint waits for four, off the loop.
FSYNCS, SLOW_FSYNC_SECONDS = 5, 0.1

# Bytes. A journal grows by 300 a gradient: a gigabyte in some three million.
ROOM, ROOM_AT_LEAST = 2**30, 2**26


def libraries() -> Iterator[Finding]:
    """kardam itself, and what it is installed with against what its own metadata ask for."""
    kardam = importlib.metadata.version("kardam")
    machine = f"{platform.system()} {platform.release()}, {platform.machine()}"
    yield ok("kardam", f"{kardam} on Python {platform.python_version()}, {machine}")
    found, wrong = [], []
    for name, least in needed(importlib.metadata.requires("kardam") or []).items():
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{name} is not installed")
            continue
        if numbers(version) < numbers(least):
            wrong.append(f"{name} {version} is older than {least}")
        if name in TOLD:
            found.append(f"{name} {version}")
    told = ", ".join([*found, f"libzmq {zmq.zmq_version()}"])
    if wrong:
        cure = "install kardam again into this environment: pip install --upgrade ."
        yield fail("libraries", "; ".join(wrong), cure, UsageError.code)
    else:
        yield ok("libraries", told)


def needed(requirements: list[str]) -> dict[str, str]:
    """Of `name>=version` lines, the versions by name; what only an extra needs is left out."""
    parts = (re.fullmatch(r"([\w.-]+)\s*>=\s*([\d.]+)", line) for line in requirements)
    return {part[1]: part[2] for part in parts if part is not None}


def numbers(version: str) -> tuple[int, ...]:
    """`2.13.0+cpu` as (2, 13, 0)."""
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0]))


def threads(environment: Mapping[str, str]) -> Finding:
    """One compute thread a process: there are as many processes as workers."""
    processors = os.cpu_count() or 1
    many = [f"{name}={environment[name]}" for name in THREADS if environment.get(name, "1") != "1"]
    if not many:
        return ok("threads", f"one a process; {processors} processors")
    names = " ".join(part.partition("=")[0] for part in many)
    return warn(
        "threads",
        f"{', '.join(many)}; {processors} processors",
        f"unset {names}: every worker is a process, and they would wait for each other",
    )


def port() -> Finding:
    """Whether loopback has a port to listen on."""
    try:
        with socket.create_server(("127.0.0.1", 0)) as door:
            return ok("port", f"127.0.0.1 gives one: {door.getsockname()[1]} was free")
    except OSError as error:
        cure = "give loopback back to this process; a container or sandbox may have taken it"
        return fail("port", f"127.0.0.1: {error.strerror}", cure, Unreachable.code)


def token() -> Finding:
    """Where a server leaves the token that `kardam stats` of the same user finds."""
    try:
        path = publish(f"doctor:{os.getpid()}", Pass("nobody's"))
        path.unlink()
    except Unwritable as error:
        return warn(
            "token",
            str(error),
            "set XDG_RUNTIME_DIR to a directory of yours; else give kardam stats its --token",
        )
    folder = path.parent
    mode = folder.stat().st_mode & 0o777
    if mode & 0o077:
        return warn("token", f"{folder} has mode {mode:o}: others may look", f"chmod 700 {folder}")
    return ok("token", f"{folder}, for this user alone")


async def loop() -> Finding:
    """How late the event loop wakes. Run it in the loop that is meant."""
    late = []
    for _ in range(WAKES):
        due = time.perf_counter() + WAKE_SECONDS
        await asyncio.sleep(WAKE_SECONDS)
        late.append(time.perf_counter() - due)
    kind = type(asyncio.get_running_loop()).__module__.partition(".")[0]
    median, most = 1e3 * statistics.median(late), 1e3 * max(late)
    told = f"{kind} wakes {median:.1f} ms late, {most:.1f} at most"
    if max(late) <= LATE_SECONDS:
        return ok("loop", told)
    busy = f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors"
    return warn("loop", f"{told}; {busy}", "end what else runs here, or expect a slower run")


def disk(folder: Path) -> Finding:
    """Whether runs can be kept in this directory, which need not exist yet, and how fast."""
    there = folder.absolute()
    while not there.exists():
        there = there.parent
    try:
        free = shutil.disk_usage(there).free
        with tempfile.TemporaryFile(dir=there) as file:
            took = statistics.median(_fsync(file.fileno()) for _ in range(FSYNCS))
    except OSError as error:
        cure = "run from a directory that you may write to, or name one with --out"
        return fail("disk", f"{there}: {error.strerror}", cure, Unwritable.code)
    told = f"{there}: {free / 2**30:,.1f} GiB free, an fsync takes {1e3 * took:.1f} ms"
    if free < ROOM_AT_LEAST:
        return fail("disk", told, "make room, or name another disk with --out", Unwritable.code)
    if free < ROOM:
        return warn("disk", told, "make room: a long run keeps a line for every gradient")
    if took > SLOW_FSYNC_SECONDS:
        return warn("disk", told, "name a faster disk with --out, or keep fewer checkpoints")
    return ok("disk", told)


def _fsync(descriptor: int) -> float:
    """Seconds until 4 KiB are safe."""
    begun = time.perf_counter()
    os.write(descriptor, bytes(4096))
    os.fsync(descriptor)
    return time.perf_counter() - begun
