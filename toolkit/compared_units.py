"""What a comparison that is under way has proven, kept in the source's control schema.

A comparison that is killed is gone on with by the next: units that were equal are not
read again.  What has changed in them since is dirty, because it counts from the position
at which the first of them began.  So the result stands for that position.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID, uuid4

from cdc.connect import Connection
from cdc.crash import crash_point
from toolkit.state import Direction
from toolkit.stored import stored
from validators.scans import Proven
from validators.units import Unit

KEPT_H_MAX = 24
"""After so long too much would be dirty: begin anew."""


@dataclass(frozen=True, slots=True)
class ControlMemory:
    """The `validators.scans.Memory` of the routes of one service, in one direction."""

    control: Connection
    split: str
    service: str
    direction: Direction
    since: str
    """A position of the leader's log that lies before everything that is read now."""
    resume: bool = True
    """Whether to go on with what another comparison has left."""
    resumed: dict[str, str] = field(default_factory=dict)
    """Routes that are gone on with, and the positions that they began at."""
    runs: dict[str, UUID] = field(default_factory=dict)
    """By route: what is noted of a comparison that another has replaced would be mixed with it."""

    def recall(self, route: str) -> tuple[Sequence[Unit], Mapping[int, Proven]]:
        """What is left of a comparison, unless the right to write has moved since."""
        if not self.resume:
            return (), {}
        row = self.control.execute(
            "SELECT c.units, c.since::text, c.run FROM dbsplit.comparing AS c"
            " JOIN dbsplit.service AS s"
            " ON s.split = c.split AND s.service = %s AND s.epoch = c.epoch"
            " WHERE c.split = %s AND c.route = %s AND c.direction = %s"
            " AND c.began_at > clock_timestamp() - make_interval(hours => %s)",
            [self.service, *self._of(route), KEPT_H_MAX],
        ).fetchone()
        if row is None or row[2] is None:
            return (), {}
        proven = self.control.execute(
            "SELECT unit, rows, digest FROM dbsplit.compared_unit"
            " WHERE split = %s AND route = %s AND direction = %s",
            self._of(route),
        ).fetchall()
        self.resumed[route], self.runs[route] = row[1], row[2]
        return [Unit(*unit) for unit in row[0]], {n: Proven(rows, d) for n, rows, d in proven}

    def plan(self, route: str, units: Sequence[Unit]) -> None:
        """Note the units, and forget those of a comparison that cannot be gone on with."""
        self.control.execute(
            "DELETE FROM dbsplit.comparing WHERE split = %s AND route = %s AND direction = %s",
            self._of(route),
        )
        self.runs[route] = uuid4()
        told = stored(self.control, [[unit.lower, unit.upper, unit.shift] for unit in units])
        self.control.execute(
            "INSERT INTO dbsplit.comparing (split, route, direction, epoch, since, units, run)"
            " SELECT %s, %s, %s, epoch, %s, %s, %s FROM dbsplit.service"
            " WHERE split = %s AND service = %s ON CONFLICT DO NOTHING",
            [*self._of(route), self.since, told, self.runs[route], self.split, self.service],
        )

    def prove(self, route: str, unit: int, proven: Proven) -> None:
        """Note that a unit is equal; nothing if the comparison is not noted."""
        self.control.execute(
            "INSERT INTO dbsplit.compared_unit (split, route, direction, unit, rows, digest)"
            " SELECT split, route, direction, %s, %s, %s FROM dbsplit.comparing"
            " WHERE split = %s AND route = %s AND direction = %s AND run = %s"
            " ON CONFLICT DO NOTHING",
            [unit, proven.rows, proven.digest, *self._of(route), self.runs[route]],
        )
        crash_point("validate.unit")

    def forget(self, route: str) -> None:
        """The comparison has come to its end."""
        self.control.execute(
            "DELETE FROM dbsplit.comparing"
            " WHERE split = %s AND route = %s AND direction = %s AND run = %s",
            [*self._of(route), self.runs.get(route)],
        )

    def since_of(self, route: str) -> str:
        """The position that the route's result stands for."""
        return self.resumed.get(route, self.since)

    def _of(self, route: str) -> list[str]:
        return [self.split, route, self.direction.value]
