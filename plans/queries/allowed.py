"""The allow-list: statements that may cross for a while, with a reason and an end."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from plans.catalog import name_parts
from plans.invalid import add_invalid
from plans.model import Names, Text
from plans.places import Places
from plans.problems import PlanProblems, Problems
from plans.queries.crossing import Judged
from plans.yaml_file import read_yaml


class _Mapping(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Entry(_Mapping):
    """Statements that may cross until a day; at least one of the first three says which."""

    fingerprint: Text | None = None
    """As `plan queries` prints it: the same for statements that differ in constants only."""
    tables: Names = ()
    """Statements that use no other tables than these."""
    path: Text | None = None
    """Files that the statement stands in, with * and ?."""
    reason: Text
    """Why it may, and who takes care of it."""
    expires: Annotated[date, Field(strict=False)]
    """The last day on which it may."""


class AllowFile(_Mapping):
    """An allow-list."""

    allow: Annotated[tuple[Entry, ...], Field(strict=False)] = ()


@dataclass(frozen=True, slots=True)
class Allowed:
    """The entries of an allow-list, with their places."""

    entries: tuple[Entry, ...] = ()
    places: Places | None = None

    def match(self, judged: Judged, file: str) -> int | None:
        """The entry that speaks of a statement, the one that ends last."""
        found = [n for n, entry in enumerate(self.entries) if _speaks_of(entry, judged, file)]
        return max(found, key=lambda n: self.entries[n].expires, default=None)

    def holds(self, judged: Judged, file: str, today: date) -> bool:
        """Whether a statement may cross today."""
        entry = self.match(judged, file)
        return entry is not None and self.entries[entry].expires >= today

    def place(self, number: int) -> str:
        """Where an entry stands."""
        return self.places.place(("allow", number)) if self.places else ""


FILE = "allowed-queries.yaml"
"""The allow-list's name, beside the plan."""


def allowed_of(plan: Path) -> Allowed:
    """The allow-list that lies beside a plan; an empty one if there is none."""
    path = plan.parent / FILE
    return load_allowed(path) if path.is_file() else Allowed()


def load_allowed(path: Path) -> Allowed:
    """Read an allow-list; PlanInvalid with all problems and their places."""
    data, places = read_yaml(path)
    problems = Problems(places)
    for entry in places.repeated:
        problems.add_at(entry.key, entry.path, f"{entry.path[-1]!r} stands here twice")
    try:
        file = AllowFile.model_validate(data if data is not None else {})
    except ValidationError as invalid:
        add_invalid(problems, invalid, data, AllowFile)
        raise PlanProblems(places.file, problems.all) from None
    for number, one in enumerate(file.allow):
        if not (one.fingerprint or one.tables or one.path):
            problems.add(
                ("allow", number), "doesn't say what it allows", "add fingerprint, tables or path"
            )
    problems.raise_if_any()
    return Allowed(file.allow, places)


def _speaks_of(entry: Entry, judged: Judged, file: str) -> bool:
    if entry.fingerprint and entry.fingerprint != judged.fingerprint:
        return False
    if entry.path and not fnmatchcase(file, entry.path):
        return False
    return not entry.tables or _only(judged, entry.tables)


def _only(judged: Judged, tables: Iterable[str]) -> bool:
    known = {name_parts(name) for name in tables}
    return all(
        (use.table.name,) in known or (use.table.schema, use.table.name) in known
        for use in judged.uses
    )
