"""Findings as text for people, programs and CI systems."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from plans.findings import Finding, Severity, place_of, sentences
from plans.printable import printable, printable_lines
from plans.sarif import relative_to, sarif

Format = Literal["text", "json", "github", "sarif"]


def render_findings(
    findings: Sequence[Finding],
    format: Format,  # noqa: A002
    root: Path | None = None,
) -> str:
    """The findings as one text without a last newline.

    For CI systems the names of files are relative to `root`.
    """
    match format:
        case "text":
            return _text(findings)
        case "json":
            return json.dumps([asdict(finding) for finding in findings], ensure_ascii=False)
        case "github":
            return "\n".join(_github(one, root) for one in findings)
        case "sarif":
            return json.dumps(sarif(findings, root), ensure_ascii=False, indent=2)


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
    return printable_lines("\n".join([*blocks, ", ".join(counts) or "nothing found"]))


_GITHUB = {Severity.BLOCKER: "error", Severity.WARNING: "warning", Severity.NOTE: "notice"}


def _github(one: Finding, root: Path | None) -> str:
    file, line, column = place_of(one)
    properties = {
        "file": relative_to(file, root),
        "line": str(line),
        "col": str(column),
        "title": f"{one.code} {one.object}",
    }
    return github_command(_GITHUB[one.severity], properties, sentences(one))


def github_command(level: str, properties: Mapping[str, str], message: str) -> str:
    """A workflow command of GitHub Actions; its documentation has the escapes.

    What is no visible character comes as its escape: the runner shows it in its log.
    """
    # In properties ':' and ',' separate, so they are escaped there too.
    head = ",".join(
        f"{key}={_percent(printable(value)).replace(':', '%3A').replace(',', '%2C')}"
        for key, value in properties.items()
    )
    return f"::{level} {head}::{_percent(message)}"


def _percent(text: str) -> str:
    return printable_lines(text).replace("%", "%25").replace("\n", "%0A")
