"""Measures the copy against pgcopydb, pg_dump, a subscription and COPY piped to COPY.

    python benchmarks/copying.py --json copy.json
    python benchmarks/copying.py --version 15 --tls --rounds 3
    python benchmarks/copying.py --grow
    python benchmarks/copying.py --eta

Theory of operation.  One source holds four tables of a shop, with ten indexes and three
foreign keys.  Each contestant fills an empty database on the same other server, with two
jobs, until all rows, indexes, keys and statistics are there; then the rows are compared,
and the database is dropped.  Every second round goes in the opposite order.  What is
measured is processes from start to end, as a user sees them.  Autovacuum is off, and a round
that is not counted goes before, so that nobody pays for what all have.

dbsplit and pgcopydb analyze the tables.  Who fills a database in another way is told by
the manual (14.4.9 "Run ANALYZE Afterwards") to do that himself, so it is done for the
others, and measured apart: the ratios are given with it and without.

Only the ratios of one round mean something; on a busy machine CPU seconds mean more.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from psycopg import sql

from benchmarks.contest import (
    Cost,
    Ended,
    Failed,
    ask,
    encrypt,
    execute,
    fingerprint,
    machine,
    measured,
    run,
    shell,
    tell,
    wait,
)
from toolkit.servers import Server, start_server

DBSPLIT: Final = Path(sys.executable).parent / "dbsplit"
JOBS = 2
NOTHING = Cost(0.0)
DATABASE = "shop"

OURS = "dbsplit"
IDLE = "dbsplit, nothing left to do"
PGCOPYDB = "pgcopydb"
PIPED = "COPY to COPY, then indexes"
DUMP = "pg_dump, pg_restore"
NATIVE = "native subscription, then indexes"
NATIVE_WHOLE = "native subscription, indexes first"
PEERS = (PGCOPYDB, PIPED, DUMP, NATIVE, NATIVE_WHOLE)
UNANALYZED = (PIPED, DUMP, NATIVE, NATIVE_WHOLE)
ALL = (OURS, *PEERS)

TABLES = ("customers", "products", "orders", "order_lines")
SHOP = """
CREATE TABLE customers (
    id bigint PRIMARY KEY, email text NOT NULL, full_name text NOT NULL, phone text,
    segment text NOT NULL, created_at timestamptz NOT NULL, settings jsonb NOT NULL
);
CREATE TABLE products (
    id int PRIMARY KEY, sku text NOT NULL, name text NOT NULL, price numeric(10, 2) NOT NULL,
    tags text[] NOT NULL, description text
);
CREATE TABLE orders (
    id bigint PRIMARY KEY, customer_id bigint NOT NULL, status text NOT NULL,
    placed_at timestamptz NOT NULL, total numeric(12, 2) NOT NULL, note text
);
CREATE TABLE order_lines (
    order_id bigint, line int, product_id int NOT NULL, quantity int NOT NULL,
    price numeric(10, 2) NOT NULL, discount double precision, comment text,
    PRIMARY KEY (order_id, line)
);
INSERT INTO customers SELECT n, 'customer' || n || '@example.org', 'Name ' || md5(n::text),
    CASE WHEN n %% 3 > 0 THEN n::text END, (ARRAY['new', 'gold', 'lost'])[1 + n %% 3],
    '2024-01-01'::timestamptz + n * '1 min'::interval,
    jsonb_build_object('lang', 'de', 'n', n, 'mail', n %% 2 = 0)
    FROM generate_series(1, %(rows)s / 10) AS n;
INSERT INTO products SELECT n, 'SKU' || n, 'Part ' || n, n %% 1000 + 0.5,
    ARRAY['a' || n %% 7, 'b'], repeat(md5(n::text), 10)
    FROM generate_series(1, %(rows)s / 50) AS n;
