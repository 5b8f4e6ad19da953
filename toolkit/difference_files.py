"""Files of differences: JSON lines for programs, CSV for spreadsheets."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TextIO

from toolkit.differences import Way, as_dict
from validators.results import Difference

COLUMNS: Final = (
    *("service", "table", "leads", "how", "key", "rows", "column", "source", "target"),
    *("written_by", "written_at", "cause"),
)
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


@dataclass(slots=True)
class JsonLines:
    """One JSON object for each difference."""

    file: TextIO
    masked: bool = True

    def begin(self, way: Way) -> None:
        """Nothing to do."""

    def take(self, way: Way, differences: Sequence[Difference]) -> None:
        """Write them."""
        for one in differences:
            self.file.write(json.dumps(as_dict(way, one), ensure_ascii=False) + "\n")
        self.file.flush()


@dataclass(slots=True)
class Csv:
    """One line for each column that differs; NULL and no row are an empty field."""

    file: TextIO
    masked: bool = True
    _writer: Any = field(init=False)

    def __post_init__(self) -> None:
        self._writer = csv.DictWriter(self.file, COLUMNS, extrasaction="ignore")
        self._writer.writeheader()

    def begin(self, way: Way) -> None:
        """Nothing to do."""

    def take(self, way: Way, differences: Sequence[Difference]) -> None:
        """Write them."""
        for one in differences:
            said = as_dict(way, one)
            said["key"] = "" if said["key"] is None else json.dumps(said["key"])
            for column in said.pop("columns") or [{}]:
                line = {**said, **column}
                self._writer.writerow({name: _plain(value) for name, value in line.items()})
        self.file.flush()


def make_private(path: Path) -> None:
    """Make an empty file that only its owner may read: it will hold rows of the databases."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_file() or not path.exists():  # and not a device, such as /dev/stdout
        path.unlink(missing_ok=True)
        path.touch(mode=0o600)


@contextmanager
def opened(path: Path) -> Iterator[TextIO]:
    """A new file that only its owner may read."""
    make_private(path)
    with path.open("w", encoding="utf-8", newline="") as file:
        yield file


def _plain(value: object) -> object:
    """No value becomes a formula where a spreadsheet opens the file."""
    if isinstance(value, str) and value.startswith(_FORMULA) and not _is_number(value):
        return f"'{value}"
    return value


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
