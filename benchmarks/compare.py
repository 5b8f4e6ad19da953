"""Measures `dbsplit compare` against reladiff, data-diff and what the servers can do at all.

    python benchmarks/compare.py --json result.json
    python benchmarks/compare.py --rows 500000

Theory of operation.  Two servers hold the same table.  Each contestant compares it when
nothing differs, when 100 scattered rows do, and when one row in a hundred does; each is
a process from its start to its end, and has to find exactly what was planted, or it has
no time.  The limit is what both servers need to read the table once, at the same time,
with the cheapest hash that looks at all columns, `hash_record_extended`: it is unsound,
so nobody can compare that cheaply.  The peers are installed into virtual environments
of their own.

CPU is that of both servers and the client together, which a busy machine changes least.
The bytes that cross the wire are counted by a proxy, in a run of their own.
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
from psycopg import sql

from benchmarks.contest import machine
from benchmarks.proxy import Proxy
from toolkit.servers import Server, start_server

PEERS = {"reladiff": "0.6.0", "data-diff": "0.11.2"}
OURS, LIMIT = "dbsplit compare", "limit"
DBSPLIT = Path(sys.executable).parent / "dbsplit"
RUN_S_MAX = 3600.0
SETTLE_S = "0.1"

MIXED = """
CREATE TABLE t (id bigint PRIMARY KEY, customer integer NOT NULL, state text,
    total numeric(12,2), created timestamptz, updated timestamp, ref uuid, active boolean,
    note varchar(80), day date, qty smallint, score double precision);
INSERT INTO t SELECT i, (i * 7919) % 100000, (ARRAY['new','paid','sent','done'])[i % 4 + 1],
    (i % 100000) / 100.0, '2024-01-01+00'::timestamptz + i * interval '1.001 s',
    '2024-01-01'::timestamp + i * interval '0.7 s', md5(i::text)::uuid, i % 3 = 0,
    CASE WHEN i % 5 = 0 THEN NULL ELSE 'note number ' || i || ' of the customer' END,
    '2020-01-01'::date + (i % 2000)::int, i % 1000, sqrt(i)
FROM generate_series(1::bigint, {rows}) AS i
"""
WIDE_KINDS = (
    ("integer", "(i * {n})::int"),
    ("text", "'text {n} of row ' || i"),
    ("numeric", "i / {n}.0"),
    ("timestamptz", "'2024-01-01+00'::timestamptz + i * interval '{n} s'"),
)
_WIDE = [(n, *WIDE_KINDS[n % len(WIDE_KINDS)]) for n in range(1, 101)]
WIDE = "".join(
    [
        "CREATE TABLE t (id bigint PRIMARY KEY, qty smallint, ",
        ", ".join(f"c{n} {kind}" for n, kind, _ in _WIDE),
        "); INSERT INTO t SELECT i, i % 1000, ",
        ", ".join(how.format(n=n) for n, _, how in _WIDE),
        " FROM generate_series(1::bigint, {rows}) AS i",
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What one contestant took."""

    table: str
    rows: int
    differences: int
    contestant: str
    wall_s: float
    cpu_s: float
    client_mb: float
    load: float
    wire_mb: float | None = None


class Failed(Exception):
    """A contestant did not find what was planted."""


@dataclass(frozen=True, slots=True)
class Servers:
    """Both sides."""

    left: Server
    right: Server

    @property
    def both(self) -> tuple[Server, Server]:
        """Left, then right."""
        return self.left, self.right

    def execute(self, *statements: str, right_only: bool = False) -> None:
        """Run statements on both sides."""
        for server in (self.right,) if right_only else self.both:
            with psycopg.connect(server.dsn(), autocommit=True) as connection:
                for statement in statements:
                    connection.execute(sql.SQL(statement))

    def cpu_s(self) -> float:
        """What all their processes have used, those that have ended too."""
        return sum(_cpu_of_tree(_postmaster(server)) for server in self.both)


