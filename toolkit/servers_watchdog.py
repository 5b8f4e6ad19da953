"""Removes a throw-away server once the process that started it is gone.

`toolkit.servers` runs this file as a process of its own, with the read end of a
pipe as its standard input.  The kernel closes the write end however the parent
dies, kill -9 included, so end of file means: stop the server, remove its
directory.  A parent-death signal would not do: it is cleared when privileges are
dropped, and it follows the parent's thread instead of its process (prctl(2)).

The processes are found in /proc by what anyone may read there.  The working
directory would be simpler, but in a container root may not look at that of
another user's process.

Run by path with ``-I -S``: the standard library is all that may be imported.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

KEEP = b"keep"  # said by a parent that wants its server to outlive it
QUIT_S_MAX = 8.0  # the postmaster itself gives its children 5 s before it kills them
REMOVE_S_MAX = 30.0
POLL_S = 0.01
_IPC_RMID = 0  # <sys/ipc.h>


def processes_of(data_dir: Path) -> set[int]:
    """The postmaster (or initdb) of a data directory and all that descend from it."""
    found = {pid for pid in _pids() if _serves(pid, str(data_dir))}
    parents = {pid: stat[1] for pid in _pids() if (stat := _stat(pid))}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def living(pids: Iterable[int]) -> set[int]:
    """Those that still run; a zombie is only waiting to be counted."""
    return {pid for pid in pids if (stat := _stat(pid)) and stat[0] not in "ZX"}


def send(signum: signal.Signals, pids: Iterable[int]) -> None:
    """Signal processes, some of which may have ended meanwhile."""
    for pid in pids:
        try:
            os.kill(pid, signum)
        except ProcessLookupError:
            continue


def wait_until(condition: Callable[[], bool], *, timeout_s: float) -> bool:
    """Whether the condition came true in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


def end(data_dir: Path) -> None:
    """Stop whatever serves the directory, at once, and free its System V segment."""
    pids = living(processes_of(data_dir))
    send(signal.SIGQUIT, {pid for pid in pids if _serves(pid, str(data_dir))})
    if not wait_until(lambda: not living(pids), timeout_s=QUIT_S_MAX):
        send(signal.SIGKILL, pids | processes_of(data_dir))
        wait_until(lambda: not living(pids), timeout_s=QUIT_S_MAX)
    _free_shared_memory(data_dir)


def remove(directory: Path) -> bool:
    """End the server in `directory`, and delete it; whether that worked."""

    def gone() -> bool:
        end(directory / "data")  # again each time: a postmaster may just be starting
        shutil.rmtree(directory, ignore_errors=True)
        return not directory.exists()

    return wait_until(gone, timeout_s=REMOVE_S_MAX)


def _free_shared_memory(data_dir: Path) -> None:
    """Free the segment of a postmaster that was killed; 7th line of its lock file."""
    try:
        segment = int((data_dir / "postmaster.pid").read_text().splitlines()[6].split()[1])
    except (OSError, IndexError, ValueError):
        return  # stopped properly, or never got that far
    ctypes.CDLL(None).shmctl(segment, _IPC_RMID, None)


def _pids() -> list[int]:
    return [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]  # noqa: PTH208 - 4 times faster


def _serves(pid: int, data_dir: str) -> bool:
    try:
        argv = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return os.path.basename(argv[0]) in {b"postgres", b"initdb"} and data_dir.encode() in argv  # noqa: PTH119 - bytes


def _stat(pid: int) -> tuple[str, int] | None:
    """State and parent of a process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return fields[0], int(fields[1])


def main() -> None:
    """Wait for the parent's end, then clean up after it."""
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)
    if sys.stdin.buffer.read() != KEEP:
        sys.exit(0 if remove(Path(sys.argv[1])) else 1)


if __name__ == "__main__":
    main()