INSERT INTO orders SELECT n, 1 + n * 7919::bigint %% (%(rows)s / 10),
    (ARRAY['new', 'paid', 'sent', 'done'])[1 + n %% 4],
    '2024-01-01'::timestamptz + n * '10 s'::interval, n %% 5000 + 0.25, md5(n::text)
    FROM generate_series(1, %(rows)s * 3 / 10) AS n;
INSERT INTO order_lines SELECT 1 + n / 2, 1 + n %% 2,
    1 + n * 104729::bigint %% (%(rows)s / 50), 1 + n %% 5, n %% 1000 + 0.99, n / 7.0,
    CASE WHEN n %% 4 = 0 THEN md5(n::text) END
    FROM generate_series(0, %(rows)s * 6 / 10 - 1) AS n;
CREATE UNIQUE INDEX ON customers (email);
CREATE INDEX ON customers (created_at);
CREATE UNIQUE INDEX ON products (sku);
CREATE INDEX ON orders (customer_id);
CREATE INDEX ON orders (status, placed_at);
CREATE INDEX ON order_lines (product_id);
ALTER TABLE orders ADD FOREIGN KEY (customer_id) REFERENCES customers;
ALTER TABLE order_lines ADD FOREIGN KEY (order_id) REFERENCES orders;
ALTER TABLE order_lines ADD FOREIGN KEY (product_id) REFERENCES products;
"""

PLAN = """\
split: bench
source: {dsn: "${DBSPLIT_SOURCE_DSN}"}
services: {shop: {dsn: "${DBSPLIT_SHOP_DSN}"}}
tables:
"""


@dataclass(frozen=True, slots=True)
class Taken:
    """What one contestant took, once."""

    version: str
    tls: bool
    contestant: str
    round: int
    cost: Cost
    load: float  # the machine's, over the minute before
    analyze: Cost = NOTHING
    """Of analyzing the tables, where the contestant does not do that."""

    @property
    def ready(self) -> Cost:
        """Until the database is as others find it when they begin."""
        return self.cost + self.analyze


@dataclass(frozen=True, slots=True)
class Place:
    """Two servers, a source that is filled, and an empty database to fill."""

    directory: Path
    source: Server
    target: Server
    tables: Sequence[str]
    tls: bool

    def dsn(self, server: Server) -> str:
        """Where the database is; without GSSAPI, for which nobody of the contestants asks."""
        mode = "require" if self.tls else "disable"
        # A server that subscribes must not look for a certificate where its home would be.
        return (
            f"{server.dsn(DATABASE)}?sslmode={mode}&sslcert=none&sslrootcert=none"
            "&gssencmode=disable"
        )

    @property
    def dsns(self) -> tuple[str, str]:
        """Of the source and of the target."""
        return self.dsn(self.source), self.dsn(self.target)

    def program(self, name: str) -> str:
        """One of PostgreSQL's programs, of the servers' version."""
        return str(self.source.binaries.program(name))

    def dbsplit(self, *words: str) -> Ended:
        """Run a verb, as a process."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith("DBSPLIT_")}
        # A package that was installed is compiled; with this, it would be anew at each start.
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        environment["DBSPLIT_SOURCE_DSN"], environment["DBSPLIT_SHOP_DSN"] = self.dsns
        return run([str(DBSPLIT), words[0], "plan.yaml", *words[1:]], self.directory, environment)

    def renew(self) -> None:
        """Have an empty target, and nothing of what contestants have left on the source."""
        for database in (
            sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)"),
            sql.SQL("CREATE DATABASE {}"),
        ):
            execute(self.target.dsn(), database.format(sql.Identifier(DATABASE)))
        source = self.source.dsn(DATABASE)
        execute(source, "DROP SCHEMA IF EXISTS dbsplit CASCADE")
        for (name,) in ask(source, "SELECT pubname FROM pg_publication"):
            execute(source, sql.SQL("DROP PUBLICATION {}").format(sql.Identifier(name)))
        execute(
            source,
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE NOT active",
        )
        for server in (self.source, self.target):
            execute(server.dsn(), "CHECKPOINT")

    def schema(self, section: str) -> None:
        """Make the target's tables, or what comes after the data."""
        source, target = self.dsns
        shell(
            f"{self.program('pg_dump')} -s --section={section} --no-publications '{source}'"
            f" | {self.program('psql')} -q -o /dev/null -v ON_ERROR_STOP=1 '{target}'",
            self.directory,
        )

    def after_data(self) -> Ended:
        """Build indexes and keys, with as many jobs as everybody has."""
        source, target = self.dsns
        return shell(
            f"{self.program('pg_dump')} -s -Fc --section=post-data --no-publications"
            f" -f post.dump '{source}'\n"
            f"{self.program('pg_restore')} -j{JOBS} --exit-on-error -d '{target}' post.dump",
            self.directory,
        )

    def analyze(self) -> Ended:
        """Analyze all tables, the largest first, with as many jobs as everybody has."""
        tables = " ".join(reversed(self.tables))
        psql = f"{self.program('psql')} -q '{self.dsns[1]}'"
        return shell(
            f"printf '%s\\n' {tables} | xargs -P {JOBS} -I TABLE {psql} -c 'ANALYZE TABLE'",
            self.directory,
        )


