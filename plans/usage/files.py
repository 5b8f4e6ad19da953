"""SQL in files: scripts, and the string literals of source code that look like SQL."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from plans.usage.code import code_strings, python_strings
from plans.usage.templates import looks_like_sql, with_parameters

# A script that is larger is a dump: rows, which say nothing about who uses what.
FILE_BYTES_MAX: Final = 16 * 2**20

SCRIPTS: Final = frozenset({".sql", ".psql", ".ddl", ".pgsql"})
SOURCES: Final = frozenset({
    ".py", ".js", ".mjs", ".cjs", ".jsx", ".ts", ".mts", ".cts", ".tsx", ".vue", ".rb", ".rake",
    ".go", ".java", ".kt", ".kts", ".scala", ".groovy", ".clj", ".php", ".cs", ".fs", ".vb",
    ".rs", ".ex", ".exs", ".swift", ".dart", ".c", ".cc", ".cpp", ".h", ".hpp", ".pl", ".pm",
    ".lua", ".sh",
})  # fmt: skip
_NOT_OURS: Final = frozenset({
    "node_modules", "vendor", "venv", "__pycache__", "site-packages", "dist", "build", "target",
    "bower_components",
})  # fmt: skip

Skipped = Callable[[str, str], None]
"""Told of a file that isn't read, and why."""


@dataclass(frozen=True, slots=True)
class Found:
    """SQL, the file that it stands in, and its first line there, from 1."""

    text: str
    file: str
    line: int


def read_files(paths: Iterable[Path], skipped: Skipped | None = None) -> Iterator[Found]:
    """The SQL of scripts and of source code, in the order of `paths` and of names below them.

    A script comes whole; of source code come the strings that look like SQL, with parameters
    ($1) where a template puts in text.  Directories that hold the code of others
    (node_modules, vendor) are left out, hidden ones too.
    """
    for path in paths:
        for file in files_below(path):
            known = file.suffix.lower() in SCRIPTS | SOURCES
            if known or not path.is_dir():
                yield from _read(file, skipped or (lambda _file, _why: None))


def files_below(path: Path) -> Iterator[Path]:
    """The files in a directory and below, by name; a file is itself."""
    if not path.is_dir():
        yield path
        return
    for directory, below, names in os.walk(path):
        below[:] = sorted(name for name in below if not _is_left_out(name))
        yield from (Path(directory, name) for name in sorted(names) if not name.startswith("."))


def _is_left_out(name: str) -> bool:
    return name.startswith(".") or name in _NOT_OURS


def _read(file: Path, skipped: Skipped) -> Iterator[Found]:
    try:
        size = file.stat().st_size
        if size > FILE_BYTES_MAX:
            skipped(str(file), f"{size / 2**20:.0f} MB is more than a script or a source has")
            return
        text = file.read_text("utf-8-sig", errors="replace")
    except OSError as error:
        skipped(str(file), error.strerror or str(error))
        return
    if file.suffix.lower() not in SOURCES:
        yield Found(text, str(file), 1)
        return
    strings = python_strings(text) if file.suffix.lower() == ".py" else None
    for string in strings if strings is not None else code_strings(text):
        if looks_like_sql(string.text):
            yield Found(with_parameters(string.text), str(file), string.line)
