"""What the demo found out, the result made from it, and whether that is a success."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from plans.crm_shop.workload.check import HistoryReport
from toolkit.demo.orders import Moves
from toolkit.report.model import (
    Contradiction,
    Event,
    Figures,
    IllegalTransition,
    Pause,
    PhaseSpan,
    ServerInfo,
    TableRow,
)

Result = dict[str, Any]


@dataclass(slots=True, kw_only=True)
class Facts:
    """Filled in step by step; None says "not looked at"."""

    split: str = ""
    rows: int = 0
    changes: int = 0
    acknowledged: int = 0
    moves: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)
    comparison: Mapping[str, Any] | None = None  # the last result of `validate`
    history: HistoryReport | None = None
    orders: Moves | None = None
    resolved: int = 0
    servers: Sequence[ServerInfo] = ()
    phases: Sequence[PhaseSpan] = ()
    pauses: Sequence[Pause] = ()
    tables: Sequence[TableRow] = ()
    contradictions: Sequence[Contradiction] = ()
    transitions: Sequence[IllegalTransition] = ()
    events: list[Event] = field(default_factory=list)
    stopped: str = ""  # why it ended early

    @property
    def differences(self) -> int | None:
        """Rows that differ, None if some could not be told."""
        if self.comparison is None:
            return None
        tables = self.comparison["tables"]
        found = sum(t["missing"] + t["extra"] + t["different"] for t in tables)
        return None if not found and not self.comparison["consistent"] else found

    @property
    def write_pause_ms(self) -> list[float]:
        """The pauses of all moves, in their order."""
        return [result["write_pause_ms"] for _, result in self.moves]

    @property
    def ok(self) -> bool:
        """Whether all was done, and every acknowledged write is there once."""
        return (
            not self.stopped
            and self.differences == 0
            and self.history is not None
            and self.history.whole
            and self.orders is not None
        )

    def listed(self, name: str) -> Mapping[str, Any] | None:
        """One of the plan's lists, as the last comparison has read it."""
        lists = self.comparison["lists"] if self.comparison else []
        return next((one for one in lists if one["name"] == name and not one["error"]), None)

    def figures(self) -> Figures:
        """For the report."""
        history = self.history
        return Figures(
            rows=self.rows,
            changes=self.changes,
            acknowledged=self.acknowledged,
            missing=None if history is None else history.missing,
            doubled=None if history is None else history.doubled,
            otherwise_wrong=0
            if history is None
            else history.phantom + history.altered + history.torn,
            differences=self.differences,
            contradictions=self.resolved,
            indeterminate=0 if history is None else history.indeterminate,
            write_pause_ms=self.write_pause_ms,
        )

    def result(self, **files: str) -> Result:
        """The result object that scripts read; None is "not looked at"."""
        history = self.history
        return {
            "ok": self.ok,
            "rows": self.rows,
            "changes": self.changes,
            "acknowledged": self.acknowledged,
            "indeterminate": history and history.indeterminate,
            "missing": history and history.missing,
            "doubled": history and history.doubled,
            "phantom": history and history.phantom,
            "altered": history and history.altered,
            "torn": history and history.torn,
            "differences": self.differences,
            "contradictions": self.resolved,
            "write_pause_ms": self.write_pause_ms,
            "longest_wait_ms": history and round(history.max_pause_ms),
            "faults": list(history.examples) if history else [],
            **({"stopped": self.stopped} if self.stopped else {}),
            **files,
        }
