"""What contests have in common: servers, processes, and what they cost.

CPU time is counted by process, as the kernel has it; on a machine that others use,
too, it says more than seconds do.
"""

from __future__ import annotations

import os
import platform
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psycopg
from psycopg import sql

from toolkit import servers_watchdog as watchdog
from toolkit.servers import SETTINGS, Server

STEP_S_MAX = 900.0
POLL_S = 0.02
_TICKS = os.sysconf("SC_CLK_TCK")


class Failed(Exception):
    """A contestant did not do what was measured."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds of CPU."""

    source: float
    target: float
    client: float

    @property
    def all(self) -> float:
        """On all processes together."""
        return self.source + self.target + self.client

    def since(self, before: Cost) -> Cost:
        """What was spent after `before`."""
        return Cost(
            round(self.source - before.source, 2),
            round(self.target - before.target, 2),
            round(self.client - before.client, 2),
        )


class Process:
    """A process of ours, which is ended with the block."""

    def __init__(self, command: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
        self._log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(30)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def wait(self, timeout_s: float) -> None:
        """Return when it has ended; Failed, with what it said, if it did not end well."""
        if self._process.wait(timeout_s):
            raise Failed(self._log.read_text(errors="replace")[-2000:])

    def require_alive(self) -> None:
        """Raise Failed, with what it said, if it has ended."""
        if self._process.poll() is not None:
            raise Failed(self._log.read_text(errors="replace")[-2000:])

    @property
    def cpu_s(self) -> float:
        """What it has spent."""
        return _spent(self._process.pid)[0]

    @property
    def peak_mb(self) -> float:
        """The most memory that it has had."""
        text = Path(f"/proc/{self._process.pid}/status").read_text()
        found = re.search(r"VmHWM:\s+(\d+) kB", text)
        return round(int(found[1]) / 1024, 1) if found else 0.0


def cpu_s(server: Server) -> float:
    """What a server has spent, in processes that live and those that have ended."""
    postmaster = int((server.data_dir / "postmaster.pid").read_text().split()[0])
    total = sum(_spent(postmaster))
    for pid in watchdog.processes_of(server.data_dir):
        if pid != postmaster:
            total += _spent(pid)[0]
    return total


def _spent(pid: int) -> tuple[float, float]:
    """Of a process, and of its children that have ended and were waited for."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0.0, 0.0
    fields = text.rpartition(")")[2].split()
    user, system, children_user, children_system = map(int, fields[11:15])
    return (user + system) / _TICKS, (children_user + children_system) / _TICKS


def execute(dsn: str, *statements: sql.Composed | str) -> None:
    """Run statements, each in a transaction of its own."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        for one in statements:
            connection.execute(one.encode() if isinstance(one, str) else one)


def wait(
    dsn: str, question: str, *, poll_s: float = POLL_S, meanwhile: Callable[[], None] | None = None
) -> float:
    """Return as soon as the answer is true, and tell when that was."""
    deadline = time.monotonic() + STEP_S_MAX
    with psycopg.connect(dsn, autocommit=True) as connection:
        while connection.execute(question.encode()).fetchone() != (True,):
            if time.monotonic() > deadline:
                raise Failed(f"not true within {STEP_S_MAX:.0f} s: {question}")
            if meanwhile:
                meanwhile()
            time.sleep(poll_s)
    return time.monotonic()


def fingerprint(dsn: str, tables: Iterable[str]) -> dict[str, tuple[Any, ...] | None]:
    """Rows of each table, and a sum over their hashes."""
    query = sql.SQL("SELECT count(*), sum(hashtextextended(t::text, 0)) FROM {} AS t")
    with psycopg.connect(dsn) as connection:
        return {
            table: connection.execute(query.format(sql.Identifier(table))).fetchone()
            for table in tables
        }


def machine() -> dict[str, Any]:
    """Where this was measured."""
    return {
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "settings": dict(SETTINGS),
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
