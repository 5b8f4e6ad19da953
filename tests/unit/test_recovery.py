"""Walk every state that a move can be left in, and check where recovery leads.

The world is what the two servers and the attempt's row say.  The command goes
through its steps and may die between any two of them, and so may whoever recovers;
a second process may recover while the first still believes in its attempt.
`remedy` must lead every such world to exactly one open side, and no world may ever
have two.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace

from toolkit.recovery import Remedy, remedy

# What the command does, in order; the decision is the one that must win a race.
STEPS = ("close", "fence", "decide", "open", "certify")


@dataclass(frozen=True)
class World:
    leader_open: bool = True
    follower_open: bool = False
    outcome: str | None = None
    journal: frozenset[str] = frozenset()
    at: int = 0  # the command's next step
    alive: bool = True  # the command's process

    def command(self) -> World:
        """The command takes its next step."""
        step = STEPS[self.at]
        done = replace(self, at=self.at + 1, journal=self.journal | {step})
        match step:
            case "close":
                return replace(done, follower_open=False)
            case "fence":
                return replace(done, leader_open=False)
            case "decide":
                if self.outcome is not None:  # lost the race: the row was decided before
                    return replace(self, alive=False, leader_open=True)
                return replace(done, outcome="moved")
            case "open":
                return replace(done, follower_open=True)
            case "certify":
                return replace(done, journal=done.journal | {"certificate"}, alive=False)
            case _:
                raise AssertionError(step)

    def recovered(self) -> Iterator[World]:
        """What recovery may have done when it ends or dies itself."""
        match self.remedy():
            case Remedy.GIVE_UP:
                given_up = replace(self, outcome="aborted")
                yield given_up  # died here
                yield replace(given_up, leader_open=True, journal=self.journal | {"reopened"})
            case Remedy.REOPEN:
                yield replace(self, leader_open=True, journal=self.journal | {"reopened"})
            case Remedy.FINISH:
                opened = replace(self, follower_open=True)
                yield opened  # died here
                yield replace(opened, journal=self.journal | {"certificate"})
            case Remedy.NONE:
                yield self

    def remedy(self) -> Remedy:
        leads = self.follower_open if self.outcome == "moved" else self.leader_open
        return remedy(self.outcome, self.journal, closed=not leads)

    def moves(self) -> Iterator[World]:
        if self.alive and self.at < len(STEPS):
            yield self.command()
            yield replace(self, alive=False)
        # A process whose connection was cut has lost its role without knowing it.
        yield from self.recovered()


def reachable() -> set[World]:
    seen: set[World] = set()
    todo = deque([World()])
    while todo:
        world = todo.popleft()
        if world not in seen:
            seen.add(world)
            todo.extend(world.moves())
    return seen


WORLDS = reachable()


def test_the_walk_is_not_trivial() -> None:
    assert len(WORLDS) > 20
    assert {w.remedy() for w in WORLDS} == set(Remedy)


def test_never_are_both_sides_open() -> None:
    assert not [w for w in WORLDS if w.leader_open and w.follower_open]


def test_what_is_decided_is_never_undone() -> None:
    for world in WORLDS:
        if world.outcome == "moved":
            assert not world.leader_open


def test_recovery_that_lives_leaves_exactly_one_side_open() -> None:
    for world in WORLDS:
        if world.alive:
            continue
        for _ in range(3):
            *_, world = world.recovered()
        assert world.leader_open is not world.follower_open
        assert world.remedy() is Remedy.NONE


def test_recovering_twice_changes_nothing() -> None:
    for world in WORLDS:
        if not world.alive and world.remedy() is Remedy.NONE:
            assert list(world.recovered()) == [world]
