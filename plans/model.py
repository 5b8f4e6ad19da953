"""The plan file's format: what may be written where, and what it means.

Each class is one mapping of the file; the text below a key is what the reference and the
schema say of it (`plans.plan_schema`).  Nothing here looks at a database or at
another part of the file: contradictions within the file are found by
`plans.coherence`, contradictions with the database by `plans.compile`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    PositiveInt,
    StringConstraints,
    ValidationInfo,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

DROP = "drop"
"""Where a service is expected, this says out loud that something stays behind."""

# A slot name holds the split's and a service's name, and has at most 63 characters.
NAME_PATTERN = r"^[a-z][a-z0-9_-]{0,30}$"

Text = Annotated[str, StringConstraints(min_length=1, pattern=r"\S")]
Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
# YAML has lists only; the values of a plan do not change.
Names = Annotated[tuple[Text, ...], Field(strict=False)]
# Not shown by repr(): an expanded DSN may hold a password.
Dsn = Annotated[Text, Field(repr=False)]


class _Mapping(BaseModel):
    # Built when first used: then only the whole, and not each part of it as well.
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, defer_build=True)


def _beside_the_plan(path: Path, info: ValidationInfo) -> Path:
    directory = (info.context or {}).get("directory")
    return Path(directory) / path if directory is not None else path


class Source(_Mapping):
    """The shared database."""

    dsn: Dsn
    """A conninfo string, a URI or service=NAME; ${VARIABLE} is taken from the environment."""
    schemas: Annotated[Names, Field(min_length=1)] = ("public",)
    """The schemas to split, in the order in which unqualified names are looked up."""


class Service(_Mapping):
    """A service and its new database."""

    dsn: Dsn
    """A conninfo string, a URI or service=NAME; ${VARIABLE} is taken from the environment."""
    roles: Names = ()
    """The roles by which the service's application connects."""
    revisions: Annotated[Path, Field(strict=False), AfterValidator(_beside_the_plan)] | None = None
    """Hand-written Alembic revisions of a schema that is new, relative to the plan file."""


class Derive(_Mapping):
    """Rows of another service that are computed from this table's rows."""

    into: Annotated[str, StringConstraints(pattern=r"^[^.]+(\.[^.]+){1,2}$")]
    """service.table or service.schema.table"""
    key: Annotated[dict[Text, Text], Field(min_length=1)]
    """Target column to expression; a constant says whose row it is."""
    columns: dict[Text, Text] = {}
    """Target column to expression over the columns of one source row."""
    where: Text | None = None
    """Which source rows have a row in the target; all without it."""


class TablePlan(_Mapping):
    """What becomes of one table."""

    owner: Text | None = None
    """The one service that may write the table, or drop."""
    reference_in: Names = ()
    """Services that keep a read-only copy."""
    split_columns: Annotated[dict[Text, Names], Field(min_length=2)] | None = None
    """Service to its columns; every part has the key."""
    split_rows: Annotated[dict[Text, Text], Field(min_length=2)] | None = None
    """Service to the predicate of its rows; drop names rows that stay behind."""
    derive: Annotated[tuple[Derive, ...], Field(strict=False)] = ()
    """Rows of other services that are computed from this table's rows."""
    drop: Names = ()
    """Columns that are left behind."""
    mask: Names = ()
    """Columns whose values no comparison shows: a hash stands for them."""

    @property
    def dropped(self) -> bool:
        """Whether the table is left behind on purpose."""
        return self.owner == DROP


def _long_form(value: Any) -> Any:  # noqa: ANN401 - what YAML holds
    return {"owner": value} if isinstance(value, str) else value


