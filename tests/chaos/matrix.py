"""Which run a seed is: a crash point, a verb, a version; what else befalls it is drawn."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from cdc.crash import POINTS
from tests.chaos.faults import FAULTS, Fault

VERSIONS = ("15", "16", "18")
_STRIDE = 37  # coprime to the number of cells: few runs reach into all corners
FAULTS_MAX = 3


@dataclass(frozen=True, slots=True)
class Cell:
    """A crash point on a version."""

    point: str
    version: str


VERBS = ("prepare", "copy", "stream", "cutover")
"""Other verbs' points have tests of their own in `tests/crash`."""

CELLS = tuple(
    Cell(point, version)
    for point in POINTS
    if point.partition(".")[0] in VERBS
    for version in VERSIONS
)


@dataclass(frozen=True, slots=True)
class Drawn:
    """A run."""

    seed: int
    cell: Cell
    faults: tuple[Fault, ...]
    kills: bool  # the process is killed at a random time, too

    def __str__(self) -> str:
        told = ", ".join(fault.__name__ for fault in self.faults)
        kill = ", killed" if self.kills else ""
        return f"seed {self.seed}: {self.cell.point} on {self.cell.version}; {told}{kill}"


def drawn(seed: int) -> Drawn:
    """The run of a seed; always the same, but for how fast the machine is."""
    chance = Random(f"chaos {seed}")  # noqa: S311 - not a secret
    count = chance.randint(1, FAULTS_MAX)
    return Drawn(
        seed,
        CELLS[seed * _STRIDE % len(CELLS)],
        tuple(chance.choice(FAULTS) for _ in range(count)),
        kills=chance.random() < 0.5,
    )