Work = Callable[[], Sequence[Ended]]


def ours(place: Place) -> Work:
    """`dbsplit copy`."""
    place.dbsplit("prepare")
    return lambda: [place.dbsplit("copy", "--jobs", str(JOBS))]


def pgcopydb(place: Place) -> Work:
    """`pgcopydb clone`."""
    source, target = place.dsns
    directory = place.directory / "pgcopydb"
    shutil.rmtree(directory, ignore_errors=True)
    jobs = ["--table-jobs", str(JOBS), "--index-jobs", str(JOBS)]
    command = ["pgcopydb", "clone", "--source", source, "--target", target, *jobs]
    return lambda: [
        run([*command, "--no-owner", "--no-acl", "--dir", str(directory)], place.directory)
    ]


def piped(place: Place) -> Work:
    """`psql COPY | psql COPY` in binary, two tables at a time, then `pg_restore` of the rest."""
    place.schema("pre-data")
    source, target = place.dsns
    psql = place.program("psql")
    one = (
        f"set -o pipefail; {psql} -q '{source}' -c 'COPY '$1' TO STDOUT (FORMAT binary)'"
        f" | {psql} -q '{target}' -c 'COPY '$1' FROM STDIN (FORMAT binary)'"
    )
    script = place.directory / "piped.sh"
    script.write_text(one)
    # The largest first.
    tables = " ".join(reversed(place.tables))
    return lambda: [
        shell(
            f"printf '%s\\n' {tables} | xargs -P {JOBS} -n 1 bash piped.sh",
            place.directory,
        ),
        place.after_data(),
    ]


def dumped(place: Place) -> Work:
    """`pg_dump -Fd | pg_restore`, without compression, which costs more than it spares here."""
    source, target = place.dsns
    shutil.rmtree(place.directory / "dump", ignore_errors=True)
    return lambda: [
        run(
            [
                *(place.program("pg_dump"), "-Fd", f"-j{JOBS}", "-Z0", "--no-publications"),
                *("-f", "dump", "-d", source),
            ],
            place.directory,
        ),
        run(
            [place.program("pg_restore"), f"-j{JOBS}", "--exit-on-error", "-d", target, "dump"],
            place.directory,
        ),
    ]


def native(place: Place) -> Work:
    """A subscription's initial copy into bare tables, in binary, then `pg_restore` of the rest."""
    subscribed = native_whole(place, bare=True)
    return lambda: [*subscribed(), place.after_data()]


