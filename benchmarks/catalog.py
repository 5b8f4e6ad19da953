"""Measures how reading a catalog and checking a plan grow with the number of tables.

    python benchmarks/catalog.py --json catalog.json

A server of its own holds, one after the other, databases of 250 to 2,000 tables with five
foreign keys each; two services own the tables in turn.  Each is read by `read_catalog`, by
SQLAlchemy's ``MetaData.reflect`` as the peer, and checked as ``dbsplit plan check`` does it.
The best of some rounds counts, and rounds of the two readers alternate.  *growth* says how
much longer a check took than at half as many tables: about 2 is linear, 4 is quadratic.

SQLAlchemy reads less (no storage, no replica identity, no partitions) and makes more of it
(a model).  Its links (``resolve_fks``)
are off: following them it calls itself once for each table in a chain of keys, and ends in
RecursionError at a few hundred.  Only the ratios of one run mean something.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import platform
import pstats
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import psycopg
import sqlalchemy
from psycopg import sql

from plans.catalog_read import read_catalog
from plans.check import check_split
from plans.load import Plan, load_plan
from toolkit.servers import Server, running_server

SIZES = (250, 500, 1000, 2000)
KEYS_PER_TABLE = 5
COLUMNS = 12
ROUNDS = 3
SERVICES = ("crm", "shop")
TYPES = tuple(map(sql.SQL, ("text", "integer", "numeric(12, 2)")))
STATEMENTS_AT_ONCE = 100
NOWHERE = "host=127.0.0.1 port=1 dbname=nowhere"


@dataclass(frozen=True, slots=True)
class Result:
    """The seconds that one size took, the best of some rounds."""

    tables: int
    foreign_keys: int
    read_catalog_s: float
    sqlalchemy_reflect_s: float
    check_s: float
    findings: int

    @property
    def ratio(self) -> float:
        """How much longer SQLAlchemy took to read; above 1, we are faster."""
        return self.sqlalchemy_reflect_s / self.read_catalog_s


def main() -> None:
    """Measure, print the table, write the JSON."""
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), metavar="TABLES")
    options.add_argument("--rounds", type=int, default=ROUNDS)
    options.add_argument("--json", type=Path, metavar="FILE", help="where to write the results")
    options.add_argument("--profile", action="store_true", help="say where a check spends its time")
    given = options.parse_args()
    results = []
    with running_server() as server, tempfile.TemporaryDirectory() as directory:
        for size in given.sizes:
            dsn = build(server, size)
            plan = write_plan(Path(directory), dsn, size)
            results.append(measure(dsn, plan, size, given.rounds))
            print(f"{size} tables: {results[-1].check_s:.2f} s", file=sys.stderr, flush=True)
            if given.profile:
                profile(dsn, plan)
    print(table(results))
    if given.json:
        machine = {"python": platform.python_version(), "machine": platform.machine()}
        said = {
            "machine": machine,
            "results": [asdict(one) | {"ratio": one.ratio} for one in results],
        }
        given.json.write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")


def build(server: Server, size: int) -> str:
    """A database of `size` tables; returns its DSN."""
    name = f"catalog_{size}"
    with psycopg.connect(server.dsn(), autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    dsn = server.dsn(name)
    statements = list(definitions(size))
    with psycopg.connect(dsn, autocommit=True) as connection:
        for start in range(0, len(statements), STATEMENTS_AT_ONCE):
            connection.execute(sql.SQL(";").join(statements[start : start + STATEMENTS_AT_ONCE]))
        connection.execute("ANALYZE")
    return dsn


def definitions(size: int) -> Iterator[sql.Composed]:
    """Tables with a key, columns of common types, and keys to tables anywhere before them."""
    for number in range(size):
        keys = [sql.SQL("{} bigint").format(sql.Identifier(f"k{k}")) for k in range(KEYS_PER_TABLE)]
        others = [
            sql.SQL("{} {}").format(sql.Identifier(f"c{c}"), TYPES[c % len(TYPES)])
            for c in range(COLUMNS - KEYS_PER_TABLE - 1)
        ]  # fmt: skip
        identity = sql.SQL("id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY")
        yield sql.SQL("CREATE TABLE {} ({})").format(
            table_name(number), sql.SQL(", ").join([identity, *keys, *others])
        )
    for number in range(size):
        for key in range(KEYS_PER_TABLE):
            yield sql.SQL("ALTER TABLE {} ADD FOREIGN KEY ({}) REFERENCES {}").format(
                table_name(number),
                sql.Identifier(f"k{key}"),
                table_name((number * 7919 + key * 104729) % size),
            )


def table_name(number: int) -> sql.Identifier:
    """The name of one table."""
    return sql.Identifier(f"table_{number:05}")


def write_plan(directory: Path, dsn: str, size: int) -> Plan:
    """A plan in which the services own the tables in turn."""
    path = directory / f"plan_{size}.yaml"
    lines = ["split: bench", "source: {dsn: '${SOURCE}'}", "services:"]
    lines += [f"  {service}: {{dsn: '{NOWHERE}{service}'}}" for service in SERVICES]
    lines += ["tables:"]
    lines += [f"  table_{n:05}: {SERVICES[n % len(SERVICES)]}" for n in range(size)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return load_plan(path, {"SOURCE": dsn})


def measure(dsn: str, plan: Plan, size: int, rounds: int) -> Result:
    """The best time of each."""
    ours, theirs, checks = [], [], []
    findings: list[object] = []
    engine = sqlalchemy.create_engine(
        "postgresql+psycopg://", creator=lambda: psycopg.connect(dsn), poolclass=sqlalchemy.NullPool
    )
    for _ in range(rounds):
        with psycopg.connect(dsn, autocommit=True) as connection:
            ours.append(seconds(lambda: read_catalog(connection, ["public"])))
            theirs.append(seconds(lambda: sqlalchemy.MetaData().reflect(engine, resolve_fks=False)))
            checks.append(seconds(lambda: findings.append(check_split(plan, connection))))
    last = findings[-1]
    assert isinstance(last, list)  # noqa: S101
    return Result(size, size * KEYS_PER_TABLE, min(ours), min(theirs), min(checks), len(last))


def seconds(call: Callable[[], object]) -> float:
    """How long a call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def profile(dsn: str, plan: Plan) -> None:
    """Print the functions in which a check spends its time."""
    profiler = cProfile.Profile()
    with psycopg.connect(dsn, autocommit=True) as connection:
        profiler.runcall(check_split, plan, connection)
    pstats.Stats(profiler, stream=sys.stderr).sort_stats("cumulative").print_stats(35)


def table(results: list[Result]) -> str:
    """The results as a Markdown table."""
    lines = [
        "| tables | foreign keys | read_catalog, s | SQLAlchemy reflect, s | peer / dbsplit |"
        " plan check, s | growth |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for number, one in enumerate(results):
        growth = f"{one.check_s / results[number - 1].check_s:.1f}" if number else ""
        lines.append(
            f"| {one.tables:,} | {one.foreign_keys:,} | {one.read_catalog_s:.2f} |"
            f" {one.sqlalchemy_reflect_s:.2f} | {one.ratio:.1f} | {one.check_s:.2f} | {growth} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
