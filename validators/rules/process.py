"""Running rules in a process of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from plans.errors import NotReady
from validators.rules.job import Run, job_of
from validators.rules.rule import RuleResult

LIBRARY: Final = "great_expectations"
PROGRAM: Final = (sys.executable, "-P", "-m", "validators.rules.checkpoint")
RULE_S_MAX: Final = 600.0
"""A statement may take so long; a rule that takes longer is unverified."""
START_S_MAX: Final = 120.0  # the import alone takes seconds, on a busy machine many
DOCS_S_MAX: Final = 300.0
_TAIL_CHARACTERS: Final = 500

Report = Callable[[Run, Sequence[RuleResult]], None]


def require_library() -> None:
    """Raise NotReady if Great Expectations is not installed."""
    if find_spec(LIBRARY) is None:
        raise NotReady(
            "rules are run by Great Expectations, which is not installed",
            hint="pip install 'dbsplit[quality]'",
        )


def run_rules(
    runs: Sequence[Run],
    *,
    docs: Path | None = None,
    rule_s_max: float = RULE_S_MAX,
    report: Report = lambda run, results: None,
) -> list[RuleResult]:
    """Run each rule, and report a run's results when it is done.

    There is a result for each rule of each run, whatever happens to the process: what it did
    not answer is unverified.  With `docs`, Data Docs are written there.
    Raises NotReady without Great Expectations, or if it does not start.
    """
    if not runs:
        return []
    require_library()
    count = sum(len(run.rules) for run in runs)
    # Each rule is run at most three times, by one statement or, of the library's own, a few.
    limit_s = START_S_MAX + (DOCS_S_MAX if docs else 0) + count * 4 * rule_s_max
    job = json.dumps(job_of(runs, rule_s_max=rule_s_max, docs=str(docs) if docs else None))
    process = subprocess.Popen(
        PROGRAM,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env=_environment(),
    )
    with process:
        timer = threading.Timer(limit_s, process.kill)
        timer.start()
        try:
            errors = _Tail(process)
            answers = _answers(process, job, runs, report)
            process.wait()
        finally:
            timer.cancel()
            process.kill()
        said = errors.text()
    if process.returncode and (not answers or docs):
        raise NotReady(f"the rules' process failed: {said}", hint="see what it said; run it again")
    silence = "the rules' process ended before it came to this rule"
    return [
        run.result(rule, answers.get((run.name, number), _unverified(silence)))
        for run in runs
        for number, rule in enumerate(run.rules)
    ]


def _answers(
    process: subprocess.Popen[str], job: str, runs: Sequence[Run], report: Report
) -> dict[tuple[str, int], Mapping[str, Any]]:
    assert process.stdin is not None  # noqa: S101 - both are pipes
    assert process.stdout is not None  # noqa: S101
    try:
        process.stdin.write(job)
        process.stdin.close()
    except BrokenPipeError:
        return {}  # it died, and said why on standard error
    found: dict[tuple[str, int], Mapping[str, Any]] = {}
    waiting = {run.name: run for run in runs}
    for line in process.stdout:
        answer = json.loads(line)
        found[answer["run"], answer["rule"]] = answer
        run = waiting.get(answer["run"])
        if run and all((run.name, number) in found for number in range(len(run.rules))):
            del waiting[run.name]
            told = [run.result(rule, found[run.name, n]) for n, rule in enumerate(run.rules)]
            report(run, told)
    return found


class _Tail:
    """The last of what the process says on standard error, read so that it never waits."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._text = ""
        self._thread = threading.Thread(target=self._read, args=[process.stderr], daemon=True)
        self._thread.start()

    def _read(self, stream: Any) -> None:  # noqa: ANN401
        for line in stream:
            self._text = (self._text + line)[-_TAIL_CHARACTERS:]

    def text(self) -> str:
        """The last lines."""
        self._thread.join(5.0)
        return self._text.strip() or "it said nothing"


def _environment() -> dict[str, str]:
    return {**os.environ, "GX_ANALYTICS_ENABLED": "false", "TQDM_DISABLE": "1"}


def _unverified(reason: str) -> Mapping[str, Any]:
    return {"outcome": "unverified", "reason": reason}