def native_whole(place: Place, *, bare: bool = False) -> Work:
    """A subscription's initial copy, in binary, into a schema that is whole, as the manual says."""
    for section in ("pre-data",) if bare else ("pre-data", "post-data"):
        place.schema(section)
    source, target = place.dsns
    execute(source, "CREATE PUBLICATION native FOR ALL TABLES")

    def work() -> Sequence[Ended]:
        subscribe = sql.SQL(
            "CREATE SUBSCRIPTION native CONNECTION {} PUBLICATION native WITH (binary = true)"
        )
        execute(target, subscribe.format(source))
        wait(
            target,
            sql.SQL(
                "SELECT count(*) FILTER (WHERE srsubstate = 'r') = {} FROM pg_subscription_rel"
            ).format(len(place.tables)),
        )
        execute(target, "DROP SUBSCRIPTION native")
        return []

    return work


WAYS: dict[str, Callable[[Place], Work]] = {
    OURS: ours,
    PGCOPYDB: pgcopydb,
    PIPED: piped,
    DUMP: dumped,
    NATIVE: native,
    NATIVE_WHOLE: native_whole,
}


@contextmanager
def placed(version: str, tables: Sequence[str], fill: str, *, tls: bool) -> Iterator[Place]:
    """Two servers, the source with these tables."""
    with ExitStack() as cleanup:
        directory = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="dbsplit-bench")))
        servers = []
        for _ in range(2):
            # Whenever autovacuum came, it would be charged to whoever is copying just then.
            settings = {"autovacuum": "off"}
            servers.append(start_server(version=version, durable=True, settings=settings))
            cleanup.callback(servers[-1].discard)
        if tls and not all(map(encrypt, servers)):
            raise Failed(f"PostgreSQL {version} here was built without TLS")
        execute(servers[0].dsn(), sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))
        execute(servers[0].dsn(DATABASE), fill)
        execute(servers[0].dsn(DATABASE), "VACUUM ANALYZE")
        (directory / "plan.yaml").write_text(PLAN + "".join(f"  {t}: shop\n" for t in tables))
        yield Place(directory, servers[0], servers[1], tables, tls)


def take(place: Place, version: str, contestant: str, number: int) -> Taken:
    """Measure one contestant, and see that it did what it was to do."""
    place.renew()
    work = WAYS[contestant](place)
    for server in (place.source, place.target):
        execute(server.dsn(), "CHECKPOINT")
    load = os.getloadavg()[0]
    cost = measured(place.source, place.target, work)
    analyze = NOTHING
    if contestant in UNANALYZED:
        analyze = measured(place.source, place.target, lambda: [place.analyze()])
    source, target = (server.dsn(DATABASE) for server in (place.source, place.target))
    if fingerprint(source, place.tables) != fingerprint(target, place.tables):
        raise Failed(f"the rows of {contestant} differ from the source's")
    found = [ask(dsn, _BUILT) for dsn in (source, target)]
    if found[0] != found[1]:
        raise Failed(f"{contestant} has other indexes or keys: {found}")
    tell(
        f"round {number}, PostgreSQL {version}{', TLS' if place.tls else ''}: {contestant}:"
        f" {cost.seconds:.2f} s, CPU {cost.cpu_s:.1f} s"
        + (f"; ANALYZE {analyze.seconds:.2f} s, CPU {analyze.cpu_s:.1f} s" * bool(analyze.seconds))
    )
    return Taken(version, place.tls, contestant, number, cost, round(load, 2), analyze)


_BUILT = """
SELECT (SELECT count(*) FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid
         WHERE c.relnamespace = 'public'::regnamespace AND i.indisvalid),
       (SELECT count(*) FROM pg_constraint WHERE contype IN ('p', 'f', 'u') AND convalidated
         AND connamespace = 'public'::regnamespace)
"""