@dataclass(frozen=True, slots=True)
class Client:
    """What became of a contestant's process."""

    found: int
    cpu_s: float
    peak_mb: float


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
        wall_s, cpu_s = time.monotonic() - began, self.servers.cpu_s() - cpu + client.cpu_s
        if client.found != self.differences:
            raise Failed(f"{contestant} found {client.found} differences of {self.differences}")
        said = f"{wall_s:.1f} s, CPU {cpu_s:.1f} s"
        print(f"{self.table}, {self.differences:,} differ, {contestant}: {said}", file=sys.stderr)
        return Run(
            table=self.table,
            rows=self.rows,
            differences=self.differences,
            contestant=contestant,
            wall_s=round(wall_s, 2),
            cpu_s=round(cpu_s, 2),
            client_mb=round(client.peak_mb, 1),
            load=round(load, 1),
        )


def main() -> None:
    """Measure, print the table, write the JSON."""
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options.add_argument("--rows", type=int, default=5_000_000)
    options.add_argument("--wide-rows", type=int, default=200_000)
    options.add_argument("--peers", type=Path, help="where they are, or will be, installed")
    options.add_argument("--only", nargs="*", choices=[OURS, LIMIT, *PEERS])
    options.add_argument("--many", type=int, default=0, help="compare so many small tables, too")
    options.add_argument(
        "--delay-ms", type=float, default=0, help="each way, of one more run of ours"
    )
    options.add_argument("--json", type=Path)
    chosen = options.parse_args()
    with ExitStack() as stack:
        peers = chosen.peers or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        servers = Servers(*(start_server(version="18") for _ in range(2)))
        for server in servers.both:
            stack.callback(server.discard)
        runs = list(_all(servers, peers, chosen))
    print(table(runs))
    if chosen.json:
        told = {"machine": machine(), "runs": [asdict(run) for run in runs]}
        chosen.json.write_text(json.dumps(told, indent=2))


def _all(servers: Servers, peers: Path, chosen: argparse.Namespace) -> Iterator[Run]:
    wanted = chosen.only or [LIMIT, OURS, *PEERS]
    programs = {OURS: DBSPLIT} if OURS in wanted else {}
    for name in set(wanted) & set(PEERS):
        if program := _installed(peers, name, PEERS[name]):
            programs[name] = program
    for name, rows, fill in (("mixed", chosen.rows, MIXED), ("wide", chosen.wide_rows, WIDE)):
        for planted in _planted(servers, rows, fill):
            contest = Contest(servers, name, rows, planted)
            yield from _contests(contest, programs, with_limit=LIMIT in wanted)
            if chosen.delay_ms:
                yield _delayed(contest, ["--tables", "t"], chosen.delay_ms)
    if chosen.many:
        _fill_many(servers, chosen.many)
        contest = Contest(servers, f"{chosen.many} small", chosen.many * 50, 0)
        yield _delayed(contest, [], chosen.delay_ms)


def _contests(contest: Contest, programs: Mapping[str, Path], *, with_limit: bool) -> Iterator[Run]:
    if with_limit:
        yield _limit(contest)
    for contestant, program in programs.items():
        yield _direct(contest, contestant, program)


def _planted(servers: Servers, rows: int, fill: str) -> Iterator[int]:
    """The numbers of differences that the table has from now on, one after the other."""
    servers.execute("DROP TABLE IF EXISTS t", *fill.format(rows=rows).split(";"))
    servers.execute("VACUUM (ANALYZE, FREEZE) t", "CHECKPOINT")
    for differences in (0, 100, rows // 100) if rows else ():
        if differences:
            every = rows // differences
            change = f"UPDATE t SET qty = -1 WHERE id % {every} = {every // 2}"  # noqa: S608
            servers.execute(change, "VACUUM (ANALYZE) t", "CHECKPOINT", right_only=True)
        with psycopg.connect(servers.right.dsn()) as connection:
            (count,) = connection.execute("SELECT count(*) FROM t WHERE qty = -1").fetchall()
        yield int(count[0])


def _fill_many(servers: Servers, tables: int) -> None:
    create = (
        "CREATE TABLE s{n} AS SELECT i AS id, 'row ' || i AS note FROM generate_series(1, 50) i"
    )
    servers.execute("DROP TABLE IF EXISTS t", *(create.format(n=n) for n in range(tables)))


def _limit(contest: Contest) -> Run:
    def read(server: Server) -> None:
        with psycopg.connect(server.dsn(), autocommit=True) as connection:
            connection.execute("SET max_parallel_workers_per_gather = 0; SET jit = off")
            connection.execute("SELECT sum(hash_record_extended(t.*, 0)) FROM t")

    def both() -> Client:
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(read, contest.servers.both))
        return Client(contest.differences, 0, 0)

    return contest.timed(LIMIT, both)


