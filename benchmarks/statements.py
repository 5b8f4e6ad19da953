"""Measures how well statements are read, against sqlglot's parser, on one labelled corpus.

    python benchmarks/statements.py --json result.json

Theory of operation.  The corpus (`tests/statement_corpus.py`) has a schema and statements
that were labelled by hand with the tables that they read and write, in the end.  Its schema
is loaded into a server of our own, because a view or trigger can only be followed by those
who know of it.  sqlglot knows texts alone; thus the statements that name all they touch are
also counted by themselves, where both could be perfect.  Each name that sqlglot finds is
looked up in the same catalog and search_path, so it isn't blamed for names.

Where nothing can be known, the label says so, and a contestant should too: "doubted" counts
the statements marked uncertain, of those that are.  A parse error counts as a doubt.
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version as version_of
from pathlib import Path
from typing import TypeVar

import psycopg
import sqlglot
from sqlglot import exp

from plans.catalog import TableName
from plans.catalog_read import read_catalog
from plans.statements.read import read_statements
from plans.statements.scope import Scope, read_scope
from tests.statement_corpus import CASES, SCHEMA, SCHEMAS, Case
from toolkit.servers import running_server

OURS = "dbsplit"
SQLGLOT = f"sqlglot {version_of('sqlglot')}"
ROUNDS = 5
T = TypeVar("T")
_TARGETS = (exp.Insert, exp.Update, exp.Delete, exp.Merge, exp.TruncateTable)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a contestant says of one statement."""

    touched: frozenset[tuple[TableName, bool]]  # with whether it is written
    doubt: bool


@dataclass(frozen=True, slots=True)
class Score:
    """A contestant's answers against the labels."""

    contestant: str
    corpus: str
    statements: int
    precision: float
    recall: float
    tables_precision: float  # reads and writes taken together
    tables_recall: float
    exact: float  # statements of which everything is right
    doubted: float
    ms_per_statement: float


def main() -> None:
    """Run the contest and print its table."""
    arguments = argparse.ArgumentParser(description="Statements read: ours and sqlglot's")
    arguments.add_argument("--json", type=Path, help="write the scores there")
    arguments.add_argument("--version", default="18", help="PostgreSQL's major version")
    chosen = arguments.parse_args()
    scores = measure(chosen.version)
    print(f"{'':16} {'corpus':8} {'n':>4} {'precision':>9} {'recall':>7} {'tables':>13}"
          f" {'exact':>6} {'doubted':>7} {'ms each':>8}")  # fmt: skip
    for one in scores:
        both = f"{one.tables_precision:.3f}/{one.tables_recall:.3f}"
        print(f"{one.contestant:16} {one.corpus:8} {one.statements:4} {one.precision:9.3f}"
              f" {one.recall:7.3f} {both:>13} {one.exact:6.3f} {one.doubted:7.3f}"
              f" {one.ms_per_statement:8.3f}")  # fmt: skip
    if chosen.json:
        result = {
            "postgresql": chosen.version,
            "python": platform.python_version(),
            "sqlglot": version_of("sqlglot"),
            "scores": [asdict(one) for one in scores],
        }
        chosen.json.write_text(json.dumps(result, indent=2) + "\n")


def measure(version: str) -> list[Score]:
    """The scores of both, on the statements that name all they touch and on all."""
    with (
        running_server(version=version) as server,
        psycopg.connect(server.dsn(), autocommit=True) as conn,
    ):
        conn.execute(SCHEMA)
        scope = read_scope(conn, read_catalog(conn, SCHEMAS))
    logging.getLogger("sqlglot").setLevel(logging.ERROR)  # one line for each it can't parse
    direct = [case for case in CASES if case.direct]
    return [
        score(contestant, corpus, cases, partial(read, scope=scope))
        for corpus, cases in (("direct", direct), ("all", CASES))
        for contestant, read in ((OURS, ours), (SQLGLOT, of_sqlglot))
    ]