def contest(version: str, rows: int, rounds: int, only: Sequence[str], *, tls: bool) -> list[Taken]:
    """All contestants on the same data."""
    contestants = [one for one in ALL if one == OURS or one in only]
    if PGCOPYDB in contestants and (why := _no_pgcopydb(version)):
        tell(f"without pgcopydb: {why}")
        contestants.remove(PGCOPYDB)
    taken = []
    with placed(version, TABLES, SHOP % {"rows": rows}, tls=tls) as place:
        # Whoever comes first makes the files of the log, which the others use again.
        take(place, version, PIPED, 0)
        for number in range(1, rounds + 1):
            for one in contestants if number % 2 else reversed(contestants):
                taken.append(take(place, version, one, number))
                if one == OURS:
                    again = measured(place.source, place.target, lambda: [place.dbsplit("copy")])
                    taken.append(Taken(version, tls, IDLE, number, again, os.getloadavg()[0]))
    return taken


def _no_pgcopydb(version: str) -> str:
    if shutil.which("pgcopydb") is None:
        return "it is not installed (Debian's package pgcopydb)"
    if int(version) > 15:
        return "Debian's goes with pg_dump 15, which refuses newer servers"
    return ""


def grow(version: str) -> list[dict[str, Any]]:
    """How ours grows with rows, columns and tables."""
    found = []
    cases = [("rows", n, *_of_rows(n)) for n in (250_000, 500_000, 1_000_000)]
    cases += [("columns", n, *_of_columns(n)) for n in (10, 50, 250)]
    cases += [("tables", n, *_of_tables(n)) for n in (50, 200, 800)]
    for what, amount, tables, fill in cases:
        with placed(version, tables, fill, tls=False) as place:
            cost = min(
                (take(place, version, OURS, number).cost for number in (1, 2)),
                key=lambda cost: cost.cpu_s,
            )
        found.append({"what": what, "amount": amount, **asdict(cost)})
    return found


def _of_rows(rows: int) -> tuple[Sequence[str], str]:
    return TABLES, SHOP % {"rows": rows}


def _of_columns(columns: int) -> tuple[Sequence[str], str]:
    named = ", ".join(f"c{n} int" for n in range(columns))
    values = ", ".join("n" for _ in range(columns))
    numbers = f"generate_series(1, {5_000_000 // columns}) AS n"
    return ["wide"], "".join(
        (
            f"CREATE TABLE wide (id int PRIMARY KEY, {named});",
            f"INSERT INTO wide SELECT n, {values} FROM {numbers}",  # noqa: S608 - ours
        )
    )


def _of_tables(tables: int) -> tuple[Sequence[str], str]:
    create = "CREATE TABLE t{n} (id int PRIMARY KEY, body text UNIQUE);"
    insert = "INSERT INTO t{n} SELECT g, g FROM generate_series(1, 100) AS g"
    return [f"t{n}" for n in range(tables)], ";".join(
        (create + insert).format(n=n) for n in range(tables)
    )


def eta(version: str, rows: int) -> list[dict[str, float]]:
    """What was foretold on the way, and how it came."""
    with placed(version, TABLES, SHOP % {"rows": rows}, tls=False) as place:
        place.renew()
        place.dbsplit("prepare")
        ended = place.dbsplit("copy", "--jobs", str(JOBS), "--json")
    told = [(at, json.loads(line)) for at, line in ended.lines]
    told = [(at, one["eta_s"]) for at, one in told if "eta_s" in one]
    began = told[0][0]
    total = ended.seconds - began
    found = []
    for share in (0.1, 0.25, 0.5, 0.75):
        at, left = next((one for one in told if one[0] - began >= share * total), told[-1])
        foretold = at - began + left
        found.append(
            {
                "share": share,
                "at_s": round(at - began, 2),
                "foretold_s": round(foretold, 2),
                "took_s": round(total, 2),
                "error": round(foretold / total - 1, 3),
            }
        )
    return found