def _direct(contest: Contest, contestant: str, program: Path) -> Run:
    """A contestant's time, and then, in another run, the bytes that it sends and gets."""
    left, right = (server.dsn() for server in contest.servers.both)
    command = _command(contestant, program, left, right)
    run = contest.timed(contestant, lambda: _run(command, contestant))
    with _proxies(contest.servers, 0) as links:
        through = _command(contestant, program, links[0].dsn, links[1].dsn)
        _run(through, contestant)
        return replace(run, wire_mb=round(sum(link.proxy.bytes for link in links) / 1e6, 2))


def _delayed(contest: Contest, words: Sequence[str], delay_ms: float) -> Run:
    """Ours on a slow link."""
    with _proxies(contest.servers, delay_ms) as links:
        command = [str(DBSPLIT), "compare", *(link.dsn for link in links), *words, "--json"]
        name = f"{OURS}, {2 * delay_ms:g} ms round trip"
        run = contest.timed(name, lambda: _run(command, OURS))
        return replace(run, wire_mb=round(sum(link.proxy.bytes for link in links) / 1e6, 2))


@dataclass(frozen=True, slots=True)
class Link:
    """A way to one server."""

    proxy: Proxy
    dsn: str


@contextmanager
def _proxies(servers: Servers, delay_ms: float) -> Iterator[list[Link]]:
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
    return [str(program), left, "t", right, "t", "-k", "id", "-c", "%", "-j", "2"]


def _run(command: Sequence[str], tool: str) -> Client:
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, stdout=output, stderr=errors)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        found = _found(output.read().decode(), tool)
        if process.returncode not in (0, 5):
            errors.seek(0)
            raise Failed(f"{tool}: exit {process.returncode}: {errors.read()[-2000:].decode()}")
    return Client(found, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def _found(text: str, tool: str) -> int:
    if tool == OURS:
        result = json.loads(text.splitlines()[-1])
        return sum(t["missing"] + t["extra"] + t["different"] for t in result["tables"])
    return sum(line.startswith("+ ") for line in text.splitlines())


def _installed(peers: Path, name: str, version: str) -> Path | None:
    """The peer's program, installed if need be; None, said aloud, if that is not possible."""
    home = peers / name
    program = home / "bin" / name
    if program.exists():
        return program
    try:
        subprocess.run([sys.executable, "-m", "venv", str(home)], check=True, capture_output=True)
        subprocess.run(
            [str(home / "bin" / "pip"), "install", "-q", f"{name}=={version}", "psycopg2-binary"],
            check=True,
            capture_output=True,
            timeout=RUN_S_MAX,
        )
    except (subprocess.SubprocessError, OSError) as error:
        print(f"{name} {version} cannot be installed, and is left out: {error}", file=sys.stderr)
        return None
    return program


def _postmaster(server: Server) -> int:
    return int((server.data_dir / "postmaster.pid").read_text().split()[0])


def _cpu_of_tree(root: int) -> float:
    """Seconds of a process, of its children that live, and of those that have ended."""
    ticks = 0
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(entry.name) == root:
            ticks += sum(map(int, fields[11:15]))  # with the children that were waited for
        elif int(fields[1]) == root:
            ticks += sum(map(int, fields[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


def table(runs: Sequence[Run]) -> str:
    """The runs, with how much longer than dbsplit each took."""
    lines = [
        "| table | differ | contestant | wall s | CPU s | CPU / dbsplit | wall / dbsplit |"
        " client MB | wire MB |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    ours: Mapping[tuple[str, int], Run] = {
        (run.table, run.differences): run for run in runs if run.contestant == OURS
    }
    for run in runs:
        base = ours.get((run.table, run.differences))
        cpu = f"{run.cpu_s / base.cpu_s:.2f}" if base else ""
        wall = f"{run.wall_s / base.wall_s:.2f}" if base else ""
        lines.append(
            f"| {run.table}, {run.rows:,} rows | {run.differences:,} | {run.contestant} |"
            f" {run.wall_s:.1f} | {run.cpu_s:.1f} | {cpu} | {wall} |"
            f" {run.client_mb or ''} | {'' if run.wire_mb is None else run.wire_mb} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
