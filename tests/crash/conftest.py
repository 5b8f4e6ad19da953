from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.crash.line import Line, new_line
from toolkit.servers import Server


@pytest.fixture
def line(source_server: Server, target_server: Server, tmp_path: Path) -> Iterator[Line]:
    """A line on which nothing has been run yet."""
    with new_line(source_server, target_server, tmp_path) as line:
        yield line


class _Kept:
    """One line for many tests, as long as each leaves it as it found it."""

    def __init__(self) -> None:
        self.line: Line | None = None
        self.stack = ExitStack()

    def discard(self) -> None:
        self.line = None
        self.stack.close()


@pytest.fixture(scope="module")
def kept() -> Iterator[_Kept]:
    kept = _Kept()
    yield kept
    kept.discard()


@pytest.fixture
def following(
    kept: _Kept,
    source_server: Server,
    target_server: Server,
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
) -> Iterator[Line]:
    """A line under load that follows and has not moved; a new one after a test that failed."""
    line = kept.line
    if line is None:
        directory = tmp_path_factory.mktemp("line")
        line = kept.stack.enter_context(new_line(source_server, target_server, directory))
        line.follow()
    kept.line = None
    failed = request.session.testsfailed
    yield line
    if request.session.testsfailed == failed and not line.moved() and line.stream_alive():
        kept.line = line
    else:
        kept.discard()
