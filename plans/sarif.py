"""Findings as SARIF 2.1.0, as code scanning services read it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from plans.finding_codes import CODES
from plans.findings import Finding, Severity, place_of, sentences

_LEVELS = {Severity.BLOCKER: "error", Severity.WARNING: "warning", Severity.NOTE: "note"}


def repository_of(file: Path) -> Path:
    """The directory to which code scanning takes a file's name to be relative.

    That is where the repository begins, or where we are if there is none.
    """
    above = file.resolve().parents
    return next((one for one in above if (one / ".git").exists()), Path.cwd())


def relative_to(file: str, root: Path | None) -> str:
    """A file's name below `root` with slashes; as it is if it lies elsewhere."""
    path = Path(file)
    if root is None:
        return path.as_posix()
    try:
        return path.resolve().relative_to(root.resolve()).as_posix()
    except ValueError:
        return path.as_posix()


def sarif(findings: Sequence[Finding], root: Path | None) -> dict[str, Any]:
    """One run, with a rule for each code that was found; file names are relative to `root`."""
    codes = sorted({one.code for one in findings})
    driver = {
        "name": "dbsplit",
        "rules": [_rule(code, findings) for code in codes],
    }
    results = [_result(one, codes.index(one.code), root) for one in findings]
    return {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [
            {"tool": {"driver": driver}, "columnKind": "unicodeCodePoints", "results": results}
        ],
    }


def _rule(code: str, findings: Sequence[Finding]) -> dict[str, Any]:
    worst = next(s for s in Severity if any(f.code == code and f.severity is s for f in findings))
    rule: dict[str, Any] = {"id": code, "defaultConfiguration": {"level": _LEVELS[worst]}}
    if known := CODES.get(code):
        rule["shortDescription"] = {"text": known.means}
        rule["help"] = {"text": known.do}
    return rule


def _result(one: Finding, index: int, root: Path | None) -> dict[str, Any]:
    file, line, column = place_of(one)
    return {
        "ruleId": one.code,
        "ruleIndex": index,
        "level": _LEVELS[one.severity],
        "message": {"text": f"{one.object}: {sentences(one)}"},
        "locations": [
            {
                "physicalLocation": {
                    "artifactLocation": {"uri": _uri(file, root)},
                    "region": {"startLine": max(1, line), "startColumn": max(1, column)},
                }
            }
        ],
        # By this a service knows the same finding again when lines have moved.
        "partialFingerprints": {"findingHash/v1": f"{one.code}:{one.object}"},
    }


def _uri(file: str, root: Path | None) -> str:
    name = relative_to(file, root)
    return Path(name).as_uri() if Path(name).is_absolute() else quote(name)
