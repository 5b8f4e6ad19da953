"""What the benchmarks have in common: servers, programs and what they cost.

CPU seconds are counted by the kernel: of a program and all that it has started, when it
has ended; of a server, from its postmaster and its children, the ended ones included.
"""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from toolkit.accounts import choose_account, give
from toolkit.servers import SETTINGS, Server

STEP_S_MAX = 1800.0
POLL_S = 0.02
_TICKS = os.sysconf("SC_CLK_TCK")


class Failed(Exception):
    """A contestant did not do what was measured."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What a piece of work took."""

    seconds: float
    client_cpu_s: float = 0.0
    source_cpu_s: float = 0.0
    target_cpu_s: float = 0.0
    client_peak_mb: float = 0.0  # of the largest process

    @property
    def cpu_s(self) -> float:
        """On all machines together."""
        return self.client_cpu_s + self.source_cpu_s + self.target_cpu_s

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.seconds + other.seconds,
            self.client_cpu_s + other.client_cpu_s,
            self.source_cpu_s + other.source_cpu_s,
            self.target_cpu_s + other.target_cpu_s,
            max(self.client_peak_mb, other.client_peak_mb),
        )


@dataclass(frozen=True, slots=True)
class Ended:
    """A program that has ended well."""

    seconds: float
    cpu_s: float
    peak_mb: float
    lines: tuple[tuple[float, str], ...]  # of its output, with the seconds at which they came


def run(command: Sequence[str], cwd: Path, environment: Mapping[str, str] | None = None) -> Ended:
    """Run a program to its end; raises Failed with what it said if that is no good one."""
    began = time.monotonic()
    lines = []
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
        )
        assert process.stdout is not None  # noqa: S101
        with process.stdout:
            lines = [(time.monotonic() - began, line) for line in process.stdout]
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.monotonic() - began
        if process.returncode:
            said.seek(0)
            raise Failed(
                f"{shlex.join(command)}: exit code {process.returncode}\n{said.read()[-4000:]}"
            )
    return Ended(seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, tuple(lines))


def shell(script: str, cwd: Path) -> Ended:
    """Run a script; a pipe fails with any of its programs."""
    return run(["bash", "-c", f"set -e -o pipefail\n{script}"], cwd)


def server_cpu_s(server: Server) -> float:
    """CPU seconds of a server since its start."""
    postmaster = int((server.data_dir / "postmaster.pid").read_text().split()[0])
    while True:
        before = _times(postmaster)
        total = sum(before)
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rpartition(") ")[2].split()
            except OSError:
                continue
            if int(fields[1]) == postmaster:
                total += int(fields[11]) + int(fields[12])
        # A session that ended meanwhile may be in neither: it is counted with the ended ones now.
        if _times(postmaster)[2:] == before[2:]:
            return total / _TICKS


def _times(pid: int) -> list[int]:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return [int(field) for field in fields[11:15]]


def measured(source: Server, target: Server, work: Callable[[], Sequence[Ended]]) -> Cost:
    """What a piece of work costs; `work` returns the programs that it ran."""
    before = [server_cpu_s(one) for one in (source, target)]
    began = time.monotonic()
    ended = work()
    seconds = time.monotonic() - began
    after = [server_cpu_s(one) for one in (source, target)]
    return Cost(
        seconds=round(seconds, 3),
        client_cpu_s=round(sum(one.cpu_s for one in ended), 2),
        source_cpu_s=round(after[0] - before[0], 2),
        target_cpu_s=round(after[1] - before[1], 2),
        client_peak_mb=round(max((one.peak_mb for one in ended), default=0.0), 1),
    )


def encrypt(server: Server) -> bool:
    """Have a server take TLS connections; False if it was built without."""
    if not ask(server.dsn(), "SELECT current_setting('ssl_library')")[0][0]:
        return False
    certificate, key = server.data_dir / "server.crt", server.data_dir / "server.key"
    run(
        shlex.split(
            "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost"
            f" -out {shlex.quote(str(certificate))} -keyout {shlex.quote(str(key))}"
        ),
        server.root,
    )
    for path in (certificate, key):
        path.chmod(0o600)
        give(path, choose_account())
    execute(server.dsn(), "ALTER SYSTEM SET ssl = on")
    execute(server.dsn(), "SELECT pg_reload_conf()")
    wait(server.dsn(), "SELECT current_setting('ssl')::bool")
    return True


def execute(dsn: str, statement: sql.SQL | sql.Composed | str) -> None:
    """Run a statement."""
    query = sql.SQL(statement) if isinstance(statement, str) else statement
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(query)


def ask(dsn: str, query: sql.SQL | sql.Composed | str) -> list[tuple[Any, ...]]:
    """The rows of a query."""
    question = sql.SQL(query) if isinstance(query, str) else query
    with psycopg.connect(dsn, autocommit=True) as connection:
        return connection.execute(question).fetchall()


def wait(dsn: str, question: sql.SQL | sql.Composed | str) -> None:
    """Return as soon as the answer is true."""
    deadline = time.monotonic() + STEP_S_MAX
    query = sql.SQL(question) if isinstance(question, str) else question
    with psycopg.connect(dsn, autocommit=True) as connection:
        while connection.execute(query).fetchone() != (True,):
            if time.monotonic() > deadline:
                raise Failed(f"not true within {STEP_S_MAX:.0f} s: {query.as_string(connection)}")
            time.sleep(POLL_S)


def fingerprint(dsn: str, tables: Sequence[str]) -> list[tuple[Any, ...]]:
    """Rows of each table, and a sum over their hashes."""
    query = sql.SQL("SELECT count(*), sum(hashtextextended(t::text, 0)) FROM {} AS t")
    with psycopg.connect(dsn) as connection:
        return [row for t in tables for row in connection.execute(query.format(sql.Identifier(t)))]


def machine() -> dict[str, Any]:
    """Where this was measured."""
    return {
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "settings": dict(SETTINGS),
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def tell(what: str) -> None:
    """Say how far it is."""
    print(what, file=sys.stderr, flush=True)
