"""The command line as a shell sees it: verbs, their exit codes and what they say."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock
from uuid import uuid4

import psycopg

from tests.processes import Running, start
from toolkit.cli.main import cli
from toolkit.servers_watchdog import wait_until

VERB_S_MAX = 120.0
STREAM_STARTS_S_MAX = 90.0  # a busy machine, and a plan of many tables
DBSPLIT = Path(sys.executable).parent / "dbsplit"


@dataclass(frozen=True)
class Said:
    """What a verb has left behind."""

    verb: str
    code: int
    out: str
    err: str

    @property
    def result(self) -> dict[str, Any]:
        """The last line, of a verb that was run with --json."""
        found: dict[str, Any] = json.loads(self.out.strip().splitlines()[-1])
        return found


@dataclass
class Verbs:
    """`dbsplit` with one plan and one environment; remembers all that it ever said."""

    plan: Path
    environment: Mapping[str, str]
    apart: bool = False  # each verb in a process of its own
    said: list[str] = field(default_factory=list)

    def __call__(self, *verb: str, code: int = 0, **env: str) -> Said:
        """Run a verb, expecting an exit code."""
        one = self.tried(*verb, **env)
        assert one.code == code, f"{one.verb}: exit code {one.code}\n{one.out}\n{one.err}"
        return one

    def tried(self, *verb: str, **env: str) -> Said:
        """Run a verb, whatever its exit code is, unless it is a bug's."""
        began = time.monotonic()
        run = self._in_a_process if self.apart else self._in_this_process
        one = Said(" ".join(verb), *run(self._words(verb), self._environment(env)))
        if os.environ.get("DBSPLIT_TEST_TALK"):
            print(f"{time.monotonic() - began:6.2f} s  {one.verb}")  # noqa: T201
        self.said += [one.out, one.err]
        assert "Traceback" not in one.err, one.err
        return one

    def _in_a_process(self, words: list[str], environment: dict[str, str]) -> tuple[int, str, str]:
        running = self._start(words, environment)
        code = running.wait(VERB_S_MAX)
        return code, *running.all_said()

    def _in_this_process(
        self, words: list[str], environment: dict[str, str]
    ) -> tuple[int, str, str]:
        """As in one of its own, without the half second until everything is imported."""
        out, err = io.StringIO(), io.StringIO()
        code: object = 0
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        with (
            mock.patch.dict(os.environ, environment, clear=True),
            mock.patch.object(sys, "stdin", io.StringIO()),
            contextlib.chdir(self.plan.parent),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            try:
                cli.main(words, prog_name="dbsplit")
            except SystemExit as end:
                code = end.code
            except Exception:  # noqa: BLE001 - as an interpreter would
                code = 1
                traceback.print_exc()
            finally:
                for number, handler in handlers.items():
                    signal.signal(number, handler)
        return int(str(code or 0)), out.getvalue(), err.getvalue()

    def json(self, *verb: str, code: int = 0, **env: str) -> dict[str, Any]:
        """A verb's result object; every line of its output is JSON, and nothing else."""
        one = self(*verb, "--json", code=code, **env)
        for line in one.out.strip().splitlines():
            json.loads(line)
        return one.result

    def refused(self, *verb: str, code: int, says: str, hint: str = "", **env: str) -> Said:
        """A verb that must not do its work: with the exit code, the reason and the remedy."""
        one = self(*verb, code=code, **env)
        assert says in one.err, one.err
        assert hint in one.err, one.err
        assert not one.out.strip(), one.out
        return one

    @contextmanager
    def stream(self, source: str, *, code: int | None = 0) -> Iterator[Running]:
        """A stream process, live; SIGTERM ends it, unless the block has seen to that."""
        stream = self._start(self._words(("stream",)), self._environment({}))
        try:
            with psycopg.connect(source, autocommit=True) as connection:
                self._wait_live(stream, connection)
            yield stream
            if code == 0:
                stream.send_signal(signal.SIGTERM)
            ended = stream.wait(VERB_S_MAX)
            assert code is None or ended == code, f"{ended}\n{stream.said()}"
        finally:
            stream.kill()
            out, err = stream.all_said()
            self.said += [out, err]
        assert "Traceback" not in err, err

    def _wait_live(self, stream: Running, connection: psycopg.Connection[Any]) -> None:
        def live() -> bool:
            row = connection.execute(
                "SELECT details ->> 'connected' FROM dbsplit.heartbeat WHERE pid = %s",
                [stream.pid],
            ).fetchone()
            return row == ("true",) or not stream.running

        assert wait_until(live, timeout_s=STREAM_STARTS_S_MAX), stream.said()
        assert stream.running, f"the stream did not start: {stream.wait()}\n{stream.said()}"

    def _start(self, words: list[str], environment: dict[str, str]) -> Running:
        stem = self.plan.parent / f".{words[0]}-{uuid4().hex}"
        return start(tuple(words), environment, stem.with_suffix(".out"), stem.with_suffix(".err"))

    def _words(self, verb: tuple[str, ...]) -> list[str]:
        words = 2 if verb[0] == "plan" else 1
        return [*verb[:words], str(self.plan), *verb[words:]]

    def _environment(self, more: Mapping[str, str]) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith("DBSPLIT_")}
        servers = {k: v for k, v in os.environ.items() if k.startswith("DBSPLIT_PG")}
        return {**kept, **servers, **self.environment, **more}
