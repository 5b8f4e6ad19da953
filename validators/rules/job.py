"""What the process that runs rules is told, and what it answers; both are JSON.

Great Expectations takes seconds to import and hundreds of megabytes, and its warnings are its
own: it runs in a process of its own.  Connection strings go there by standard input, and there
they stay with the driver: no file and no object of Great Expectations holds one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from validators.rules.rule import Rule, RuleResult, Side


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One service's rules on one side."""

    service: str
    side: Side
    dsn: str = field(repr=False)  # holds secrets
    search_path: tuple[str, ...]
    rules: tuple[Rule, ...]
    follows: bool = False  # the stream may be in the middle of what a rule looks at

    @property
    def name(self) -> str:
        """The suite's name."""
        return f"{self.service}-{self.side}"

    def as_json(self) -> dict[str, Any]:
        """What the process is told."""
        return {
            "name": self.name,
            "dsn": self.dsn,
            "search_path": list(self.search_path),
            "follows": self.follows,
            "rules": [
                {
                    "number": number,  # two tables of a name may have rules of a name
                    "name": rule.name,
                    "table": rule.table,
                    "meaning": rule.meaning,
                    "severity": rule.severity,
                    "query": rule.queries[self.side],
                    "expectation": rule.expectation,
                }
                for number, rule in enumerate(self.rules)
            ],
        }

    def result(self, rule: Rule, answer: Mapping[str, Any]) -> RuleResult:
        """What was found out about a rule."""
        return RuleResult(
            rule=rule.name,
            service=self.service,
            table=rule.table,
            side=self.side,
            outcome=answer["outcome"],
            unexpected=answer.get("unexpected", 0),
            examples=tuple(answer.get("examples", ())),
            reason=answer.get("reason", ""),
            severity=rule.severity,
            meaning=rule.meaning,
            place=rule.place,
            elapsed_s=answer.get("elapsed_s", 0.0),
        )


def job_of(runs: Sequence[Run], *, rule_s_max: float, docs: str | None) -> dict[str, Any]:
    """The whole job."""
    return {"runs": [run.as_json() for run in runs], "rule_s_max": rule_s_max, "docs": docs}
