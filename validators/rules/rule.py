"""What a rule is, and what was found out about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

Side = Literal["source", "target"]
Outcome = Literal["passed", "failed", "unverified"]
Severity = Literal["error", "warning"]
Example = Mapping[str, str | None]
"""A row that breaks a rule, or what of it tells which: column to its text."""

SIDES: Final[tuple[Side, ...]] = ("source", "target")
EXAMPLES_MAX: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Something that must hold of a service's rows."""

    name: str  # with the service and the table unique: "foreign-key orders.orders_customer_id_fkey"
    service: str
    table: str  # which it is about: "public.orders"
    meaning: str  # what holds, in a sentence
    queries: Mapping[Side, str]  # for each side where it is to hold, a SELECT of rows that break it
    severity: Severity = "error"
    expectation: Mapping[str, Any] | None = None
    """One of Great Expectations' own; the queries then select the rows that it is about."""
    place: str = ""  # of a rule written by hand: "rules/shop.yaml:12:5"


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleResult:
    """One rule on one side."""

    rule: str
    service: str
    table: str
    side: Side
    outcome: Outcome
    unexpected: int = 0  # rows that break it; exact
    examples: tuple[Example, ...] = ()  # the first of them, at most EXAMPLES_MAX
    reason: str = ""  # why it is unverified, or what was observed
    severity: Severity = "error"
    meaning: str = ""
    place: str = ""
    elapsed_s: float = 0

    @property
    def counts(self) -> bool:
        """Whether it keeps the rules from holding: a warning that could be told does not."""
        return self.outcome == "unverified" or (
            self.outcome == "failed" and self.severity == "error"
        )

    @property
    def shown(self) -> tuple[str, ...]:
        """The examples, each as a line to be read."""
        return tuple(
            ", ".join(f"{name} {'NULL' if value is None else value}" for name, value in row.items())
            for row in self.examples
        )

    def as_dict(self) -> dict[str, object]:
        """The result object that scripts read."""
        return {
            "rule": self.rule,
            "service": self.service,
            "table": self.table,
            "side": self.side,
            "outcome": self.outcome,
            "severity": self.severity,
            "unexpected": self.unexpected,
            "examples": [dict(example) for example in self.examples],
            "meaning": self.meaning,
            "elapsed_s": round(self.elapsed_s, 3),
            **({"place": self.place} if self.place else {}),
            **({"reason": self.reason} if self.reason else {}),
        }


def hold(results: Iterable[RuleResult]) -> bool:
    """Whether every rule that was asked was told, and none is broken but some that only warn."""
    return not any(result.counts for result in results)


def tally(results: Iterable[RuleResult]) -> dict[str, int]:
    """How many passed, failed, were only warned of, and could not be told."""
    counts = Counter(
        "warnings" if r.outcome == "failed" and r.severity == "warning" else r.outcome
        for r in results
    )
    return {name: counts[name] for name in ("passed", "failed", "warnings", "unverified")}