class _ShortFormToo:
    """In the JSON Schema, a table's entry may be its owner alone."""

    def __get_pydantic_json_schema__(
        self, core: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        short = {"type": "string", "minLength": 1, "description": "The owner, or drop."}
        return {"anyOf": [short, handler(core)]}


TableEntry = Annotated[TablePlan, BeforeValidator(_long_form), _ShortFormToo()]


class CutForeignKey(_Mapping):
    """A foreign key that the split cuts."""

    replace_with: Literal["none", "reference", "orphan_check"]
    """none, a key to the read-only copy, or a check that finds orphans."""
    reason: Text | None = None
    """Who makes sure of it instead."""


class Sequences(_Mapping):
    """How sequences are set on a new leader."""

    gap: Annotated[int, Field(ge=0)] = 1000
    """Numbers that are skipped."""


class Limits(_Mapping):
    """Bounds; beyond them a step waits, or is given up."""

    lag_bytes_max: PositiveInt = 1_048_576
    """A cutover begins only when the stream is less than this behind."""
    write_pause_s_max: Annotated[float, Field(gt=0)] = 5
    """Writers wait at most so long; then the cutover is given up."""
    lock_timeout_ms: PositiveInt = 200
    """How long one attempt to fence a table may wait, and make others wait."""
    wal_retained_bytes_max: PositiveInt = 10_737_418_240
    """Log that our slots may hold back on a server; `slots.over_budget` says what then."""
    wal_full_in_s_min: PositiveInt = 1800
    """A cutover begins only if, as it grows now, that log reaches its limit no sooner."""
    standby_lag_bytes_max: PositiveInt = 1_073_741_824
    """The copy goes slower when a standby of the source is half of this behind, then pauses."""
    active_sessions_max: PositiveInt | None = None
    """The copy goes slower when half as many others are at work on the source, then pauses."""
    dirty_keys_max: PositiveInt = 100_000
    """Keys that may have to be compared again during the write pause."""
    snapshot_s_max: PositiveInt = 3600
    """A table whose keys have no order is read under one snapshot, given up after so long."""
    crossing_free_days_min: Annotated[float, Field(gt=0)] | None = None
    """A cutover begins only if no crossing statement was executed for so long; unset, any time."""


class Slots(_Mapping):
    """The replication slots that the split makes."""

    failover: bool = True
    """On PostgreSQL 17 and later, standbys that synchronize slots get ours."""
    over_budget: Literal["alert", "give_up"] = "alert"
    """What happens beyond limits.wal_retained_bytes_max, as long as no service has moved.

    With alert, the stream goes on and says so, and a copy ends with exit code 6.
    """


class Ddl(_Mapping):
    """What happens when the source's schema changes while the split follows it."""

    added_columns: Literal["stop", "ignore", "carry"] = "stop"
    """ignore: the column stays behind, and a cutover waits for a decision."""
    dropped_columns: Literal["stop", "carry"] = "stop"
    changed_columns: Literal["stop", "carry"] = "stop"
    """Renamed, of another type, NOT NULL or not, generated in another way; another key."""
    new_tables: Literal["stop", "ignore"] = "ignore"
    """ignore: the stream goes on without them, and a cutover waits for a decision."""
    new_partitions: Literal["stop", "carry"] = "carry"
    lost_partitions: Literal["stop", "carry"] = "stop"
    """Detached or dropped; carry drops them, with their rows, in the targets."""
    enum_labels: Literal["stop", "carry"] = "carry"
    """Values that were added to an enum."""


class PgbouncerSwitch(_Mapping):
    """Traffic is switched by PgBouncer."""

    kind: Literal["pgbouncer"]
    admin_dsn: Dsn
    """Its administration console; ${VARIABLE} is taken from the environment."""
    databases: dict[Text, Text]
    """Service to the database's name in PgBouncer."""


class CommandSwitch(_Mapping):
    """Traffic is switched by a command."""

    kind: Literal["command"]
    command: Annotated[Names, Field(min_length=1)]
    """The program and its arguments; DBSPLIT_STEP and DBSPLIT_ROUTES are in its environment."""
    timeout_s: Annotated[float, Field(gt=0)] = 5
    """After so long the switch has failed."""


class NoSwitch(_Mapping):
    """Traffic is switched by somebody else."""

    kind: Literal["none"] = "none"


class Listing(_Mapping):
    """A query whose rows somebody should see, such as contradictions between services."""

    on: Text
    """source, or a service."""
    query: Text
    """A SELECT."""
    reason: Text | None = None
    """What the rows mean."""


class PlanFile(_Mapping):
    """The plan of one split."""

    split: Name
    """Names slots, publications and control rows."""
    source: Source
    services: Annotated[dict[Name, Service], Field(min_length=1)]
    tables: dict[Text, TableEntry] = {}
    """Table, or schema.table, to its owner or to what becomes of it."""
    foreign_keys: dict[Text, CutForeignKey] = {}
    """Those that the split cuts: name, table.name or schema.table.name."""
    lists: dict[Name, Listing] = {}
    sequences: Sequences = Sequences()
    limits: Limits = Limits()
    slots: Slots = Slots()
    ddl: Ddl = Ddl()
    switch: Annotated[PgbouncerSwitch | CommandSwitch | NoSwitch, Field(discriminator="kind")] = (
        NoSwitch()
    )
