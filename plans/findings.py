"""What a check has found, and how it is written for people, programs and CI systems."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Literal

from plans.problems import Problem

Format = Literal["text", "json", "github", "sarif"]


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


def render_findings(findings: Sequence[Finding], format: Format) -> str:  # noqa: A002
    """The findings as one text without a last newline."""
    match format:
        case "text":
            return _text(findings)
        case "json":
            return json.dumps([asdict(finding) for finding in findings], ensure_ascii=False)
        case "github":
            return "\n".join(map(_github, findings))
        case "sarif":
            return json.dumps(_sarif(findings), ensure_ascii=False, indent=2)


def _text(findings: Sequence[Finding]) -> str:
    blocks = []
    for one in findings:
        lines = [f"{one.severity.value}: {one.place}: {one.object}: {one.message} [{one.code}]"]
        lines += [line for line in (one.why, one.remedy and f"-> {one.remedy}") if line]
        blocks.append("\n".join(lines).replace("\n", "\n  "))
    counts = [
        f"{count} {severity.value}{'' if count == 1 else 's'}"
        for severity in Severity
        if (count := sum(one.severity is severity for one in findings))
    ]
    return "\n".join([*blocks, ", ".join(counts) or "nothing found"])


_GITHUB = {Severity.BLOCKER: "error", Severity.WARNING: "warning", Severity.NOTE: "notice"}
_SARIF = {Severity.BLOCKER: "error", Severity.WARNING: "warning", Severity.NOTE: "note"}


def _github(one: Finding) -> str:
    """A workflow command of GitHub Actions; its documentation has the escapes."""
    file, line, column = _place(one.place)
    # In properties ':' and ',' separate, so they are escaped there too.
    properties = {
        "file": file,
        "line": str(line),
        "col": str(column),
        "title": f"{one.code} {one.object}",
    }
    head = ",".join(
        f"{key}={_percent(value).replace(':', '%3A').replace(',', '%2C')}"
        for key, value in properties.items()
    )
    return f"::{_GITHUB[one.severity]} {head}::{_percent(_sentences(one))}"


def _percent(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _sentences(one: Finding) -> str:
    return ". ".join(part for part in (one.message, one.why, one.remedy) if part)


def _place(place: str) -> tuple[str, int, int]:
    file, line, column = place.rsplit(":", 2)
    return file, int(line), int(column)


def _sarif(findings: Sequence[Finding]) -> dict[str, Any]:
    """SARIF 2.1.0, as code scanning services read it."""
    codes = sorted({one.code for one in findings})
    driver = {"name": "dbsplit", "rules": [{"id": code} for code in codes]}
    return {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{"tool": {"driver": driver}, "results": [_sarif_result(one) for one in findings]}],
    }


def _sarif_result(one: Finding) -> dict[str, Any]:
    file, line, column = _place(one.place)
    return {
        "ruleId": one.code,
        "level": _SARIF[one.severity],
        "message": {"text": f"{one.object}: {_sentences(one)}"},
        "locations": [
            {
                "physicalLocation": {
                    "artifactLocation": {"uri": file},
                    "region": {"startLine": line, "startColumn": column},
                }
            }
        ],
    }
