"""Statements from PostgreSQL's logs, in any of the three forms a server writes.

Read are ``log_statement``, ``log_min_duration_statement`` and auto_explain's "Query
Text".  A log is read line by line; a record that was cut off is left out, whatever the
records around it are.
"""

from __future__ import annotations

import csv
import gzip
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any, Final

from plans.usage.log_prefix import prefix_pattern
from plans.usage.model import Actor, Executed
from plans.usage.search_paths import SessionPaths

# A longer record is a row of data, not a statement that somebody wrote.
RECORD_CHARS_MAX: Final = 1_000_000

# So many lines tell by which prefix a log was written.
HEAD_LINES: Final = 500

SUFFIXES: Final = frozenset({".log", ".csv", ".json", ".jsonl"})

_STEP = re.compile(
    r"(?:duration: [\d.]+ ms  )?"
    r"(?:statement|execute (?:<unnamed>|[^:]*?)): (?P<text>.*)",
    re.DOTALL,
)
_PLAN = re.compile(r"duration: [\d.]+ ms  plan:\s*(?P<plan>.*)", re.DOTALL)
_QUERY_TEXT = re.compile(r"Query Text: (?P<text>.*?)(?=\n[^\n]*\(cost=|\Z)", re.DOTALL)
_PARAMETER = re.compile(r"\$(\d+) = (?:NULL|'((?:[^']|'')*)')")
_BEGINS: Final = re.compile(r"\s*(?:BEGIN|START\s+TRANSACTION)\b", re.IGNORECASE)
_ENDS: Final = re.compile(
    r"\s*(?:COMMIT|END|ABORT|ROLLBACK(?!\s+(?:WORK\s+|TRANSACTION\s+)?TO\b)|PREPARE\s+TRANSACTION)\b",
    re.IGNORECASE,
)
_CSV_BEGINS = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)? [^,]*,")
# Of csvlog; later versions append columns (the manual, 20.8.4).
_CSV: Final = {
    "timestamp": 0, "user": 1, "dbname": 2, "pid": 3, "session_id": 5, "vxid": 9,
    "error_severity": 11, "message": 13, "detail": 14,
}  # fmt: skip
_CSV_COLUMNS_MIN: Final = 23


@dataclass(slots=True)
class LogReader:
    """Reads logs; counts what it could not read.

    `database` is whose statements are wanted, `prefix` the server's log_line_prefix, by
    which logs in plain text are read; without it their lines are read by what is usual.
    """

    database: str
    prefix: str | None = None
    records: int = 0
    broken: int = 0  # cut off, or not in the form of the others

    def read(self, path: Path) -> Iterator[Executed]:
        """The statements of a log, in its order.  Raises OSError if it cannot be read."""
        transactions, paths = _Transactions(), SessionPaths()
        with _opened(path) as file:
            for number, record in self._records(path, file):
                if (one := _statement(record)) is None or record.get("dbname") not in (
                    None, "", self.database,
                ):  # fmt: skip
                    continue
                text, detail = one
                self.records += 1
                transaction = transactions.of(record, text)
                yield Executed(
                    text=text,
                    place=f"{path}:{number}",
                    actor=Actor(str(record.get("user") or "")),
                    at=_time(record.get("timestamp")),
                    transaction=transaction and f"{path.name} {transaction}",
                    parameters=_parameters(detail),
                    search_path=paths.after(_session_of(record), text),
                )

    def _records(self, path: Path, file: Iterable[str]) -> Iterator[tuple[int, Mapping[str, Any]]]:
        suffixes = {suffix.lower() for suffix in path.suffixes}
        if ".csv" in suffixes:
            yield from self._csv(file)
        elif suffixes & {".json", ".jsonl"}:
            yield from self._json(file)
        else:
            yield from self._plain(file)

    def _csv(self, file: Iterable[str]) -> Iterator[tuple[int, Mapping[str, Any]]]:
        begins: Callable[[str], object] = _CSV_BEGINS.match
        for number, text in self._gathered(file, begins):
            row: list[str] = []
            with suppress(csv.Error):
                row = next(csv.reader([text], strict=True), [])
            if len(row) >= _CSV_COLUMNS_MIN:
                yield number, {name: row[place] for name, place in _CSV.items()}
            else:
                self.broken += 1

    def _json(self, file: Iterable[str]) -> Iterator[tuple[int, Mapping[str, Any]]]:
        for number, line in enumerate(file, 1):
            record = None
            with suppress(ValueError, RecursionError):
                record = json.loads(line)
            if isinstance(record, dict):
                yield number, record
            elif line.strip():
                self.broken += 1

    def _plain(self, file: Iterable[str]) -> Iterator[tuple[int, Mapping[str, Any]]]:
        lines = iter(file)
        head = list(islice(lines, HEAD_LINES))
        pattern = _fitting([prefix_pattern(self.prefix), prefix_pattern(None)], head)
        for number, text in self._gathered(chain(head, lines), pattern.match):
            match = pattern.match(text)
            if match is None:
                self.broken += 1
                continue
            found = {name: value for name, value in match.groupdict().items() if value}
            # Lines of one message are indented by a tab.
            yield number, {**found, "message": text[match.end() :].replace("\n\t", "\n")}

    def _gathered(
        self, file: Iterable[str], begins: Callable[[str], object]
    ) -> Iterator[tuple[int, str]]:
        """Records of several lines; what stands before the first is cut off."""
        lines: list[str] = []
        first, length = 0, 0
        for number, line in enumerate(file, 1):
            if begins(line):
                if lines:
                    yield first, "".join(lines).rstrip("\n")
                lines, first, length = [line], number, len(line)
            elif lines:
                length += len(line)
                if length <= RECORD_CHARS_MAX:
                    lines.append(line)
                else:
                    lines = []
                    self.broken += 1
            elif number == 1:
                self.broken += 1
        if lines:
            yield first, "".join(lines).rstrip("\n")


