"""Files of differences: JSON lines for programs, CSV for spreadsheets."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TextIO

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
    """One line for each column that differs; NULL and no row are an empty field.

    An empty text is one in quotes, as COPY … CSV writes and reads it.
    """

    file: TextIO
    masked: bool = True

    def __post_init__(self) -> None:
        self._write(dict(zip(COLUMNS, COLUMNS, strict=True)))

    def begin(self, way: Way) -> None:
        """Nothing to do."""

    def take(self, way: Way, differences: Sequence[Difference]) -> None:
        """Write them."""
        for one in differences:
            said = as_dict(way, one)
            said["key"] = None if said["key"] is None else json.dumps(said["key"])
            for column in said.pop("columns") or [{}]:
                self._write({**said, **column})
        self.file.flush()

    def _write(self, line: Mapping[str, object]) -> None:
        self.file.write(",".join(_cell(line.get(name)) for name in COLUMNS) + "\r\n")


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


def _cell(value: object) -> str:
    """A field of RFC 4180; no value becomes a formula where a spreadsheet opens the file."""
    if value is None:
        return ""
    text = str(value)
    if isinstance(value, str) and value.startswith(_FORMULA) and not _is_number(value):
        text = f"'{value}"
    if text and not any(sign in text for sign in '",\r\n'):
        return text
    return '"' + text.replace('"', '""') + '"'


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
