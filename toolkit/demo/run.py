"""The demo from the first server to the report, and what is left of it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.binaries import find_binaries
from toolkit.demo import stage
from toolkit.demo.facts import Facts
from toolkit.demo.play import Play
from toolkit.demo.report import write_report
from toolkit.demo.stage import SOURCE
from toolkit.demo.telling import Tell
from toolkit.demo.verbs import PROGRAM


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How the demo is to be."""

    directory: Path  # for what stays; new or empty
    scale: float = 0.1
    version: str | None = None  # of PostgreSQL
    keep: bool = False  # the servers
    dwell_s: float = 4.0  # the applications write so long on each side


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How it went."""

    facts: Facts
    report: Path
    plan: Path
    took_s: float
    stop_commands: Sequence[str] = ()  # of servers that were left running
    environment: Path | None = None  # the file with what it takes to reach them

    def result(self) -> dict[str, Any]:
        """The result object that scripts read."""
        result = {
            **self.facts.result(report=str(self.report), plan=str(self.plan)),
            "took_s": round(self.took_s, 1),
        }
        if self.environment is not None:
            result |= {"environment": str(self.environment), "stop": list(self.stop_commands)}
        return result


def run_demo(options: Options, tell: Tell, *, follower: Sequence[str] = PROGRAM) -> Outcome:
    """Play it all; what stays is in the options' directory.

    `follower` is the program that streams: a test has one that loses rows, to see that
    it is found.

    Raises SplitError if a step fails.  That rows differ, or writes are missing, is an outcome.
    """
    find_binaries(options.version)  # before anything is left behind
    stage.make_directory(options.directory)
    play = Play(
        directory=options.directory,
        plan=options.directory / "plan.yaml",
        dwell_s=options.dwell_s,
        tell=tell,
        follower=follower,
    )
    try:
        outcome = _play(play, options)
    except KeyboardInterrupt:
        _remove(options.directory, "history", "log", "routing.json", "plan.yaml")
        with suppress(OSError):  # a certificate may stay
            options.directory.rmdir()
        raise
    if outcome.facts.ok and not options.keep:
        # Nothing is left that the histories and logs could be held against.
        _remove(options.directory, "history", "log", "routing.json")
    return outcome


def _play(play: Play, options: Options) -> Outcome:
    began, report = time.time(), options.directory / "report.html"
    with ExitStack() as stack:
        with play.step("servers", "Start four PostgreSQL servers") as said:
            running = stage.running_stage(
                options.version, lambda name: play.hear("servers", {"event": "start", "is": name})
            )
            play.stage = stack.enter_context(running)
            said.append(f"PostgreSQL {play.stage.servers[SOURCE].version}")
        with play.step("load", "Load the shared database of a CRM, a shop and an MES") as said:
            said.append(f"{stage.load(play.stage, options.scale):,} rows")
        play.run()
        with play.step("report", "Write the report"):
            ended = time.time()
            play.look_back(began=began, ended=ended)
            write_report(report, play.facts, play.samples, play.plan, began=began, ended=ended)
        stop_commands: Sequence[str] = ()
        environment = None
        if options.keep:
            environment = play.stage.write_environment(options.directory / "servers.sh")
            stop_commands = play.stage.leave_running()
    return Outcome(
        facts=play.facts,
        report=report,
        plan=play.plan,
        took_s=ended - began,
        stop_commands=stop_commands,
        environment=environment,
    )


def _remove(directory: Path, *names: str) -> None:
    for name in names:
        path = directory / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
