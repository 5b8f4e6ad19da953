"""How much log our slots hold back, how fast it grows, and when it reaches its limit.

The stream process measures while it runs, and notes each measurement in its heartbeat;
`status` goes on from the last of these when nobody streams, which is when it matters.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from cdc.connect import Connection
from cdc.slot import SlotState
from plans.model import Limits

WINDOW_S = 120.0
"""Growth is measured over so long: the server lets go of log in steps, at its checkpoints."""

WINDOW_S_MIN = 5.0
NEAR = 0.8
"""From this part of its limit on, retained log is an alert."""

HEALTHY = frozenset({"reserved", "extended"})
_PLAN, _SERVER = "limits.wal_retained_bytes_max", "max_slot_wal_keep_size"


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotHealth:
    """One slot; what is unknown is None."""

    where: str  # source, or a service
    slot: str
    wal_status: str  # absent if there is no such slot
    retained_bytes: int
    limit_bytes: int
    limit: str  # where it is set
    growth_bytes_s: float | None
    full_in_s: float | None

    @property
    def forecast(self) -> str:
        """For people."""
        if self.retained_bytes >= self.limit_bytes:
            return "at its limit"
        if self.full_in_s is None:
            return "not growing" if self.growth_bytes_s is not None else "not measured yet"
        return f"full in {duration(self.full_in_s)}"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "forecast": self.forecast}


class Gauge:
    """Measurements of what one slot retains."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()

    def add(self, at_s: float, retained_bytes: int) -> None:
        """Take a measurement in; what is older than the window is forgotten."""
        self._samples.append((at_s, retained_bytes))
        while self._samples[0][0] < at_s - WINDOW_S:
            self._samples.popleft()

    @property
    def growth_bytes_s(self) -> float | None:
        """Over the window; None as long as that would be a guess."""
        if not self._samples:
            return None
        (first_s, first), (last_s, last) = self._samples[0], self._samples[-1]
        return growth(last - first, last_s - first_s)


def growth(more_bytes: int, took_s: float) -> float | None:
    """Bytes a second; None if too little time has passed to tell."""
    return round(more_bytes / took_s, 1) if took_s >= WINDOW_S_MIN else None


def health(where: str, slot: SlotState, limits: Limits, growth_bytes_s: float | None) -> SlotHealth:
    """What a slot's state means against its limits, the nearer of which counts."""
    limit, of = limits.wal_retained_bytes_max, _PLAN
    if slot.safe_bytes is not None and slot.retained_bytes + slot.safe_bytes < limit:
        limit, of = max(0, slot.retained_bytes + slot.safe_bytes), _SERVER
    full_in_s = None
    if growth_bytes_s is not None and growth_bytes_s > 0:
        full_in_s = round(max(0, limit - slot.retained_bytes) / growth_bytes_s, 1)
    return SlotHealth(
        where=where,
        slot=slot.name,
        wal_status=slot.wal_status if slot.there else "absent",
        retained_bytes=slot.retained_bytes,
        limit_bytes=limit,
        limit=of,
        growth_bytes_s=growth_bytes_s,
        full_in_s=full_in_s,
    )


def alerts(slots: Iterable[SlotHealth], limits: Limits) -> tuple[str, ...]:
    """What somebody should be woken for."""
    found = []
    for one in slots:
        name = f"slot {one.slot} ({one.where})"
        if one.wal_status not in HEALTHY:
            found.append(f"{name} is {one.wal_status}")
        if one.retained_bytes >= NEAR * one.limit_bytes:
            found.append(
                f"{name} retains {one.retained_bytes:,} of {one.limit_bytes:,} bytes ({one.limit})"
            )
        elif one.full_in_s is not None and one.full_in_s < limits.wal_full_in_s_min:
            found.append(f"{name} is {one.forecast} ({one.limit})")
    return tuple(found)


def duration(seconds: float) -> str:
    """A time in the two units that matter: 3 h 20 min."""
    whole = int(seconds)
    days, hours, minutes = whole // 86_400, whole // 3_600 % 24, whole // 60 % 60
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"


@dataclass(frozen=True, slots=True)
class Noted:
    """What a stream process noted last of one slot."""

    retained_bytes: int
    growth_bytes_s: float | None
    ago_s: float


def noted(source: Connection, split: str) -> dict[str, Noted]:
    """By slot, what a stream process noted last, whether it still runs or not."""
    row = source.execute(
        "SELECT details -> 'slots', extract(epoch FROM clock_timestamp() - beat_at)::float8"
        " FROM dbsplit.heartbeat WHERE split = %s AND role = 'stream'",
        [split],
    ).fetchone()
    slots, ago_s = row or ((), 0.0)
    return {
        one["slot"]: Noted(one["retained_bytes"], one["growth_bytes_s"], ago_s)
        for one in slots or ()
    }