def score(
    contestant: str, corpus: str, cases: Sequence[Case], read: Callable[[Case], Answer]
) -> Score:
    """One contestant on some of the statements."""
    times = []
    answers: list[Answer] = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        answers = [read(case) for case in cases]
        times.append(time.perf_counter() - started)
    labels = [label(case) for case in cases]
    pairs = [(set(answer.touched), set(one)) for answer, one in zip(answers, labels, strict=True)]
    tables = [({name for name, _ in said}, {name for name, _ in true}) for said, true in pairs]
    doubtful = [answer for answer, case in zip(answers, cases, strict=True) if case.doubt]
    right = [
        said == true and answer.doubt == case.doubt
        for (said, true), answer, case in zip(pairs, answers, cases, strict=True)
    ]
    return Score(
        contestant,
        corpus,
        len(cases),
        *precision_and_recall(pairs),
        *precision_and_recall(tables),
        exact=statistics.mean(right),
        doubted=statistics.mean(answer.doubt for answer in doubtful),
        ms_per_statement=statistics.median(times) * 1000 / len(cases),
    )


def precision_and_recall(pairs: Sequence[tuple[set[T], set[T]]]) -> tuple[float, float]:
    """Over all statements, of what is said and what is true."""
    right = sum(len(said & true) for said, true in pairs)
    said, true = sum(len(one) for one, _ in pairs), sum(len(one) for _, one in pairs)
    return right / said, right / true


def label(case: Case) -> frozenset[tuple[TableName, bool]]:
    """The truth about a statement."""
    return frozenset({(one, False) for one in case.reads} | {(one, True) for one in case.writes})


def ours(case: Case, scope: Scope) -> Answer:
    """What we say."""
    touched: set[tuple[TableName, bool]] = set()
    doubt = False
    for statement in read_statements(case.text, scope, search_path=case.path):
        touched |= {(touch.table, touch.writes) for touch in statement.touches}
        doubt = doubt or bool(statement.unproven)
    return Answer(frozenset(touched), doubt)


def of_sqlglot(case: Case, scope: Scope) -> Answer:
    """What sqlglot's tree says: its tables, without the names of WITH queries."""
    try:
        trees = [tree for tree in sqlglot.parse(case.text, dialect="postgres") if tree]
    except sqlglot.errors.SqlglotError:
        return Answer(frozenset(), doubt=True)
    touched = {
        (scope.root(name), is_written)
        for tree in trees
        for table, is_written in named_tables(tree)
        for name in resolved(table, case.path, scope)
    }
    return Answer(frozenset(touched), any(isinstance(tree, exp.Command) for tree in trees))


def named_tables(tree: exp.Expr) -> Iterator[tuple[exp.Table, bool]]:
    """The tables of a tree, and whether they are written."""
    hidden = {cte.alias for cte in tree.find_all(exp.CTE)}
    targets = {id(target) for node in tree.find_all(*_TARGETS) for target in targets_of(node)}
    for table in tree.find_all(exp.Table):
        if table.db or table.name not in hidden:
            yield table, id(table) in targets


def targets_of(node: exp.Expr) -> Iterator[exp.Table]:
    """The tables that a statement writes."""
    found = node.expressions if isinstance(node, exp.TruncateTable) else [node.this]
    for one in found:
        target = one.this if isinstance(one, exp.Schema) else one
        if isinstance(target, exp.Table):
            yield target


def resolved(table: exp.Table, path: Sequence[str], scope: Scope) -> Iterator[TableName]:
    """The table of the catalog that a name means."""

    def spelled(part: exp.Expr | None) -> str:
        quoted = isinstance(part, exp.Identifier) and part.args.get("quoted")
        return (part.name if quoted else part.name.lower()) if part else ""

    schema = spelled(table.args.get("db"))
    for one in [schema] if schema else path:
        name = TableName(one, spelled(table.this))
        if name in scope.catalog.tables:
            yield name
            return


if __name__ == "__main__":
    main()
