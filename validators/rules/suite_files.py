"""Suites written by hand: files of SQL rules, and of Great Expectations' own expectations.

``NAME.yaml`` is one service's rules, each a SELECT of the rows that break it::

    service: shop
    rules:
      totals-are-sums:
        table: orders
        meaning: an order's total is the sum of its lines
        unexpected: |
          SELECT o.id, o.net_total FROM orders AS o
          WHERE o.net_total <> (SELECT sum(quantity * unit_price) FROM order_items AS i
                                WHERE i.order_id = o.id)

``NAME.json`` is a suite as Great Expectations writes it; ``meta.dbsplit`` says what it is about.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

import pgparse  # type: ignore[import-not-found]  # it has no stubs
from psycopg import sql
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from plans.errors import PlanInvalid
from plans.invalid import add_invalid
from plans.places import Path as Place
from plans.places import Places
from plans.problems import PlanProblems, Problem, Problems, one_of
from plans.yaml_file import read_yaml
from validators.rules.rows import ServiceTable, with_tables
from validators.rules.rule import SIDES, Rule, Severity, Side

SAMPLED: Final = {
    "expect_query_results_to_match_comparison": "it compares 200 rows and passes over the others"
}
"""Expectations that do not look at all rows, and so prove nothing."""

_ROWS_QUERY: Final = "unexpected_rows_expectation"
_BATCH: Final = "dbsplit_batch"
Text = Annotated[str, StringConstraints(min_length=1, pattern=r"\S")]
M = TypeVar("M", bound=BaseModel)


class _Mapping(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class WrittenRule(_Mapping):
    """A rule in SQL."""

    table: Text
    meaning: Text
    unexpected: Text
    on: Annotated[tuple[Side, ...], Field(min_length=1)] = SIDES
    severity: Severity = "error"


class WrittenSuite(_Mapping):
    """A file of rules in SQL."""

    service: Text
    rules: Annotated[dict[Text, WrittenRule], Field(min_length=1)]


class About(_Mapping):
    """What an expectation is about: ``meta.dbsplit`` of the suite, or of the expectation."""

    service: Text | None = None
    table: Text | None = None
    rule: Text | None = None
    on: Annotated[tuple[Side, ...], Field(min_length=1)] | None = None
    severity: Severity | None = None


class _Lenient(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class Meta(_Lenient):
    """Of Great Expectations' `meta`, what is ours."""

    dbsplit: About = About()


class WrittenExpectation(_Lenient):
    """An expectation as Great Expectations writes it."""

    type: Text
    kwargs: dict[str, Any] = {}
    meta: Meta = Meta()
    description: str | None = None
    severity: Literal["critical", "warning", "info"] = "critical"


class WrittenExpectations(_Lenient):
    """A suite as Great Expectations writes it."""

    name: Text
    expectations: Annotated[list[WrittenExpectation], Field(min_length=1)]
    meta: Meta


@dataclass(frozen=True, slots=True)
class _File:
    """A suite's file: where things stand in it, and the tables that there are."""

    places: Places
    problems: Problems
    services: Mapping[str, tuple[ServiceTable, ...]]

    def service(self, name: str | None, path: Place) -> str:
        """The service, if it is one."""
        if name not in self.services:
            said = "names no service" if name is None else f"the plan has no service {name!r}"
            self.problems.add(path, said, one_of(name or "", self.services))
        return name or ""

    def table(self, service: str, name: str | None, path: Place) -> ServiceTable | None:
        """The service's table of this name; the first, if it is in several schemas."""
        tables = self.services.get(service, ())
        for table in tables:
            if name in (table.name.name, str(table.name)):
                return table
        if service in self.services:
            known = [text for table in tables for text in (table.name.name, str(table.name))]
            said = "names no table" if name is None else f"{service} has no table {name!r}"
            self.problems.add(path, said, one_of(name or "", known))
        return None

    def query(self, text: str, path: Place) -> None:
        """Note what is wrong with a query, as far as it can be told without a server."""
        try:
            statements = pgparse.parse(text)
        except pgparse.PGQueryError as error:
            at = max(0, min(int(error.position) - 1, len(text)))
            line, column = self.places.mark(path)
            if "\n" in text:  # a block: its text begins below
                line, column = line + 1 + text.count("\n", 0, at), 1
            self.problems.add_at((line, column), path, f"isn't SQL: {error.message}")
            return
        if len(statements) != 1 or "SelectStmt" not in statements[0]["stmt"]:
            self.problems.add(path, "isn't one SELECT", "write a SELECT of the rows that are wrong")


def read_suites(
    directory: Path, services: Mapping[str, tuple[ServiceTable, ...]]
) -> tuple[Rule, ...]:
    """All suites of a directory, in the order of their files' names.

    `services` has every service's tables, those of the plan's first schema first.
    Raises PlanInvalid with all that is wrong in the files, each with its place;
    an empty directory is wrong, too.
    """
    files = [path for path in sorted(directory.iterdir()) if path.suffix in _READERS]
    if not files:
        raise PlanInvalid(
            f"{directory} has no suites",
            hint="write NAME.yaml with rules in SQL, or NAME.json as Great Expectations does",
        )
    rules: list[Rule] = []
    wrong: list[Problem] = []
    for path in files:
        try:
            rules += _READERS[path.suffix](path, services)
        except PlanProblems as problems:
            wrong += problems.problems
    if wrong:
        raise PlanProblems(str(directory), wrong)
    _require_names(directory, rules)
    return tuple(rules)


