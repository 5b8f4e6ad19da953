"""What a boundary check has found in code, scripts and logs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Any

from plans.boundary import Boundary
from plans.findings import Finding, Severity
from plans.queries.allowed import Allowed
from plans.queries.crossing import Judged, Verdict, judge
from plans.queries.texts import Text
from plans.statements.model import Confirm, as_read
from plans.statements.read import read_statements
from plans.statements.scope import Scope

SHOWN_MAX = 160
"""Characters of a statement that a message shows."""

_SEVERITY = {
    Verdict.CROSSES: Severity.BLOCKER,
    Verdict.ELSEWHERE: Severity.BLOCKER,
    Verdict.PARTIAL: Severity.WARNING,
    Verdict.SETS_OFF: Severity.WARNING,
    Verdict.UNPROVEN: Severity.WARNING,
}
_REMEDY = {
    Verdict.CROSSES: "ask the other service's API, keep a copy (reference_in), or move a table;"
    " until then an entry of the allow-list may hold it",
    Verdict.ELSEWHERE: "let the service that has the tables run it, or keep a copy (reference_in)",
    Verdict.PARTIAL: "name the columns, or the rows, of the service that runs it",
    Verdict.SETS_OFF: "let the application, or the orchestrator, see to it",
    Verdict.UNPROVEN: "read it, and see that it stays within one service",
}


@dataclass(frozen=True, slots=True)
class Place:
    """One statement at one place, with its verdict."""

    judged: Judged
    file: str
    line: int
    times: int = 1  # that it was executed, where that is known
    entry: int | None = None  # of the allow-list
    expired: bool = False

    @property
    def blocks(self) -> bool:
        """Whether the check fails because of it."""
        held = self.entry is not None and not self.expired
        return _SEVERITY.get(self.judged.verdict) is Severity.BLOCKER and not held

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "file": self.file,
            "line": self.line,
            "times": self.times,
            "verdict": self.judged.verdict.value,
            "fingerprint": self.judged.fingerprint,
            "statement": self.judged.statement.text,
            "why": self.judged.why,
            "services": list(self.judged.services),
            "tables": [
                {
                    "table": str(use.table),
                    "writes": use.writes,
                    "via": list(use.via),
                    "services": list(use.services),
                }
                for use in self.judged.uses
            ],
            "allowed": self.entry is not None and not self.expired,
        }


@dataclass(slots=True)
class QueriesReport:
    """Everything that was found, statements that stay inside only counted."""

    allowed: Allowed
    statements: int = 0
    files: set[str] = field(default_factory=set)
    counts: Counter[Verdict] = field(default_factory=Counter)
    places: list[Place] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing crosses that isn't allowed."""
        return not any(place.blocks for place in self.places)

    def findings(self) -> Iterator[Finding]:
        """As `plan check` writes them: for a terminal, for GitHub, for code scanning."""
        yield from map(self._finding, self.places)
        for number in self.unused:
            entry = self.allowed.entries[number]
            about = entry.fingerprint or entry.path or ", ".join(entry.tables)
            yield Finding(
                Severity.WARNING, "allowed-unused", about, self.allowed.place(number),
                "no statement needs this entry any more", remedy="take it out",
            )  # fmt: skip

    @property
    def unused(self) -> list[int]:
        """Entries of the allow-list that no statement needs."""
        used = {place.entry for place in self.places}
        return [number for number in range(len(self.allowed.entries)) if number not in used]

    def _finding(self, place: Place) -> Finding:
        judged, verdict = place.judged, place.judged.verdict
        severity, said = _SEVERITY[verdict], _shown(judged.statement.text)
        if place.times > 1:
            said += f" ({place.times:,} times)"
        remedy = _REMEDY[verdict]
        if place.entry is not None:
            entry = self.allowed.entries[place.entry]
            if place.expired:
                said += f" (was allowed until {entry.expires}: {entry.reason})"
            else:
                severity = Severity.NOTE
                remedy = f"allowed until {entry.expires}: {entry.reason}"
        return Finding(
            severity,
            f"statement-{verdict.value}",
            judged.fingerprint or judged.statement.verb,
            f"{place.file}:{place.line}:1",
            said,
            judged.why,
            remedy,
        )


def check_queries(
    texts: Iterable[Text],
    boundary: Boundary,
    scope: Scope,
    allowed: Allowed,
    today: date,
    *,
    confirm: Confirm = as_read,
) -> QueriesReport:
    """Judge every statement of `texts`; the same one again in a file is only counted."""
    report = QueriesReport(allowed)
    found: dict[tuple[str, str, Verdict], Place] = {}
    for text in texts:
        report.files.add(text.file)
        for statement in read_statements(text.text, scope, search_path=text.search_path):
            judged = judge(confirm(statement, text.search_path), boundary, text.service)
            report.statements += 1
            report.counts[judged.verdict] += 1
            if judged.verdict is Verdict.INSIDE:
                continue
            entry = allowed.match(judged, text.file)
            expired = entry is not None and allowed.entries[entry].expires < today
            line = text.line + statement.line - 1
            place = Place(judged, text.file, line, text.times, entry, expired)
            known = (text.file, judged.fingerprint or judged.statement.text, judged.verdict)
            before = found.get(known)
            found[known] = replace(before, times=before.times + text.times) if before else place
    report.places.extend(found.values())
    return report


def _shown(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= SHOWN_MAX else words[: SHOWN_MAX - 1] + "…"
