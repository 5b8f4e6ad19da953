"""The next revision of a plan file: what a changed schema asks of it, with its comments kept."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Protocol

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq

from plans.model import DROP

WIDTH = 4096  # lines are not folded anew


class Edit(Protocol):
    """One change of the plan's `tables:`; a dataclass of texts."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def apply(self, tables: CommentedMap) -> None:
        """Make it."""


@dataclass(frozen=True, slots=True)
class NewEntry:
    """A table that came, and whose it is."""

    table: str
    owner: str

    def __str__(self) -> str:
        return f"{self.table}: {self.owner}"

    def apply(self, tables: CommentedMap) -> None:
        """Add it at the end."""
        tables[self.table] = self.owner


@dataclass(frozen=True, slots=True)
class RenamedEntry:
    """A table that is called otherwise."""

    table: str
    now: str

    def __str__(self) -> str:
        return f"{self.table} is called {self.now}"

    def apply(self, tables: CommentedMap) -> None:
        """Keep it in its place."""
        place = list(tables).index(self.table)
        tables.insert(place, self.now, tables.pop(self.table))


@dataclass(frozen=True, slots=True)
class GoneEntry:
    """A table that went."""

    table: str

    def __str__(self) -> str:
        return f"{self.table} is taken out"

    def apply(self, tables: CommentedMap) -> None:
        """Take it out."""
        tables.pop(self.table, None)


@dataclass(frozen=True, slots=True)
class NewColumn:
    """A column that came, and the service whose it is, or drop."""

    table: str
    column: str
    owner: str

    def __str__(self) -> str:
        return f"{self.table}.{self.column}: {self.owner}"

    def apply(self, tables: CommentedMap) -> None:
        """Write it where the plan has to name it; a whole table has all its columns."""
        entry = tables[self.table]
        if self.owner == DROP:
            if isinstance(entry, str):
                entry = tables[self.table] = CommentedMap(owner=entry)
            entry.setdefault("drop", _flow()).append(self.column)
        elif not isinstance(entry, str) and entry.get("split_columns") is not None:
            entry["split_columns"][self.owner].append(self.column)


@dataclass(frozen=True, slots=True)
class RenamedColumn:
    """A column that is called otherwise."""

    table: str
    column: str
    now: str

    def __str__(self) -> str:
        return f"{self.table}.{self.column} is called {self.now}"

    def apply(self, tables: CommentedMap) -> None:
        """In every list that names it."""
        for names in _lists(tables[self.table]):
            if self.column in names:
                names[names.index(self.column)] = self.now


@dataclass(frozen=True, slots=True)
class GoneColumn:
    """A column that went."""

    table: str
    column: str

    def __str__(self) -> str:
        return f"{self.table}.{self.column} is taken out"

    def apply(self, tables: CommentedMap) -> None:
        """Take it out of every list that names it."""
        entry = tables[self.table]
        for names in _lists(entry):
            if self.column in names:
                names.remove(self.column)
        if not isinstance(entry, str) and "drop" in entry and not entry["drop"]:
            del entry["drop"]


_KINDS = {
    kind.__name__: kind
    for kind in (NewEntry, RenamedEntry, GoneEntry, NewColumn, RenamedColumn, GoneColumn)
}


def edit_as_dict(edit: Edit) -> dict[str, str]:
    """An edit, for JSON."""
    return {"edit": type(edit).__name__, **asdict(edit)}


def edit_of(noted: Mapping[str, str]) -> Edit:
    """As it was noted."""
    fields = {name: value for name, value in noted.items() if name != "edit"}
    return _KINDS[noted["edit"]](**fields)


def revise(text: str, edits: Iterable[Edit]) -> str:
    """The plan's text with these edits; what is not concerned stays as it is written."""
    yaml = YAML(typ="rt")
    yaml.preserve_quotes = True
    yaml.width = WIDTH
    yaml.indent(mapping=2, sequence=4, offset=2)
    data = yaml.load(text)
    tables = data.setdefault("tables", CommentedMap())
    for edit in edits:
        edit.apply(tables)
    out = io.StringIO()
    yaml.dump(data, out)
    return out.getvalue()


def _lists(entry: Any) -> Iterable[list[str]]:  # noqa: ANN401 - what YAML holds
    """Where an entry lists columns of its table."""
    if isinstance(entry, str):
        return []
    found = list((entry.get("split_columns") or {}).values())
    return [*found, *([entry["drop"]] if entry.get("drop") else [])]


def _flow() -> CommentedSeq:
    found = CommentedSeq()
    found.fa.set_flow_style()
    return found
