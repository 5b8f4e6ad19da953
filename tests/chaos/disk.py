"""A small disk that can be filled up; it is a file system in memory, so that root is needed."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SIZE_MB = 1200
MOUNT_S_MAX = 10
TRIES_MAX = 50


class Disk:
    """Where a server's files lie."""

    def __init__(self, place: Path, *, is_small: bool) -> None:
        self.place = place
        self.is_small = is_small
        self._ballast = place / "ballast"

    def fill(self, *, free_bytes: int = 0) -> None:
        """Leave so many bytes, or what others have taken before we did."""
        with self._ballast.open("wb") as ballast:
            for _ in range(TRIES_MAX):
                found = os.statvfs(self.place)
                size = found.f_bavail * found.f_frsize - free_bytes
                if size <= 0:
                    return
                with contextlib.suppress(OSError):  # in between somebody took some of it
                    os.posix_fallocate(ballast.fileno(), 0, size)
                    return

    def empty(self) -> None:
        """Give the space back."""
        self._ballast.unlink(missing_ok=True)


@contextmanager
def disk() -> Iterator[Disk]:
    """A disk of its own; where none can be mounted, a directory that is never full."""
    with tempfile.TemporaryDirectory(prefix="dbsplit-disk-") as place:
        Path(place).chmod(0o755)
        small = _mount(place)
        try:
            yield Disk(Path(place), is_small=small)
        finally:
            if small:
                subprocess.run(["umount", place], check=True, timeout=MOUNT_S_MAX)  # noqa: S607


def _mount(place: str) -> bool:
    if os.geteuid():
        return False
    options = f"size={SIZE_MB}m,mode=755"
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", place],  # noqa: S607
        capture_output=True,
        timeout=MOUNT_S_MAX,
        check=False,
    )
    return done.returncode == 0
