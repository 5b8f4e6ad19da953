"""Verbs as processes that start at once: forked from one that has everything imported.

They are killed, and end, as those that a shell starts; only the half second is spared that
it takes until the toolkit is imported.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

KILLED = -signal.SIGKILL
VERB_S_MAX = 100.0

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    ["toolkit.cli.main", "toolkit.initial", "toolkit.streaming", "toolkit.moving", "cdc.follow"]
)


@dataclass(slots=True)
class Verb:
    """A `dbsplit` that runs, or ran."""

    words: tuple[str, ...]
    process: multiprocessing.process.BaseProcess
    log: Path
    started: float

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self.process.is_alive()

    @property
    def pid(self) -> int:
        """Its process."""
        assert self.process.pid is not None
        return self.process.pid

    def wait(self) -> int:
        """Its exit code; one that does not end within the limit is a failure."""
        self.process.join(VERB_S_MAX)
        if self.running:
            said = self.said()
            self.kill()
            raise AssertionError(f"{self} hangs\n{said}")
        code = self.process.exitcode
        assert code is not None
        return code

    def kill(self) -> int:
        """SIGKILL."""
        self.process.kill()
        return self.wait()

    def said(self) -> str:
        """The end of all that it has said."""
        if not self.log.exists():
            return ""  # it was killed before it had begun
        return self.log.read_text(errors="replace")[-4000:]

    def __str__(self) -> str:
        return f"{' '.join(self.words[:1])} ({time.monotonic() - self.started:.1f} s ago)"


def start(words: tuple[str, ...], environment: Mapping[str, str], log: Path) -> Verb:
    """Start a verb; what it says goes into a file."""
    process = _CONTEXT.Process(target=_run, args=(words, dict(environment), log), daemon=True)
    process.start()
    return Verb(words, process, log, time.monotonic())


def _run(words: tuple[str, ...], environment: dict[str, str], log: Path) -> None:
    os.environ.clear()
    os.environ.update(environment)
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.chdir(log.parent)
    sys.argv = ["dbsplit", *words]
    from toolkit.cli.main import main

    main()
