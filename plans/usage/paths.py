"""Statements from files of any kind: logs, scripts, source code."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final

from plans.usage import logs
from plans.usage.collect import Collector
from plans.usage.files import SCRIPTS, SOURCES, files_below, read_files
from plans.usage.logs import LogReader
from plans.usage.model import Actor, Executed, Origin

LOGS: Final = "logs"
CODE: Final = "code"


@dataclass(frozen=True, slots=True)
class Given:
    """A file or a directory, and the service that it is told to be of."""

    path: Path
    service: str | None = None


@dataclass(slots=True)
class _Seen:
    """What a stream of statements told on its way."""

    first: datetime | None = None
    last: datetime | None = None
    skipped: list[str] = field(default_factory=list)

    def watch(self, executed: Iterable[Executed]) -> Iterator[Executed]:
        for one in executed:
            if one.at is not None:
                self.first = min(self.first or one.at, one.at)
                self.last = max(self.last or one.at, one.at)
            yield one


def read_paths(
    given: Sequence[Given],
    collector: Collector,
    reader: LogReader,
    service_of: Callable[[str], str | None],
) -> list[Origin]:
    """Take in all that stands in files and below directories; the answer is the origins.

    Code whose service isn't told is of the one that `service_of` finds in its path, in
    the last part first.  Raises OSError if a file cannot be read.
    """
    found = [(file, one) for one in given for file in sorted(files_below(one.path))]
    records = [(file, one) for file, one in found if is_log(file, one.path)]
    sources = [(file, one) for file, one in found if _is_source(file, one.path)]
    return [
        *([_logs(records, collector, reader)] if records else []),
        *([_code(sources, collector, service_of)] if sources else []),
    ]


def is_log(file: Path, given: Path) -> bool:
    """Whether a file is PostgreSQL's log: by its name, and for .json by its first line."""
    suffixes = {suffix.lower() for suffix in file.suffixes}
    if not suffixes & logs.SUFFIXES:
        return False
    if suffixes & {".json", ".jsonl"} and file != given:
        with suppress(OSError, ValueError), file.open(encoding="utf-8") as lines:
            return "error_severity" in json.loads(lines.readline(logs.RECORD_CHARS_MAX))
        return False
    return True


def _is_source(file: Path, given: Path) -> bool:
    if is_log(file, given):
        return False
    return file == given or file.suffix.lower() in SCRIPTS | SOURCES


def _logs(files: Iterable[tuple[Path, Given]], collector: Collector, reader: LogReader) -> Origin:
    seen = _Seen()

    def executed() -> Iterator[Executed]:
        for file, one in files:
            for statement in reader.read(file):
                yield statement if one.service is None else _of(statement, one.service)

    collector.add(LOGS, seen.watch(executed()))
    cut_off = [f"{reader.broken} records were cut off or in another form"] if reader.broken else []
    return Origin(
        name=LOGS, since=seen.first, until=seen.last,
        notes=tuple(cut_off),
    )  # fmt: skip


def _of(one: Executed, service: str) -> Executed:
    return Executed(
        text=one.text, place=one.place, actor=Actor(one.actor.role, service), calls=one.calls,
        at=one.at, transaction=one.transaction, parameters=one.parameters,
    )  # fmt: skip


def _code(
    files: Iterable[tuple[Path, Given]],
    collector: Collector,
    service_of: Callable[[str], str | None],
) -> Origin:
    seen = _Seen()

    def executed() -> Iterator[Executed]:
        for file, one in files:
            service = one.service or _service_in(file, one.path, service_of) or ""
            for found in read_files(
                [file], lambda name, why: seen.skipped.append(f"{name}: {why}")
            ):
                yield Executed(
                    text=found.text, place=f"{found.file}:{found.line}", actor=Actor("", service)
                )

    collector.add(CODE, seen.watch(executed()), is_code=True)
    return Origin(name=CODE, notes=tuple(seen.skipped))


def _service_in(file: Path, given: Path, service_of: Callable[[str], str | None]) -> str | None:
    """By the nearest part of the path that names one service."""
    inside = file.relative_to(given).parts if file != given else ()
    for part in reversed((*given.absolute().parts[-1:], *inside)):
        if service := service_of(part):
            return service
    return None
