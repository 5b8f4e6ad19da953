"""Measures `dbsplit compare` against reladiff, data-diff and what the servers can do at all.

    python -m benchmarks.compare --json result.json
    python -m benchmarks.compare --rows 500000 --delay-ms 10 --many 2000 --growth

Theory of operation.  Two servers hold the same table.  Each contestant compares it when
nothing differs, when 100 scattered rows do, and when one row in a hundred does; each is
a process from its start to its end, and has to find exactly what was planted, or it has
no time.  The limit is what both servers need to read the table once, at the same time,
with the hash that PostgreSQL has for whole rows, `hash_record_extended`: it is unsound,
so nobody can compare by it, and it is charged no client.  The peers are installed into
virtual environments of their own; every client has its modules compiled beforehand.

CPU is that of both servers and the client together, which a busy machine changes least.
In several rounds the contestants take turns, and the round with the least CPU counts.
The bytes that cross the wire, and how often a client waits for an answer before it can
go on (of both sides together), are counted by a proxy, in a run of their own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import psycopg

from benchmarks.compare_tables import (
    MIXED,
    ROWS_OF_SMALL,
    Servers,
    fill_many,
    planted,
    wide,
)
from benchmarks.contest import Failed, machine, tell
from benchmarks.proxy import Proxy
from toolkit.servers import start_server

PEERS = {
    "reladiff": ("reladiff==0.6.0", "psycopg2-binary"),
    "data-diff": ("data-diff==0.11.2", "dbt-core<1.9", "pydantic<2", "psycopg2-binary"),
}
OURS, LIMIT = "dbsplit compare", "limit"
DBSPLIT = Path(sys.executable).parent / "dbsplit"
RUN_S_MAX = 3600.0
SETTLE_S = "0.1"
ENDED_S = 0.3  # for the servers' processes to end, and be counted
WIDE_COLUMNS = 100
WARM_ROWS = 300_000  # more than a unit: all of ours is loaded
GROWING_ROWS = (125_000, 250_000, 500_000, 1_000_000)
GROWING_DIFFERENCES = (100, 1_000, 10_000, 100_000)
GROWING_COLUMNS = (10, 50, 100, 200)
ROWS_OF_COLUMNS = 50_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What one contestant took."""

    table: str
    rows: int
    differences: int
    contestant: str
    wall_s: float
    cpu_s: float
    client_cpu_s: float
    client_mb: float
    load: float
    wire_mb: float | None = None
    round_trips: int | None = None


@dataclass(frozen=True, slots=True)
class Client:
    """What became of a contestant's process."""

    found: int
    cpu_s: float = 0
    peak_mb: float = 0


@dataclass(frozen=True, slots=True)
class Contest:
    """A table as it is now."""

    servers: Servers
    table: str
    rows: int
    differences: int

    def timed(self, contestant: str, work: Callable[[], Client]) -> Run:
        """Have it done; Failed if it did not find what was planted."""
        load, cpu, began = os.getloadavg()[0], self.servers.cpu_s(), time.monotonic()
        client = work()
        wall_s = time.monotonic() - began
        time.sleep(ENDED_S)
        cpu_s = self.servers.cpu_s() - cpu + client.cpu_s
        if client.found != self.differences:
            raise Failed(f"{contestant} found {client.found} differences of {self.differences}")
        said = f"{wall_s:.1f} s, CPU {cpu_s:.2f} s, of which the client {client.cpu_s:.2f} s"
        tell(f"{self.table}, {self.rows:,}, {self.differences:,} differ, {contestant}: {said}")
        return Run(
            table=self.table,
            rows=self.rows,
            differences=self.differences,
            contestant=contestant,
            wall_s=round(wall_s, 2),
            cpu_s=round(cpu_s, 2),
            client_cpu_s=round(client.cpu_s, 2),
            client_mb=round(client.peak_mb, 1),
            load=round(load, 1),
        )


