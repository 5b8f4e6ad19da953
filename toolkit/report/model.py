"""What a report of one split is made from.

Values only: `dataclasses.asdict` of a report is JSON.  Moments are unix seconds, durations
carry their unit in their name.  Where a number may be None, None says "not looked at", which
is never shown as zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerInfo:
    """One PostgreSQL server that took part."""

    name: str
    version: str
    role: str  # "source", "target", …


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseSpan:
    """A service was in one phase for a while."""

    service: str
    phase: str  # PLANNED … COMPLETED, in either case
    begin: float
    end: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LagSample:
    """How far a service's follower was behind its leader."""

    service: str
    at: float
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RateSample:
    """Acknowledged writes per second, of all applications together."""

    at: float
    per_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PauseStep:
    """A named part of a write pause."""

    name: str
    ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """Nobody could write: a cutover or a rollback."""

    what: str  # "cutover 1", "rollback", "cutover 2"
    begin: float
    total_ms: float
    steps: Sequence[PauseStep] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TableRow:
    """One route's comparison, row by row."""

    service: str
    table: str
    kind: str  # "whole", "columns", "rows", "derived", "reference"
    rows: int | None
    state: str  # "equal", "different", "unverified"; a word that is not "equal" is no pass
    missing: int | None = 0
    extra: int | None = 0
    different: int | None = 0

    @property
    def differences(self) -> int:
        """Rows known to differ."""
        return (self.missing or 0) + (self.extra or 0) + (self.different or 0)

    @property
    def is_equal(self) -> bool:
        """Compared, and equal: "could not verify" is not."""
        looked_at = None not in (self.rows, self.missing, self.extra, self.different)
        return looked_at and self.state.lower() == "equal" and not self.differences


@dataclass(frozen=True, slots=True, kw_only=True)
class Contradiction:
    """An order whose statuses disagreed, and what the plan's rule made of it."""

    order_id: str | int
    shop: str | None
    crm: str | None
    mes: str | None
    resolved: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class IllegalTransition:
    """A step in an order's history that its states do not allow."""

    order_id: str | int
    source: str  # whose history it stands in
    before: str | None
    after: str
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """The numbers that the report opens with."""

    rows: int
    changes: int
    acknowledged: int | None  # None: no application kept a history of its writes
    missing: int | None
    doubled: int | None
    differences: int | None
    contradictions: int
    otherwise_wrong: int = 0  # there though rolled back, not as it was acknowledged, or in part
    indeterminate: int = 0  # no answer came back for the commit: it may be there or not
    write_pause_ms: Sequence[float] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something worth a line."""

    at: float
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One split from beginning to end; listings may be shorter than their totals."""

    split: str
    started_at: float
    ended_at: float
    figures: Figures
    servers: Sequence[ServerInfo] = ()
    phases: Sequence[PhaseSpan] = ()
    lag: Sequence[LagSample] = ()
    writes: Sequence[RateSample] = ()
    pauses: Sequence[Pause] = ()
    tables: Sequence[TableRow] = ()
    contradictions: Sequence[Contradiction] = ()
    contradictions_total: int = 0
    illegal_transitions: Sequence[IllegalTransition] = ()
    illegal_transitions_total: int = 0
    events: Sequence[Event] = ()
    next_steps: Sequence[str] = ()  # `backticks` are set as code