@dataclass(slots=True)
class _Session:
    """What is known of one session without transaction numbers."""

    count: int = 0
    is_open: bool = False


class _Transactions:
    """Which statements are of one transaction: by its number, else by BEGIN and COMMIT."""

    def __init__(self) -> None:
        self._sessions: dict[str, _Session] = {}

    def of(self, record: Mapping[str, Any], text: str) -> str | None:
        """The transaction of a statement; None if it is alone, or nobody can tell."""
        name = _session_of(record)
        number = str(record.get("vxid") or "")
        if number and not number.endswith("/0"):
            return f"{name} {number}"
        if not name:
            return None
        session = self._sessions.setdefault(name, _Session())
        if _BEGINS.match(text):
            session.is_open = True
            session.count += 1
        elif _ENDS.match(text):
            session.is_open = False
        return f"{name} {session.count}" if session.is_open else None


def _session_of(record: Mapping[str, Any]) -> str:
    return str(record.get("session_id") or record.get("pid") or "")


def _statement(record: Mapping[str, Any]) -> tuple[str, str] | None:
    """A record's statement, and the line with its parameters."""
    if record.get("error_severity") != "LOG":
        return None
    message = str(record.get("message") or "")
    detail = str(record.get("detail") or "")
    if match := _STEP.match(message):
        return match["text"], detail
    if match := _PLAN.match(message):
        text = _of_plan(match["plan"])
        return (text, detail) if text else None
    return None


def _of_plan(plan: str) -> str | None:
    if plan.lstrip().startswith("{"):
        with suppress(ValueError, AttributeError, RecursionError):
            return str(json.loads(plan).get("Query Text") or "") or None
        return None
    match = _QUERY_TEXT.search(plan)
    return match["text"] if match else None


def _parameters(detail: str) -> tuple[str | None, ...] | None:
    if not detail.lower().startswith("parameters:"):
        return None
    found = {
        int(match[1]): None if match[2] is None else match[2].replace("''", "'")
        for match in _PARAMETER.finditer(detail)
    }
    if sorted(found) != list(range(1, len(found) + 1)):
        return None
    return tuple(found[number] for number in sorted(found))


def _fitting(patterns: Sequence[re.Pattern[str]], head: Sequence[str]) -> re.Pattern[str]:
    """The pattern by which most lines begin; a log may come from another server."""
    return max(patterns, key=lambda pattern: sum(1 for line in head if pattern.match(line)))


def _time(text: object) -> datetime | None:
    """The time in a record; a zone by its letters is taken for UTC, days are what counts."""
    match = re.match(r"(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d)", str(text or ""))
    if match:
        with suppress(ValueError):
            return datetime.fromisoformat(f"{match[1]}T{match[2]}").replace(tzinfo=UTC)
    with suppress(ValueError, OverflowError, OSError):
        return datetime.fromtimestamp(float(str(text)), UTC)
    return None


def _opened(path: Path) -> IO[str]:
    if path.suffix.lower() == ".gz":
        return gzip.open(path, "rt", encoding="utf-8", errors="replace", newline="\n")
    return path.open(encoding="utf-8", errors="replace", newline="\n")
