"""The stages of a split as data: what `dbsplit run` carries out, and what follows it.

There is one list.  `run` walks it and calls the verb of each stage that is its own;
`plan explain` shows the same list, filled with what is known beforehand.  Nothing here
reads or changes anything.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from plans.check_tables import unfilled_columns
from plans.routes import Kind
from toolkit.explain.outlook import Outlook
from toolkit.explain.predictions import NOT_KNOWN, Predicted
from toolkit.explain.stage_details import Detail, details
from toolkit.explain.stage_sql import Command, commands


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One stage, with what is known of it."""

    name: str
    verb: str
    what: str
    until: str | None = ""
    """With which `run --until` it belongs to `run`: "" always, None never."""

    details: tuple[Detail, ...] = ()
    statements: tuple[Command, ...] = ()
    predicted: Predicted = NOT_KNOWN
    done: bool = False
    unknown: tuple[str, ...] = ()  # what cannot be said beforehand

    def as_dict(self, *, with_sql: bool) -> dict[str, Any]:
        """For JSON."""
        told = {
            "name": self.name,
            "verb": self.verb,
            "what": self.what,
            "run": self.until is not None,
            "done": self.done,
            "predicted": self.predicted.as_dict(),
            "details": [asdict(detail) for detail in self.details],
            "unknown": list(self.unknown),
        }
        if with_sql:
            told["statements"] = [asdict(statement) for statement in self.statements]
        return told


STAGES = (
    Stage(
        name="prepare",
        verb="dbsplit prepare",
        what="Makes the targets' schemas up to the data, the control schema, the publication"
        " and the slot. From its end on the source keeps its log for the slot.",
    ),
    Stage(
        name="copy",
        verb="dbsplit copy",
        what="Copies every row as of one moment, while applications write, then makes"
        " indexes, keys and triggers.",
    ),
    Stage(
        name="stream",
        verb="dbsplit stream",
        what="Follows the source's changes, until the split is complete.",
    ),
    Stage(
        name="validate",
        verb="dbsplit validate",
        what="Compares every row of both sides, while applications write.",
        until="ready",
    ),
    Stage(
        name="cutover",
        verb="dbsplit cutover",
        what="Gives the right to write to the targets; the source follows them from then on."
        " `dbsplit rollback` is the way back.",
        until=None,
    ),
    Stage(
        name="complete",
        verb="dbsplit complete",
        what="Retires the source's tables and removes everything that the split has left."
        " There is no way back afterwards.",
        until=None,
    ),
)


def stages_of_run(until: str | None, *, copied: bool = False) -> tuple[Stage, ...]:
    """What `run` carries out, in this order; if all is `copied`, from the stream on."""
    done = ("prepare", "copy") if copied else ()
    stages = [one for one in STAGES if one.name not in done]
    return tuple(one for one in stages if one.until == "" or (until and one.until == until))


def stages(outlook: Outlook) -> tuple[Stage, ...]:
    """The same stages with what they will do, as far as it can be told now."""
    statements, filled = commands(outlook), details(outlook)
    return tuple(
        replace(one, statements=statements.get(one.name, ()), **filled[one.name]) for one in STAGES
    )


def not_reversible(outlook: Outlook) -> tuple[str, ...]:
    """What a rollback cannot take back, in sentences."""
    told = []
    for route in outlook.split.routes:
        if missing := unfilled_columns(route) if route.kind.owned else ():
            told.append(
                f"{route.id}: inserts are refused from the cutover until complete, because the"
                f" source needs {', '.join(missing)}"
            )
        elif route.kind is Kind.DERIVED:
            told.append(
                f"{route.id}: its rows are computed, and read-only in {route.service} until"
                " complete"
            )
    return (*told, "complete: after it there is no rollback")