def table(taken: Sequence[Taken]) -> str:
    """The result in Markdown, as it stands in docs/benchmarks.md."""
    head = (
        "PostgreSQL | contestant | s + ANALYZE | CPU s: client / source / target + ANALYZE"
        " | peak MB | peer / dbsplit (CPU) | the same, without the peer's ANALYZE"
    )
    lines = [f"| {head} |", "| --- " * 7 + "|"]
    for version, tls, contestant in dict.fromkeys(
        (one.version, one.tls, one.contestant) for one in taken
    ):
        mine = [one for one in taken if (one.version, one.tls) == (version, tls)]
        theirs = [one for one in mine if one.contestant == contestant]
        base = {one.round: one.cost for one in mine if one.contestant == OURS}
        best = min(theirs, key=lambda one: one.ready.cpu_s)
        whole, bare = (
            _against({one.round: cost for one, cost in zip(theirs, costs, strict=True)}, base)
            for costs in ([one.ready for one in theirs], [one.cost for one in theirs])
        )
        seconds = " · ".join(
            f"{one.cost.seconds:.1f}" + f" + {one.analyze.seconds:.1f}" * bool(one.analyze.seconds)
            for one in theirs
        )
        cost = best.cost
        used = f"{cost.client_cpu_s:.1f} / {cost.source_cpu_s:.1f} / {cost.target_cpu_s:.1f}"
        used += f" + {best.analyze.cpu_s:.1f}" * bool(best.analyze.seconds)
        lines.append(
            f"| {version}{', TLS' if tls else ''} | {contestant} | {seconds} | {used}"
            f" | {cost.client_peak_mb:.0f} | {whole if contestant in PEERS else ''}"
            f" | {bare if contestant in UNANALYZED else ''} |"
        )
    return "\n".join(lines)


def _against(costs: dict[int, Cost], base: dict[int, Cost]) -> str:
    """The median of a peer's ratios to ours, round by round."""
    ratios = [costs[n].seconds / base[n].seconds for n in costs]
    cpu = [costs[n].cpu_s / base[n].cpu_s for n in costs]
    return f"{statistics.median(ratios):.2f} ({statistics.median(cpu):.2f})"


def contests(versions: Sequence[str], given: argparse.Namespace) -> list[Taken]:
    """Each version, with TLS and without, as far as it is there and wanted."""
    taken: list[Taken] = []
    for version in versions:
        for tls in [False] * (not given.tls) + [True] * (not given.plain):
            try:
                only = given.only or PEERS
                taken += contest(version, given.rows, given.rounds, only, tls=tls)
            except Failed as why:
                if "without TLS" not in str(why):
                    raise
                tell(str(why))
    return taken


def main() -> None:
    """Measure, print the table, write the JSON."""
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options.add_argument("--rows", type=int, default=2_000_000, help="of all tables together")
    options.add_argument("--rounds", type=int, default=2)
    options.add_argument("--version", action="append", metavar="MAJOR", help="15 and 18 if none")
    options.add_argument("--only", action="append", choices=PEERS, help="against this peer")
    options.add_argument("--tls", action="store_true", help="only with TLS; both without this")
    options.add_argument("--plain", action="store_true", help="only without TLS")
    options.add_argument("--grow", action="store_true", help="with rows, columns and tables")
    options.add_argument("--eta", action="store_true", help="how well the end is foretold")
    options.add_argument("--json", type=Path, metavar="FILE", help="where to write the results")
    given = options.parse_args()
    versions = given.version or ["15", "18"]
    result: dict[str, Any] = {"machine": machine(), "rows": given.rows}
    if given.eta:
        result["eta"] = [{"version": v, **one} for v in versions for one in eta(v, given.rows)]
        print(json.dumps(result["eta"], indent=1))
    elif given.grow:
        result["growth"] = grow(versions[-1])
        print(json.dumps(result["growth"], indent=1))
    else:
        taken = contests(versions, given)
        result["taken"] = [asdict(one) for one in taken]
        print(table(taken))
    if given.json:
        given.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
