"""What a check has found."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from plans.problems import Problem


class Severity(StrEnum):
    """What a finding means for the split."""

    BLOCKER = "blocker"  # it cannot begin
    WARNING = "warning"  # something will be different afterwards
    NOTE = "note"  # worth knowing


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that somebody should know before the split begins."""

    severity: Severity
    code: str  # stable: "foreign-key-cut"
    object: str  # what it is about: "public.orders"
    place: str  # "plan.yaml:12:5"
    message: str  # what was observed
    why: str = ""  # what it leads to
    remedy: str = ""  # what to do


def from_problem(problem: Problem) -> Finding:
    """A contradiction between plan and database, as a finding."""
    return Finding(
        Severity.BLOCKER,
        "plan-invalid",
        problem.path,
        problem.place,
        problem.message,
        remedy=problem.remedy,
    )


def ordered(findings: Iterable[Finding]) -> list[Finding]:
    """Blockers first, then by code and object."""
    rank = {severity: number for number, severity in enumerate(Severity)}
    return sorted(findings, key=lambda one: (rank[one.severity], one.code, one.object, one.message))


def has_blocker(findings: Iterable[Finding]) -> bool:
    """Whether the split cannot begin."""
    return any(finding.severity is Severity.BLOCKER for finding in findings)


def sentences(one: Finding) -> str:
    """What was found, what it leads to and what to do."""
    return ". ".join(part for part in (one.message, one.why, one.remedy) if part)


def place_of(one: Finding) -> tuple[str, int, int]:
    """File, line and column, counted from 1."""
    file, line, column = one.place.rsplit(":", 2)
    return file, int(line), int(column)
