"""Verbs as processes that start at once: forked from one that has everything imported.

They are killed, and end, as those that a shell starts; only the second of CPU is spared that
it takes until the toolkit is imported.  The fork server ends with the process that used it.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from toolkit.cli.main import main as dbsplit

KILLED = -signal.SIGKILL
VERB_S_MAX = 180.0

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [
        *("alembic.config", "alembic.runtime.environment", "sqlalchemy.dialects.postgresql"),
        *("toolkit.cli.show", "toolkit.cli.copy_talk", "toolkit.cli.comparing"),
        *("toolkit.prepare", "toolkit.initial", "toolkit.streaming", "toolkit.cutover"),
        *("toolkit.validating", "toolkit.repair", "toolkit.refresh", "toolkit.complete"),
        "toolkit.abort",
    ]
)


@dataclass(slots=True)
class Running:
    """A `dbsplit` that runs, or ran."""

    words: tuple[str, ...]
    process: multiprocessing.process.BaseProcess
    out: Path
    err: Path
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

    def ended(self, within_s: float) -> bool:
        """Wait so long for its end; whether it came."""
        self.process.join(within_s)
        return not self.running

    def wait(self, limit_s: float = VERB_S_MAX) -> int:
        """Its exit code; one that does not end within the limit is a failure."""
        if not self.ended(limit_s):
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

    def send_signal(self, number: signal.Signals) -> None:
        """Any other signal; none to a process that has ended."""
        if self.running:
            os.kill(self.pid, number)

    def said(self) -> str:
        """The end of all that it has said."""
        # Not there: it was killed before it had begun.
        files = [file for file in dict.fromkeys((self.out, self.err)) if file.exists()]
        return "\n".join(file.read_text(errors="replace")[-4000:] for file in files)

    def all_said(self) -> tuple[str, str]:
        """Its data and its talk."""
        return self.out.read_text(), self.err.read_text()

    def __str__(self) -> str:
        return f"{' '.join(self.words[:1])} ({time.monotonic() - self.started:.1f} s ago)"


def start(
    words: tuple[str, ...],
    environment: Mapping[str, str],
    out: Path,
    err: Path | None = None,
    *,
    main: Callable[[], None] = dbsplit,
) -> Running:
    """Start a verb in the directory of `out`, the file for what it says."""
    err = err or out
    process = _CONTEXT.Process(
        target=_run, args=(main, words, dict(environment), out, err), daemon=True
    )
    process.start()
    return Running(words, process, out, err, time.monotonic())


def _run(
    main: Callable[[], None],
    words: tuple[str, ...],
    environment: dict[str, str],
    out: Path,
    err: Path,
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    for number, file in ((1, out), (2, err)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), number)
    os.chdir(out.parent)
    sys.argv = ["dbsplit", *words]
    main()
