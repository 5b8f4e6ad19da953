"""One run of `validate`: the comparison, the repair, and all that is told of them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from plans.routes import Route
from toolkit.differences import Class
from validators.orphans import OrphanResult
from validators.results import Difference, TableResult, consistent
from validators.rules.rule import RuleResult, hold, tally


@dataclass(frozen=True, slots=True)
class Timed:
    """When a route was compared; unix seconds."""

    begin: float
    end: float


@dataclass(slots=True)
class Clock:
    """Notes when each route's comparison began and ended."""

    began: dict[str, float] = field(default_factory=dict)
    ended: dict[str, float] = field(default_factory=dict)

    def hear(self, step: str, details: Mapping[str, Any]) -> None:
        """Take in what the comparison says of itself."""
        if step == "comparing":
            self.began.setdefault(str(details["route"]), time.time())
        elif step == "compared":
            self.ended[str(details["route"])] = time.time()

    def times(self) -> dict[str, Timed]:
        """The routes that were begun."""
        now = time.time()
        return {
            route: Timed(begin, max(begin, self.ended.get(route, now)))
            for route, begin in self.began.items()
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Validated:
    """What a run found out; differences and examples in it may be shown."""

    split: str
    planned: tuple[Route, ...]  # all that the plan has
    routes: tuple[Route, ...]  # those that were to be compared
    results: tuple[TableResult, ...]
    leads: Mapping[str, str]  # route → source or target
    started_at: float
    ended_at: float
    times: Mapping[str, Timed] = field(default_factory=dict)
    differences: Mapping[str, Sequence[Difference]] = field(default_factory=dict)  # the first
    classes: Mapping[str, Mapping[Class, int]] = field(default_factory=dict)  # rows of all
    left_out: Mapping[str, int] = field(default_factory=dict)  # of the control schema's table
    orphans: tuple[OrphanResult, ...] = ()
    lists: tuple[Mapping[str, Any], ...] = ()
    lines: Mapping[str, int] = field(default_factory=dict)  # of the plan, by route
    rules: tuple[RuleResult, ...] = ()
    repaired: Mapping[str, Any] | None = None

    @property
    def consistent(self) -> bool:
        """Whether every row was proven equal, and the rules that count are kept."""
        return self.equal and hold(self.rules)

    @property
    def equal(self) -> bool:
        """Whether every row was proven equal, whatever the rules say, and there was one."""
        return consistent(self.results) and not self.met_nothing

    @property
    def met_nothing(self) -> bool:
        """Whether there was no row to compare, which proves nothing."""
        return consistent(self.results) and not any(one.rows for one in self.results)

    @property
    def scope(self) -> str:
        """Which rows were compared, in words; "" is all of the tables'."""
        return next((one.scope for one in self.results if one.scope), "")

    @property
    def collision_bound(self) -> float:
        """The probability, at most, that a difference hid behind equal hashes."""
        return sum(one.collision_bound for one in self.results)

    def as_dict(self) -> dict[str, Any]:
        """The result object that scripts read."""
        kinds = {route.id: route.kind.value for route in self.routes}
        return {
            "consistent": self.consistent,
            "tables": [
                {
                    **one.summary(),
                    "route": one.route,
                    "kind": kinds[one.route],
                    "leads": self.leads.get(one.route, "source"),
                    "healed": one.healed,
                    "elapsed_s": round(one.elapsed_s, 3),
                    **(
                        {"differences_left_out": self.left_out[one.route]}
                        if self.left_out.get(one.route)
                        else {}
                    ),
                }
                for one in self.results
            ],
            "scope": self.scope,
            "collision_bound": self.collision_bound,
            "rows_equal": self.equal,
            "rules_hold": hold(self.rules),
            "rules_told": tally(self.rules),
            "rules": [one.as_dict() for one in self.rules],
            "orphans": [one.as_dict() for one in self.orphans],
            "lists": list(self.lists),
            **({"repair": dict(self.repaired)} if self.repaired is not None else {}),
        }
