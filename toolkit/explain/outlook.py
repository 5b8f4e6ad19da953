"""What is known of a split before anything is changed: facts, read by `foresight`.

Where a value may be None, None says "not known", which is never shown as zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from plans.catalog import TableName
from plans.dependents import Dependent
from plans.findings import Finding
from plans.schema.ddl import TargetSchema
from toolkit.opened import Split
from toolkit.state import Phase
from toolkit.target_server import TargetServer

PAGE_BYTES = 8192
_PAGES_GUESSED = 10  # what PostgreSQL's planner takes a small table for that was never analyzed


@dataclass(frozen=True, slots=True)
class Index:
    """An index of a source table."""

    columns: frozenset[str]  # those that it names; expressions are not read
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What the source's statistics say of a table, its partitions included."""

    heap_bytes: int
    analyzed: bool  # False: the planner guesses
    inserted: int
    updated: int
    deleted: int
    indexes: tuple[Index, ...]

    @property
    def writes(self) -> int:
        """Rows that were written since the statistics began."""
        return self.inserted + self.updated + self.deleted

    @property
    def overrated(self) -> float:
        """By how much the planner multiplies a small table that was never analyzed."""
        pages = self.heap_bytes / PAGE_BYTES
        return 1.0 if self.analyzed or pages >= _PAGES_GUESSED else _PAGES_GUESSED / max(pages, 1)


@dataclass(frozen=True, slots=True)
class Planned:
    """The planner's estimate of a query: how many rows, and how wide one is."""

    rows: int
    width_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetSeen:
    """A service's database, as it answered or did not."""

    server: TargetServer  # taken to be like the source's if it does not answer
    said: str = ""  # why it did not; "" if it did
    copied: Mapping[str, int] = field(default_factory=dict)  # route to its rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far the split is; all of it empty before `prepare`."""

    prepared: bool = False
    phases: Mapping[str, Phase] = field(default_factory=dict)
    validated: Mapping[str, str] = field(default_factory=dict)  # route to "equal" or another word
    stream_live: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """A split, and everything that tells what carrying it out will take."""

    split: Split
    findings: Sequence[Finding]
    dependents: Sequence[Dependent]
    measured: Mapping[TableName, Measured]
    planned: Mapping[str, Planned]  # of each route's rows
    whole: Mapping[TableName, Planned]  # of each table's rows, with all columns
    schemas: Mapping[str, TargetSchema]
    targets: Mapping[str, TargetSeen]
    progress: Progress
    control: str  # the control schema's SQL
    revisions: Mapping[str, str]  # a service's hand-written revisions as SQL
    wal_bytes_per_s: float | None  # of the whole server, on average
    writes_per_s: float | None  # of the split tables' rows, on average
    unknown: tuple[str, ...] = ()  # what could not be looked at, in sentences