def main() -> None:
    """Measure, print the table, write the JSON."""
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options.add_argument("--rows", type=int, default=5_000_000)
    options.add_argument("--wide-rows", type=int, default=200_000)
    options.add_argument("--differ", type=int, nargs="*", help="[0, 100 and one row in a hundred]")
    options.add_argument("--rounds", type=int, default=1)
    options.add_argument("--peers", type=Path, help="where they are, or will be, installed")
    options.add_argument("--only", nargs="*", choices=[LIMIT, OURS, *PEERS])
    options.add_argument("--no-wire", action="store_true", help="do not count bytes: no more runs")
    options.add_argument("--growth", action="store_true", help="by rows, columns and differences")
    options.add_argument("--many", type=int, default=0, help="compare so many small tables, too")
    options.add_argument("--delay-ms", type=float, default=0, help="each way, of runs of their own")
    options.add_argument("--json", type=Path)
    chosen = options.parse_args()
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        os.environ["PYTHONPYCACHEPREFIX"] = str(scratch / "compiled")
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        servers = Servers(*(start_server(version="18") for _ in range(2)))
        for server in servers.both:
            stack.callback(server.discard)
        runs: list[Run] = []
        for run in _all(servers, chosen.peers or scratch, chosen):
            runs.append(run)
            if chosen.json:  # after each: a long run may be stopped
                told = {"machine": machine(), "runs": [asdict(run) for run in runs]}
                chosen.json.write_text(json.dumps(told, indent=2))
    print(table(runs))


def _all(servers: Servers, peers: Path, chosen: argparse.Namespace) -> Iterator[Run]:
    wanted = chosen.only or [LIMIT, OURS, *PEERS]
    programs = {LIMIT: None, OURS: DBSPLIT} | {
        name: _installed(peers, name) for name in PEERS if name in wanted
    }
    rivals = {name: program for name, program in programs.items() if name in wanted}
    rivals = _that_run(servers, rivals)
    for name, rows, fill in (
        ("mixed", chosen.rows, MIXED),
        ("wide", chosen.wide_rows, wide(WIDE_COLUMNS)),
    ):
        differ = chosen.differ or (0, 100, rows // 100)
        for differences in planted(servers, rows, fill, differ) if rows else ():
            contest = Contest(servers, name, rows, differences)
            runs = _contested(contest, rivals, chosen.rounds)
            yield from runs if chosen.no_wire else (_counted(run, contest, rivals) for run in runs)
            if chosen.delay_ms:
                yield _delayed(contest, ["--tables", "t"], chosen.delay_ms)
    if chosen.growth:
        yield from _growing(servers, chosen.rounds)
    if chosen.many:
        fill_many(servers, chosen.many)
        contest = Contest(servers, f"{chosen.many:,} small", chosen.many * ROWS_OF_SMALL, 0)
        for delay_ms in sorted({0.0, chosen.delay_ms}):
            yield _delayed(contest, [], delay_ms)


def _that_run(servers: Servers, rivals: Mapping[str, Path | None]) -> dict[str, Path | None]:
    """Those that can be run; each has run once, so its modules are compiled, as pip leaves them."""
    able: dict[str, Path | None] = {}
    for differences in planted(servers, WARM_ROWS, MIXED, (1,)):
        contest = Contest(servers, "to warm up", WARM_ROWS, differences)
        for name, program in rivals.items():
            try:
                if program:
                    _direct(contest, name, program)
                able[name] = program
            except Failed as error:
                tell(f"{name} is left out: {error}")
    return able


def _growing(servers: Servers, rounds: int) -> Iterator[Run]:
    """Ours, by rows, by differences and by columns."""
    tables = [("mixed", rows, MIXED) for rows in GROWING_ROWS]
    tables += [(f"{n + 2} columns", ROWS_OF_COLUMNS, wide(n)) for n in GROWING_COLUMNS]
    for name, rows, fill in tables:
        more = GROWING_DIFFERENCES if rows == GROWING_ROWS[-1] else ()
        for differences in planted(servers, rows, fill, (0, *more)):
            contest = Contest(servers, name, rows, differences)
            yield from _contested(contest, {OURS: DBSPLIT}, rounds)


def _contested(contest: Contest, rivals: Mapping[str, Path | None], rounds: int) -> Iterator[Run]:
    """The best round of each."""
    tried: dict[str, list[Run]] = {}
    for _ in range(rounds):
        for name, program in rivals.items():
            if name == LIMIT:
                tried.setdefault(name, []).append(_limit(contest))
            elif program:
                tried.setdefault(name, []).append(_direct(contest, name, program))
    for runs in tried.values():
        yield min(runs, key=lambda run: run.cpu_s)


def _limit(contest: Contest) -> Run:
    def read(dsn: str) -> None:
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute("SET max_parallel_workers_per_gather = 0; SET jit = off")
            connection.execute("SELECT sum(hash_record_extended(t.*, 0)) FROM t")

    def both() -> Client:
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(read, [server.dsn() for server in contest.servers.both]))
        return Client(contest.differences)

    return contest.timed(LIMIT, both)


def _direct(contest: Contest, contestant: str, program: Path) -> Run:
    left, right = (server.dsn() for server in contest.servers.both)
    command = _command(contestant, program, left, right)
    return contest.timed(contestant, lambda: _run(command, contestant))


