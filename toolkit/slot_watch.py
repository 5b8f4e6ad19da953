"""The stream process's eye on its slots, round by round."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable

import psycopg

from cdc.connect import Connection, connect
from cdc.slot import judge, read_slot, standbys_behind
from plans import names
from plans.errors import NotReady
from toolkit import state
from toolkit.giving_up import is_over_budget
from toolkit.opened import Split
from toolkit.slot_health import Gauge, SlotHealth, alerts, health
from toolkit.slot_server import SOURCE

LOOK_S = 2.0


class SlotWatch:
    """Measures the source's slot, and those of the services that have moved."""

    def __init__(self, split: Split, source: Connection) -> None:
        self.health: tuple[SlotHealth, ...] = ()
        self.alerts: tuple[str, ...] = ()
        self._split = split
        self._source = source
        self._gauges: defaultdict[str, Gauge] = defaultdict(Gauge)
        self._look_at = 0.0
        self._told: frozenset[str] = frozenset()

    def look(self, moved: Iterable[str]) -> int | None:
        """Measure, if it was not done for a while.

        Returns what the source's slots retain if that is over the plan's budget, and
        the split is to be given up.  Raises StreamBroken for a slot that is gone or lost.
        """
        now = time.monotonic()
        if now < self._look_at:
            return None
        self._look_at = now + LOOK_S
        found = [self._measure(self._source, SOURCE, names.slot(self._split.name))]
        apart = names.refresh_slot(self._split.name)
        if read_slot(self._source, apart).there:  # tables are copied anew beside the stream
            found.append(self._measure(self._source, SOURCE, apart))
        retained = max(one.retained_bytes for one in found)
        for service in moved:
            slot = names.back_slot(self._split.name, service)
            try:
                with connect(self._split.dsn(service), name="dbsplit stream") as target:
                    found.append(self._measure(target, service, slot))
            except (NotReady, psycopg.OperationalError):
                continue  # its own stream tells, and tries again
        self.health = tuple(found)
        behind = standbys_behind(self._source, names.slot(self._split.name))
        self.alerts = (
            *alerts(found, self._split.plan.limits),
            *(
                f"standby {one} is not in synchronized_standby_slots: promoted, it may lack what "
                "targets have"
                for one in behind
            ),
        )
        self._note()
        return retained if is_over_budget(self._split, self._source, retained) else None

    def _measure(self, connection: Connection, where: str, slot: str) -> SlotHealth:
        state_ = read_slot(connection, slot)
        if (error := judge(state_, None, {}, None)) is not None:
            raise error
        gauge = self._gauges[slot]
        gauge.add(time.monotonic(), state_.retained_bytes)
        return health(where, state_, self._split.plan.limits, gauge.growth_bytes_s)

    def _note(self) -> None:
        """Each alert is an event once, however often its figures change."""
        subjects = frozenset(said.split(" is ")[0].split(" retains ")[0] for said in self.alerts)
        if subjects - self._told:
            state.note(self._source, self._split.name, "alert", {"alerts": self.alerts})
        self._told = subjects
