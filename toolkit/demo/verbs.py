"""The verbs as a user calls them: processes of the real command line, read by their JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

from plans.errors import (
    GateClosed,
    GivenUp,
    Halted,
    NotReady,
    PlanInvalid,
    RowsDiffer,
    SplitError,
    StreamBroken,
)

PROGRAM: Final = (sys.executable, "-P", "-m", "toolkit.cli.main")
VERB_S_MAX: Final = 600.0  # the longest verb is the copy: at scale 1 a minute or two
END_S_MAX: Final = 15.0  # a stream that is told to stop finishes its batch
_TAIL_CHARACTERS: Final = 2000
_ERRORS: Final[Mapping[int, type[SplitError]]] = {
    error.exit_code: error
    for error in (PlanInvalid, NotReady, RowsDiffer, GateClosed, StreamBroken, GivenUp, Halted)
}

Result = dict[str, Any]
Hear = Callable[[Result], None]


class Verbs:
    """The command line with one plan; what the verbs say on stderr goes to `log_dir`."""

    def __init__(self, plan: Path, log_dir: Path, environment: Mapping[str, str]) -> None:
        self._plan = plan
        self._log_dir = log_dir
        self._environment = {**os.environ, **environment}
        self._stream: _Stream | None = None
        log_dir.mkdir(parents=True, exist_ok=True)

    def run(
        self,
        *words: str,
        hear: Hear,
        options: Sequence[str] = (),
        allowed: Collection[int] = (),
    ) -> Result:
        """Run a verb to its end and return its result object.

        `words` name the verb, such as "plan", "check".  Raises the error that its exit
        code stands for, unless it is zero or `allowed`.
        """
        log = self._log("-".join(words))
        with log.open("ab") as stderr:
            process = self._start((*PROGRAM, *words), options, subprocess.PIPE, stderr)
        # An end for what hangs; reading lines has none of its own.
        limit = threading.Timer(VERB_S_MAX, process.kill)
        limit.start()
        last: Result = {}
        try:
            for line in process.stdout or ():
                last = json.loads(line)
                if "event" in last:
                    hear(last)
            code = process.wait()
        finally:
            limit.cancel()
            _end(process)
        if code and code not in allowed:
            self._fail(words, code, last, log)
        return last

    @contextmanager
    def following(self, program: Sequence[str] = PROGRAM) -> Iterator[None]:
        """Have the stream, a process of its own, for the length of a block."""
        log = self._log("stream")
        with log.open("ab") as output:
            process = self._start((*program, "stream"), (), output, subprocess.STDOUT)
        self._stream = _Stream(process, log)
        try:
            yield
        finally:
            self._stream = None
            _end(process)

    def require_stream(self) -> None:
        """Raise StreamBroken if the stream's process has ended although it should not."""
        if self._stream is not None:
            self._stream.require_alive()

    def _start(
        self,
        program: Sequence[str],
        options: Sequence[str],
        stdout: int | IO[bytes],
        stderr: int | IO[bytes],
    ) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*program, str(self._plan), *options, "--json"],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,  # Ctrl-C is for the demo, which then ends them in order
        )

    def _log(self, name: str) -> Path:
        return self._log_dir / f"{name}.log"

    def _fail(self, words: Sequence[str], code: int, last: Result, log: Path) -> None:
        self.require_stream()  # its end is the reason then
        said = f"dbsplit {' '.join(words)}: {last.get('error', f'ended with exit code {code}')}"
        if code not in _ERRORS:
            raise RuntimeError(f"{said}\n{_tail(log)}")
        raise _ERRORS[code](said, hint=last.get("hint") or f"see {log}")


class _Stream:
    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self._process = process
        self._log = log

    def require_alive(self) -> None:
        code = self._process.poll()
        if code:
            raise StreamBroken(
                f"the stream has ended with exit code {code}", hint=f"it said:\n{_tail(self._log)}"
            )


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process of ours, in order if it can be."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(END_S_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-_TAIL_CHARACTERS:].strip()
