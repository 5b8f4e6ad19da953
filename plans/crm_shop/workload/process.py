"""The writers of the bundled case in a process of their own.

So they share no interpreter with what is being tested, and end with it however it ends.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from plans.crm_shop.workload.service import RATE, WRITERS
from plans.crm_shop.workload.writer import RETRY_S_MAX

ANSWER_S_MAX = 60.0  # more than the writers have for coming to rest
STDERR_NAME = "workload.log"


class WorkloadFailed(Exception):
    """The writers' process ended, or does not answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadStats:
    """What the writers have done so far."""

    acknowledged: int
    rolled_back: int  # on purpose
    retried: int  # attempts that failed
    indeterminate: int
    given_up: int
    crashed: int  # writers that a bug of an operation ended
    max_pause_ms: float  # from the start of the first failed attempt to the next success
    slowest_ms: float  # one transaction that succeeded, batches aside
    operations: dict[str, int]  # acknowledged, by name
    errors: dict[str, int]  # by SQLSTATE
    last_error: str
    alive: int  # writers at work


class Workload:
    """Writers that follow a routing file; see `routing` for it and `check` for the proof.

    They end with this object's process, however that ends.
    """

    def __init__(
        self,
        routing_file: Path,
        history_dir: Path,
        *,
        writers: int = WRITERS,
        rate: float = RATE,
        retry_s_max: float = RETRY_S_MAX,
        as_roles: bool = False,
    ) -> None:
        self._history_dir = history_dir
        self._command = [
            *(sys.executable, "-P", "-m", "plans.crm_shop.workload", "--controlled"),
            *("--routing", str(routing_file), "--history", str(history_dir)),
            *("--writers", str(writers), "--rate", str(rate)),
            *("--retry-seconds", str(retry_s_max)),
            *(["--as-roles"] if as_roles else []),
        ]
        self._process: subprocess.Popen[bytes] | None = None
        self._stats: WorkloadStats | None = None
        self._unread = b""

    @property
    def pid(self) -> int | None:
        """The process of the writers, if there is one."""
        return None if self._process is None else self._process.pid

    def start(self) -> WorkloadStats:
        """Set all to work."""
        if self._process is not None:
            raise WorkloadFailed("the writers are at work already")
        self._history_dir.mkdir(parents=True, exist_ok=True)
        with (self._history_dir / STDERR_NAME).open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                bufsize=0,
            )
        return self._answer(self._process)

    def stats(self) -> WorkloadStats:
        """What has been done so far; after `stop`, all that was."""
        if self._process is None and self._stats is not None:
            return self._stats
        return self._ask("stats")

    def pause(self) -> WorkloadStats:
        """Return when no transaction is open."""
        return self._ask("pause")

    def resume(self) -> WorkloadStats:
        """Go on after `pause`."""
        return self._ask("resume")

    def stop(self) -> WorkloadStats:
        """End all writers, each after its transaction."""
        if self._process is None:
            return self.stats()
        try:
            return self._ask("stop")
        finally:
            self._reap()

    def kill(self) -> None:
        """End the process with SIGKILL, whatever its transactions are at."""
        if self._process is not None:
            self._process.kill()
            self._reap()

    def _ask(self, command: str) -> WorkloadStats:
        process = self._process
        if process is None or process.stdin is None:
            raise WorkloadFailed("the writers are not at work")
        try:
            process.stdin.write(f"{command}\n".encode())
        except BrokenPipeError:
            raise self._failed("ended") from None
        return self._answer(process)

    def _answer(self, process: subprocess.Popen[bytes]) -> WorkloadStats:
        answer: dict[str, Any] = json.loads(self._read_line(process))
        if "error" in answer:
            raise WorkloadFailed(answer["error"])
        self._stats = WorkloadStats(**answer)
        return self._stats

    def _read_line(self, process: subprocess.Popen[bytes]) -> bytes:
        if process.stdout is None:
            raise WorkloadFailed("the writers cannot be heard")
        deadline = time.monotonic() + ANSWER_S_MAX
        while b"\n" not in self._unread:
            left_s = max(0.0, deadline - time.monotonic())
            if not select.select([process.stdout], [], [], left_s)[0]:
                raise self._failed(f"did not answer within {ANSWER_S_MAX:.0f} s")
            received = os.read(process.stdout.fileno(), 65536)
            if not received:
                raise self._failed("ended")
            self._unread += received
        line, self._unread = self._unread.split(b"\n", 1)
        return line

    def _failed(self, what: str) -> WorkloadFailed:
        log = self._history_dir / STDERR_NAME
        tail = log.read_text(errors="replace")[-2000:] if log.exists() else ""
        return WorkloadFailed(f"the process of the writers {what}\n{tail}".rstrip())

    def _reap(self) -> None:
        process, self._process, self._unread = self._process, None, b""
        if process is None:
            return
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def __enter__(self) -> Workload:
        """Start."""
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop; do not wait for it if something went wrong already."""
        if kind is None:
            self.stop()
        else:
            self.kill()