def _require_names(directory: Path, rules: Iterable[Rule]) -> None:
    """Two rules of a service with one name could not be told apart in a report."""
    seen: dict[tuple[str, str], Rule] = {}
    wrong = [
        Problem(rule.place, "", f"{rule.service} has a rule {rule.name!r} at {first.place}, too")
        for rule in rules
        if (first := seen.setdefault((rule.service, rule.name), rule)) is not rule
    ]
    if wrong:
        raise PlanProblems(str(directory), wrong)


def _read_yaml(path: Path, services: Mapping[str, tuple[ServiceTable, ...]]) -> list[Rule]:
    file, suite = _read(path, services, WrittenSuite)
    service = file.service(suite.service, ("service",))
    found = list(_sql_rules(file, service, suite))
    file.problems.raise_if_any()
    return found


def _sql_rules(file: _File, service: str, suite: WrittenSuite) -> Iterator[Rule]:
    for name, rule in suite.rules.items():
        path: Place = ("rules", name)
        table = file.table(service, rule.table, (*path, "table"))
        file.query(rule.unexpected, (*path, "unexpected"))
        if table is not None:
            tables = file.services[service]
            yield Rule(
                name=name,
                service=service,
                table=str(table.name),
                meaning=" ".join(rule.meaning.split()),
                queries={side: with_tables(rule.unexpected, tables, side) for side in rule.on},
                severity=rule.severity,
                place=file.places.at(file.places.mark(path, at_key=True)),
            )


def _read_json(path: Path, services: Mapping[str, tuple[ServiceTable, ...]]) -> list[Rule]:
    try:
        json.loads(path.read_bytes())
    except json.JSONDecodeError as error:
        place = f"{path}:{error.lineno}:{error.colno}"
        said = Problem(place, "", f"isn't readable JSON: {error.msg}")
        raise PlanProblems(str(path), [said]) from None
    file, suite = _read(path, services, WrittenExpectations)  # JSON is YAML
    found = [
        rule
        for number, one in enumerate(suite.expectations)
        if (rule := _expected(file, suite, number, one)) is not None
    ]
    file.problems.raise_if_any()
    return found


def _expected(
    file: _File, suite: WrittenExpectations, number: int, one: WrittenExpectation
) -> Rule | None:
    path: Place = ("expectations", number)
    all_, own = suite.meta.dbsplit, one.meta.dbsplit
    about: Place = (*path, "meta", "dbsplit") if own.table else ("meta", "dbsplit")
    service = file.service(own.service or all_.service, about)
    table = file.table(service, own.table or all_.table, about)
    if reason := SAMPLED.get(one.type):
        file.problems.add((*path, "type"), f"{one.type} is no proof: {reason}", _IN_SQL)
    if table is None:
        return None
    column = one.kwargs.get("column")
    return Rule(
        name=own.rule or " ".join([suite.name, one.type, *([str(column)] if column else [])]),
        service=service,
        table=str(table.name),
        meaning=one.description or f"{one.type}({_said(one.kwargs)})",
        queries={
            side: _rows_of(file, path, one, table, side)
            for side in own.on or all_.on or SIDES
            if side == "target" or table.routes
        },
        severity=own.severity
        or all_.severity
        or ("error" if one.severity == "critical" else "warning"),
        expectation=None if one.type == _ROWS_QUERY else {"type": one.type, "kwargs": one.kwargs},
        place=file.places.at(file.places.mark(path)),
    )


_IN_SQL: Final = "write the rule as a SELECT of the rows that break it, in a .yaml file"


def _rows_of(
    file: _File, path: Place, one: WrittenExpectation, table: ServiceTable, side: Side
) -> str:
    """The rows that break the rule if it is in SQL, else those that it is about."""
    everything = sql.SQL("SELECT * FROM {} AS r").format(table.rows(side))
    if one.type != _ROWS_QUERY:
        return everything.as_string()
    path = (*path, "kwargs", "unexpected_rows_query")
    try:
        query = str(one.kwargs.get("unexpected_rows_query", "")).format(batch=_BATCH)
    except (KeyError, IndexError, ValueError):
        file.problems.add(path, "holds a brace that stands for nothing", "write {{ for a brace")
        return ""
    file.query(query, path)
    return with_tables(query, file.services[table.service], side, {_BATCH: everything})


def _said(kwargs: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in kwargs.items())


def _read(
    path: Path, services: Mapping[str, tuple[ServiceTable, ...]], model: type[M]
) -> tuple[_File, M]:
    data, places = read_yaml(path)
    problems = Problems(places)
    for entry in places.repeated:
        problems.add_at(
            entry.key, entry.path, f"{entry.path[-1]!r} stands here twice", "keep one of them"
        )
    try:
        suite = model.model_validate(data)
    except ValidationError as invalid:
        add_invalid(problems, invalid, data, model)
        raise PlanProblems(places.file, problems.all) from None
    return _File(places, problems, services), suite


_READERS: Final = {".yaml": _read_yaml, ".yml": _read_yaml, ".json": _read_json}
