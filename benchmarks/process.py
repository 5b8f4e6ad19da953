"""A process that goes on while others are looked at: what it spends, and what is seen meanwhile."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import psycopg
from psycopg import sql

from benchmarks.contest import POLL_S, STEP_S_MAX, Failed

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Spent:
    """Seconds of CPU."""

    source: float
    target: float
    client: float

    @property
    def all(self) -> float:
        """On all processes together."""
        return self.source + self.target + self.client

    def since(self, before: Spent) -> Spent:
        """What was spent after `before`."""
        return Spent(
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
        return _cpu_s(self._process.pid)

    @property
    def peak_mb(self) -> float:
        """The most memory that it has had."""
        text = Path(f"/proc/{self._process.pid}/status").read_text()
        found = re.search(r"VmHWM:\s+(\d+) kB", text)
        return round(int(found[1]) / 1024, 1) if found else 0.0


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def execute_all(dsn: str, *statements: sql.Composed | str) -> None:
    """Run statements, each in a transaction of its own."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        for one in statements:
            connection.execute(one.encode() if isinstance(one, str) else one)


def when(
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
