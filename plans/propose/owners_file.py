"""The owners file: what somebody knows already, and a proposal must honour.

``{table: service}`` or ``{tables: {table: service}}``; a table may have all that it may
have in a plan.  Beside `tables`, `reference` lists tables of which the other services
keep copies; other keys are somebody's notes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path as FilePath
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, ValidationError

from plans.catalog import Catalog, Table, TableName
from plans.coherence import check_tables, services_named
from plans.invalid import add_invalid
from plans.model import TableEntry, TablePlan, Text
from plans.places import Path, Places
from plans.problems import PlanProblems, Problems, suggestion
from plans.propose.evidence import Told
from plans.yaml_file import read_yaml

TABLES: Final = "tables"
REFERENCE: Final = "reference"


class _Owners(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)

    tables: dict[Text, TableEntry] = {}


@dataclass(frozen=True, slots=True)
class OwnersFile:
    """What the file says, and which of its keys say nothing."""

    told: Mapping[TableName, Told]
    copied: frozenset[TableName] = frozenset()
    ignored: tuple[str, ...] = ()


def read_owners(path: FilePath, catalog: Catalog, services: Sequence[str]) -> OwnersFile:
    """Read an owners file.

    Raises PlanInvalid with all problems, each with its place: services that aren't among
    `services`, tables that the catalog doesn't have, and whatever a plan couldn't hold.
    OSError if the file cannot be read.
    """
    data, places = read_yaml(path)
    data, places = _nested(data, places)
    problems = Problems(places)
    for again in places.repeated:
        problems.add_at(again.key, again.path, f"{again.path[-1]!r} stands here twice")
    tables = _entries(data, problems)
    for name, entry in tables.items():
        _check_services(name, entry, services, problems)
    known = {*services, *(one for entry in tables.values() for _, one in services_named(entry))}
    check_tables(tables, known, problems)
    told = _told(tables, catalog, places, problems)
    copied = frozenset(_copied(data.get(REFERENCE), catalog, problems))
    problems.raise_if_any()
    return OwnersFile(told, copied, tuple(sorted(set(data) - {TABLES, REFERENCE})))


def _nested(data: Any, places: Places) -> tuple[dict[str, Any], Places]:  # noqa: ANN401
    """The file with its tables below `tables`, wherever they stand, and the places to it."""
    if data is None:
        return {}, places
    if not isinstance(data, dict):
        problems = Problems(places)
        problems.add((), "is no mapping", "write table: service, one table a line")
        raise PlanProblems(places.file, problems.all)
    data = {str(key): value for key, value in data.items()}
    if isinstance(data.get(TABLES), dict) and not set(data[TABLES]) <= set(TablePlan.model_fields):
        return data, places
    beside = {key: value for key, value in data.items() if key == REFERENCE and _is_list(value)}
    tables = {key: value for key, value in data.items() if key not in beside}
    moved = {
        path: replace(entry, path=path)
        for entry in places.entries.values()
        for path in [entry.path if entry.path[0] in beside else (TABLES, *entry.path)]
    }
    repeated = tuple(replace(one, path=(TABLES, *one.path)) for one in places.repeated)
    return {TABLES: tables, **beside}, Places(places.file, moved, repeated)


def _is_list(value: object) -> bool:
    return isinstance(value, list)


def _entries(data: Mapping[str, Any], problems: Problems) -> dict[str, TablePlan]:
    """The tables' entries; those that a plan couldn't hold are problems."""
    try:
        return dict(_Owners.model_validate(data).tables)
    except ValidationError as invalid:
        add_invalid(problems, invalid, data, _Owners)
    found: dict[str, TablePlan] = {}
    for name, value in data[TABLES].items():
        try:
            found |= _Owners.model_validate({TABLES: {name: value}}).tables
        except ValidationError:
            continue
    return found


def _check_services(
    name: str, entry: TablePlan, services: Sequence[str], problems: Problems
) -> None:
    for here, service in services_named(entry):
        if service not in services:
            path: Path = (TABLES, name, *here)
            meant = suggestion(service, services)
            added = f"add it: --services {','.join([*services, service])}"
            problems.add(
                path, f"{service!r} isn't among --services ({', '.join(services)})",
                f"{meant} If not, {added}" if meant else added,
            )  # fmt: skip


def _told(
    tables: Mapping[str, TablePlan], catalog: Catalog, places: Places, problems: Problems
) -> dict[TableName, Told]:
    found: dict[TableName, Told] = {}
    names: dict[TableName, str] = {}
    for name, entry in tables.items():
        path: Path = (TABLES, name)
        table = _table(name, path, catalog, problems)
        if table is None:
            continue
        if table.name in names:
            problems.add(
                path, f"{table.name} stands here twice, as {names[table.name]!r} too", at_key=True
            )
            continue
        names[table.name] = name
        found[table.name] = Told(entry, places.place(path))
    return found


def _table(name: str, path: Path, catalog: Catalog, problems: Problems) -> Table | None:
    """The table of a name; a problem if there is none that needs an owner."""
    table = catalog.find(name)
    if table is None:
        known = {text for one in catalog.tables for text in (one.name, str(one))}
        where = f"{catalog.database} (schemas: {', '.join(catalog.schemas)})"
        remedy = suggestion(name.replace('"', ""), known)
        problems.add(path, f"there is no table {name!r} in {where}", remedy, at_key=True)
        return None
    if table.is_partition and table.parent in catalog.tables:
        problems.add(
            path, f"{table.name} is a partition of {table.parent}", f"name {table.parent}",
            at_key=True,
        )  # fmt: skip
        return None
    return table


def _copied(data: Any, catalog: Catalog, problems: Problems) -> Iterator[TableName]:  # noqa: ANN401
    if data is None:
        return
    if not isinstance(data, list):
        problems.add((REFERENCE,), "is no list", "list tables of which others keep copies")
        return
    for index, name in enumerate(data):
        path: Path = (REFERENCE, index)
        if table := _table(str(name), path, catalog, problems):
            yield table.name
