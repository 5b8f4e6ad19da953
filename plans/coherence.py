"""Contradictions between parts of a plan, found without a database."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path as FilePath
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from plans import conninfo, names
from plans.model import DROP, Listing, PlanFile, Service, TableEntry, TablePlan
from plans.places import Path
from plans.problems import Problems, one_of

_TABLE: TypeAdapter[TablePlan] = TypeAdapter(TableEntry)
_LIST = TypeAdapter(Listing)

T = TypeVar("T")

SLOT_NAME_LENGTH_MAX = 63  # NAMEDATALEN - 1


def check(plan: PlanFile, problems: Problems) -> None:
    """Add every contradiction within the plan."""
    _check_services(plan.services, problems)
    _check_names(plan, problems)
    dsns: dict[Path, str] = {("source", "dsn"): plan.source.dsn}
    dsns |= {("services", name, "dsn"): service.dsn for name, service in plan.services.items()}
    _check_databases(dsns, problems)
    check_tables(plan.tables, set(plan.services), problems)
    _check_lists(plan.lists, set(plan.services), problems)
    if plan.switch.kind == "pgbouncer":
        for name in plan.switch.databases:
            _expect_service(name, plan.services, ("switch", "databases", name), problems)


def check_readable(data: Any, problems: Problems) -> None:  # noqa: ANN401
    """Check those tables and lists of an invalid plan that can be read by themselves."""
    if not isinstance(data, dict):
        return
    services = data.get("services")
    if isinstance(services, dict):
        names = {name for name in services if isinstance(name, str)}
        check_tables(_readable(data.get("tables"), _TABLE), names, problems)
        _check_lists(_readable(data.get("lists"), _LIST), names, problems)


def _readable(data: Any, adapter: TypeAdapter[T]) -> dict[str, T]:  # noqa: ANN401
    found: dict[str, T] = {}
    for name, value in data.items() if isinstance(data, dict) else ():
        try:
            found[name] = adapter.validate_python(value)
        except ValidationError:
            continue
    return found


def _check_services(services: Mapping[str, Service], problems: Problems) -> None:
    for name, service in services.items():
        path: Path = ("services", name)
        if name in (DROP, "source"):
            problems.add(path, f"{name!r} has a meaning of its own", "name the service otherwise")
        if service.revisions is not None and not FilePath(service.revisions).is_dir():
            problems.add(
                (*path, "revisions"), f"there is no directory {str(service.revisions)!r}",
                "the path is relative to the plan file",
            )  # fmt: skip


def _check_names(plan: PlanFile, problems: Problems) -> None:
    """Slots and origins are named after split and service, no two alike; slots in 63 bytes."""
    taken: dict[tuple[str, str], str] = {}
    for service in plan.services:
        path: Path = ("services", service)
        slot = names.back_slot(plan.split, service)
        if len(slot) > SLOT_NAME_LENGTH_MAX:
            excess = len(slot) - SLOT_NAME_LENGTH_MAX
            problems.add(
                path, f"the slot's name {slot!r} is {excess} characters too long",
                "give the split or the service a shorter name", at_key=True,
            )  # fmt: skip
        for what, named in names.OF_A_SERVER:
            other = taken.setdefault((what, named(plan.split, service)), service)
            if other != service:
                problems.add(
                    path, f"{service!r} and {other!r} would name the same {what}",
                    "give one of them another name", at_key=True,
                )  # fmt: skip
                break


def _check_databases(dsns: Mapping[Path, str], problems: Problems) -> None:
    seen: dict[tuple[str, ...], Path] = {}
    for path, dsn in dsns.items():
        database = conninfo.database_of(dsn)
        if database is None:
            continue  # said by conninfo.expand
        other = seen.setdefault(database, path)
        if other != path:
            problems.add(
                path,
                f"the same database as {'.'.join(map(str, other[:-1]))}",
                "every service gets a database of its own",
            )


def check_tables(
    tables: Mapping[str, TablePlan], services: Iterable[str], problems: Problems
) -> None:
    """Add every contradiction within the tables' entries."""
    for name, table in tables.items():
        path: Path = ("tables", name)
        for here, service in services_named(table):
            _expect_service(service, services, (*path, *here), problems)
        _check_ways(table, path, problems)
        _check_repeated(table, path, problems)


def services_named(table: TablePlan) -> Iterator[tuple[Path, str]]:
    """Every service that an entry names, and where in it."""
    if table.owner is not None and not table.dropped:
        yield ("owner",), table.owner
    for index, service in enumerate(table.reference_in):
        yield ("reference_in", index), service
    for service in table.split_columns or {}:
        yield ("split_columns", service), service
    for service in table.split_rows or {}:
        if service != DROP:
            yield ("split_rows", service), service
    for index, derive in enumerate(table.derive):
        yield ("derive", index, "into"), derive.into.partition(".")[0]


def _expect_service(name: str, services: Iterable[str], path: Path, problems: Problems) -> None:
    if name not in services:
        problems.add(path, f"there is no service {name!r}", one_of(name, services))


def _check_ways(table: TablePlan, path: Path, problems: Problems) -> None:
    ways = [way for way in ("owner", "split_columns", "split_rows") if getattr(table, way)]
    if len(ways) > 1:
        problems.add(path, f"has {' and '.join(ways)}", "every row and column has one owner")
    if not ways:
        problems.add(
            path, "has no owner",
            "name one (owner: service, split_columns, split_rows) or leave it behind (owner: drop)",
        )  # fmt: skip
    if table.reference_in and (table.owner is None or table.dropped):
        problems.add(
            (*path, "reference_in"),
            "a read-only copy needs a table with one owner",
            "name it (owner: SERVICE), or take reference_in out",
        )
    if table.dropped and table.drop:
        problems.add(
            (*path, "drop"),
            "the whole table is left behind already",
            "take the list of columns out",
        )


def _check_repeated(table: TablePlan, path: Path, problems: Problems) -> None:
    if table.owner in table.reference_in:
        problems.add((*path, "reference_in"), f"{table.owner} owns the table", "name others")
    lists: dict[Path, tuple[str, ...]] = {
        ("reference_in",): table.reference_in,
        ("drop",): table.drop,
        ("mask",): table.mask,
        **{
            ("split_columns", part): columns
            for part, columns in (table.split_columns or {}).items()
        },
    }
    for here, listed in lists.items():
        for index, name in enumerate(listed):
            if name in listed[:index]:
                problems.add(
                    (*path, *here, index), f"{name!r} stands here twice", "keep one of them"
                )
    for index, derive in enumerate(table.derive):
        for name in set(derive.key) & set(derive.columns):
            problems.add(
                (*path, "derive", index, "columns", name),
                f"{name!r} is in the key too",
                "take it out of one of them",
            )


def _check_lists(lists: Mapping[str, Listing], services: Iterable[str], problems: Problems) -> None:
    for name, listing in lists.items():
        if listing.on != "source":
            _expect_service(listing.on, {*services, "source"}, ("lists", name, "on"), problems)