def _counted(run: Run, contest: Contest, rivals: Mapping[str, Path | None]) -> Run:
    """What the contestant sends and gets, in another run."""
    program = rivals[run.contestant]
    if program is None:
        return run
    with _links(contest.servers, 0) as links:
        _run(_command(run.contestant, program, links[0].dsn, links[1].dsn), run.contestant)
        return _with_counts(run, links)


def _delayed(contest: Contest, words: Sequence[str], delay_ms: float) -> Run:
    """Ours on a slow link."""
    with _links(contest.servers, delay_ms) as links:
        command = [str(DBSPLIT), "compare", *(link.dsn for link in links), *words]
        command += ["--settle", SETTLE_S, "--json"]
        name = f"{OURS}, {2 * delay_ms:g} ms round trip"
        return _with_counts(contest.timed(name, lambda: _run(command, OURS)), links)


def _with_counts(run: Run, links: Sequence[Link]) -> Run:
    return replace(
        run,
        wire_mb=round(sum(link.proxy.bytes for link in links) / 1e6, 2),
        round_trips=sum(link.proxy.turns for link in links),
    )


@dataclass(frozen=True, slots=True)
class Link:
    """A way to one server."""

    proxy: Proxy
    dsn: str


@contextmanager
def _links(servers: Servers, delay_ms: float) -> Iterator[list[Link]]:
    with ExitStack() as stack:
        links = []
        for server in servers.both:
            proxy = stack.enter_context(Proxy(server.port, delay_ms))
            links.append(Link(proxy, server.dsn().replace(f":{server.port}/", f":{proxy.port}/")))
        yield links


def _command(tool: str, program: Path, left: str, right: str) -> list[str]:
    if tool == OURS:
        words = ["--tables", "t", "--settle", SETTLE_S, "--json"]
        return [str(program), "compare", left, right, *words]
    if tool == "data-diff":  # which wants a password even where the server does not
        left, right = (dsn.replace("@", ":any@", 1) for dsn in (left, right))
    return [str(program), left, "t", right, "t", "-k", "id", "-c", "%", "-j", "2"]


def _run(command: Sequence[str], tool: str) -> Client:
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, stdout=output, stderr=errors)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        if process.returncode not in (0, 5):
            errors.seek(0)
            raise Failed(f"{tool}: exit {process.returncode}: {errors.read()[-2000:].decode()}")
        found = _found(output.read().decode(), tool)
    return Client(found, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def _found(text: str, tool: str) -> int:
    if tool == OURS:
        result = json.loads(text.splitlines()[-1])
        return sum(t["missing"] + t["extra"] + t["different"] for t in result["tables"])
    return sum(line.startswith("+ ") for line in text.splitlines())


def _installed(peers: Path, name: str) -> Path | None:
    """The peer's program, installed if need be; None, said aloud, if that is not possible."""
    home = peers / name
    program = home / "bin" / name
    if program.exists():
        return program
    try:
        subprocess.run([sys.executable, "-m", "venv", str(home)], check=True, capture_output=True)
        subprocess.run(
            [str(home / "bin" / "pip"), "install", "-q", *PEERS[name]],
            check=True,
            capture_output=True,
            timeout=RUN_S_MAX,
        )
    except (subprocess.SubprocessError, OSError) as error:
        tell(f"{name} cannot be installed, and is left out: {error}")
        return None
    return program


def table(runs: Sequence[Run]) -> str:
    """The runs, with how much longer than dbsplit each took."""
    lines = [
        "| table | differ | contestant | wall s | CPU s (client) | CPU / dbsplit | wall / dbsplit |"
        " client MB | wire MB | round trips | load |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    ours = {(r.table, r.rows, r.differences): r for r in runs if r.contestant == OURS}
    for run in runs:
        base = ours.get((run.table, run.rows, run.differences))
        cpu = f"{run.cpu_s / base.cpu_s:.2f}" if base else ""
        wall = f"{run.wall_s / base.wall_s:.2f}" if base else ""
        lines.append(
            f"| {run.table}, {run.rows:,} rows | {run.differences:,} | {run.contestant} |"
            f" {run.wall_s:.1f} | {run.cpu_s:.2f} ({run.client_cpu_s:.2f}) | {cpu} | {wall} |"
            f" {run.client_mb or ''} | {'' if run.wire_mb is None else run.wire_mb} |"
            f" {'' if run.round_trips is None else run.round_trips} | {run.load:.0f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
