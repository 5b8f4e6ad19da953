"""The psql script of a repair, gathered while the comparison goes on."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import IO, Self, TextIO

from toolkit.differences import Way
from toolkit.opened import Split
from toolkit.repair import origin_of, parents_first
from toolkit.state import Direction
from toolkit.validation import pair_for
from validators.repair_sql import (
    STATEMENTS_PER_TRANSACTION,
    Script,
    head,
    origin_setup,
    part_end,
    part_head,
)
from validators.results import Difference

BLOCK = 1 << 20


@dataclass(slots=True)
class _Parts:
    """The statements of one route, in files without a name."""

    way: Way
    script: Script
    adding: IO[str]
    removing: IO[str]


class RepairScript:
    """Takes differences in, and writes the script once all have come."""

    masked = False

    def __init__(self, split: Split) -> None:
        self._split = split
        self._parts: dict[str, _Parts] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def begin(self, way: Way) -> None:
        """Nothing to do before there is a difference."""

    def take(self, way: Way, differences: Sequence[Difference]) -> None:
        """Add their statements."""
        if way.route.id not in self._parts:
            self._parts[way.route.id] = self._begin(way)
        parts = self._parts[way.route.id]
        for one in differences:
            (statement,) = parts.script.statements([one])
            file = parts.removing if one.how == "extra" else parts.adding
            file.write(statement + "\x00")

    def write(self, file: TextIO) -> int:
        """Write the script; returns the number of its statements."""
        file.write(head(self._split.name))
        written = 0
        streams: dict[str, list[_Parts]] = {}
        for parts in self._parts.values():
            way = parts.way
            stream = way.direction.stream(self._split.name, way.route.service)
            streams.setdefault(stream, []).append(parts)
        for stream, some in streams.items():
            first = some[0].way
            schemas = dict.fromkeys(s for one in some for s in one.script.pair.follower.schemas)
            file.write(part_head(self._split.name, first.route.service, stream, list(schemas)))
            file.write(origin_setup(origin_of(self._split.name, first)))
            routes = parents_first(self._split, [one.way.route for one in some])
            ordered = [self._parts[route.id] for route in routes]
            # What is too much may hold a unique value of what is missing.
            files = [one.removing for one in reversed(ordered)]
            files += [one.adding for one in ordered]
            written += sum(_write_statements(one, file) for one in files)
            file.write(part_end())
        return written

    def _begin(self, way: Way) -> _Parts:
        split, route = self._split, way.route
        is_back = way.direction is Direction.ROLLBACK
        script = Script(
            pair=pair_for(split, route, way.direction),
            flow=split.back(route) if is_back else split.forward(route),
            follower=route.source if is_back else split.target_table(route),
            since=way.since,
            masked=route.masked,
        )
        return _Parts(way, script, self._file(), self._file())

    def _file(self) -> IO[str]:
        return self._stack.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8", newline=""))


def _write_statements(statements: IO[str], file: TextIO) -> int:
    """Write statements in transactions of a bounded size."""
    statements.seek(0)
    number = 0
    for number, statement in enumerate(_split(statements), start=1):
        if number % STATEMENTS_PER_TRANSACTION == 1:
            file.write("BEGIN;\n" if number == 1 else "COMMIT;\nBEGIN;\n")
        file.write(statement + "\n")
    if number:
        file.write("COMMIT;\n")
    return number


def _split(file: IO[str]) -> Iterator[str]:
    """The statements, each of which ends in a NUL, which SQL cannot hold."""
    rest = ""
    while block := file.read(BLOCK):
        *whole, rest = (rest + block).split("\x00")
        yield from whole
