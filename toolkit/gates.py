"""Gates: what must hold before writers are made to wait.

Each gate tells what was observed and where its limit lies, so that a closed one
can be acted on.  Deciding is separate from observing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from plans.errors import GateClosed
from plans.model import Limits
from toolkit.slot_health import HEALTHY, SlotHealth, duration

IS_NEW = " is new"
INHERITS = " is new and inherits from "
VERIFICATION_SHARE = 0.5
"""Of the write pause; fence, drain and the rest need their time, too."""


@dataclass(frozen=True, slots=True)
class Gate:
    """One condition, as it was a moment ago."""

    gate: str
    ok: bool
    observed: Any
    limit: Any
    remedy: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Crossing:
    """How long no statement has crossed the boundary."""

    free_days: float
    last: str  # the statement, or why it cannot be told


@dataclass(frozen=True, slots=True, kw_only=True)
class Readiness:
    """What was observed of a split before a move."""

    stream_live: bool
    lag_bytes: int
    retained_bytes: int
    prepared_transactions: tuple[str, ...]  # names of those that have waited for a while
    dirty_keys: int
    differences: int | None  # None: not compared, or not to the end
    drifted: tuple[str, ...]  # tables whose columns are not what was prepared
    unpublished: tuple[str, ...] = ()  # tables whose changes the stream does not get
    crossing: Crossing | None = None  # None: not asked for
    verification_s: float | None = None  # of what has to be proven in the pause; None: not tried
    slots: tuple[SlotHealth, ...] = ()


def decide(facts: Readiness, limits: Limits, plan: Path) -> list[Gate]:
    """All gates, with remedies for this plan; a cutover begins only when each is open."""
    return [
        Gate(
            "stream",
            facts.stream_live,
            "live" if facts.stream_live else "not running",
            "live",
            f"start `dbsplit stream {plan}`",
        ),
        Gate(
            "lag",
            facts.lag_bytes <= limits.lag_bytes_max,
            facts.lag_bytes,
            limits.lag_bytes_max,
            "wait until the stream has caught up, or find what slows the target down",
        ),
        Gate(
            "retained_wal",
            facts.retained_bytes <= limits.wal_retained_bytes_max,
            facts.retained_bytes,
            limits.wal_retained_bytes_max,
            "wait until the stream has caught up; see to the source's disk",
        ),
        *_slots(facts.slots, limits, plan),
        Gate(
            "prepared_transactions",
            not facts.prepared_transactions,
            ", ".join(map(repr, facts.prepared_transactions)) or "none",
            "none that waits",
            "COMMIT PREPARED or ROLLBACK PREPARED them, in their database",
        ),
        Gate(
            "validated",
            facts.differences == 0,
            "not compared to the end" if facts.differences is None else facts.differences,
            0,
            f"run `dbsplit validate {plan}` and mend what differs",
        ),
        Gate(
            "dirty_keys",
            facts.dirty_keys <= limits.dirty_keys_max,
            facts.dirty_keys,
            limits.dirty_keys_max,
            "choose a quieter time, or allow more in limits.dirty_keys_max",
        ),
        Gate(
            "schema",
            not facts.drifted,
            ", ".join(facts.drifted) or "as prepared",
            "as prepared",
            _schema_remedy(facts.drifted, plan),
        ),
        Gate(
            "publication",
            not facts.unpublished,
            ", ".join(facts.unpublished) or "as prepared",
            "as prepared",
            "changes may be missing: abort and start again; a publication must not be altered",
        ),
        *_verification(facts.verification_s, limits),
        *_boundary(facts.crossing, limits, plan),
    ]


def _schema_remedy(drifted: Sequence[str], plan: Path) -> str:
    if heirs := [one for one in drifted if INHERITS in one]:
        return (
            f"inheritance isn't supported: ALTER TABLE … NO INHERIT … ({'; '.join(heirs)}) on the "
            "source, or drop it there"
        )
    new = [name for one in drifted if (name := one.removesuffix(IS_NEW)) != one]
    answers = "".join(f" --owner {name}=SERVICE" for name in new)
    behind = ", with =drop for what stays behind" if new else ""
    return (
        f"run `dbsplit plan refresh {plan}{answers}`{behind}, undo the change, or make it on "
        "both sides"
    )


def unknown(silent: Iterable[str]) -> Gate:
    """The only gate that is known while targets do not answer."""
    return Gate(
        "targets",
        False,  # noqa: FBT003
        f"{', '.join(silent)} away",
        "all answer",
        "see to the servers; the other gates are not known until then",
    )


def untold(why: str, hint: str) -> Gate:
    """The same while they answer, and their tables cannot be looked at."""
    return Gate(
        "targets",
        False,  # noqa: FBT003
        why,
        "all answer",
        f"{hint}; the other gates are not known until then",
    )


def _slots(slots: tuple[SlotHealth, ...], limits: Limits, plan: Path) -> list[Gate]:
    ill = [f"{one.slot}: {one.wal_status}" for one in slots if one.wal_status not in HEALTHY]
    times = [one.full_in_s for one in slots if one.full_in_s is not None]
    soonest = min(times, default=None)
    return [
        Gate(
            "slots",
            not ill,
            ", ".join(ill) or "healthy",
            "reserved or extended",
            f"see `dbsplit status {plan}` and the runbook: a slot that is lost needs a new copy",
        ),
        Gate(
            "wal_full",
            soonest is None or soonest >= limits.wal_full_in_s_min,
            "not growing" if soonest is None else f"in {duration(soonest)}",
            f"not within {duration(limits.wal_full_in_s_min)}",
            "find what holds the stream up, or who writes so much; see to the source's disk",
        ),
    ]


def _verification(seconds: float | None, limits: Limits) -> list[Gate]:
    if seconds is None:
        return []
    most = limits.write_pause_s_max * VERIFICATION_SHARE
    return [
        Gate(
            "verification",
            seconds <= most,
            f"{seconds:.1f} s to prove what has changed",
            f"{most:.1f} s",
            "choose a quieter time, or allow a longer limits.write_pause_s_max; a table without"
            " a key is compared as a whole: give it one",
        )
    ]


def _boundary(crossing: Crossing | None, limits: Limits, plan: Path) -> list[Gate]:
    days = limits.crossing_free_days_min
    if days is None or crossing is None:
        return []
    last = f"; last: {crossing.last}" if crossing.last else ""
    return [
        Gate(
            "boundary",
            crossing.free_days >= days,
            f"{crossing.free_days:.1f} days without a crossing statement{last}",
            f"{days:g} days",
            f"see `dbsplit plan queries {plan} --statistics`; change the statements, or allow them",
        )
    ]


def require_open(gates: Sequence[Gate]) -> None:
    """Raise GateClosed that names every closed gate."""
    closed = [gate for gate in gates if not gate.ok]
    if closed:
        said = "; ".join(f"{g.gate} is {g.observed}, limit {g.limit}" for g in closed)
        error = GateClosed(
            f"gate closed: {said}", hint="; ".join(g.remedy for g in closed if g.remedy)
        )
        error.result = {"gates": [gate.as_dict() for gate in gates]}
        raise error
