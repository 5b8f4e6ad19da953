"""The demo does the whole job, tells the truth about it, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest

import tests.leaky_stream
from plans.crm_shop.workload.check import check_history
from plans.crm_shop.workload.history import Outcome, RowEffect, read_histories
from plans.crm_shop.workload.subjects import AUDIT, MATERIALS
from plans.names import APPLIER_SETTING
from toolkit.demo.run import Options, run_demo
from toolkit.demo.stage import SPLIT, Stage
from toolkit.demo.telling import Telling
from toolkit.servers_watchdog import wait_until

SCALE: Final = 0.002
DEMO_S_MAX: Final = 600.0
END_S_MAX: Final = 60.0
MARK: Final = "DBSPLIT_TEST_MARK"


@dataclass
class Demo:
    """A demo under way, as a process of its own."""

    process: subprocess.Popen[str]
    mark: str
    temporary: Path
    directory: Path

    def lines(self) -> Iterator[dict[str, Any]]:
        for line in self.process.stdout or ():
            yield json.loads(line)

    def processes(self) -> set[int]:
        """Everything that descends from it, and still lives."""
        found = set()
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and self.mark in (entry / "environ").read_text():
                    found.add(int(entry.name))
            except (OSError, UnicodeDecodeError):
                continue
        return found

    def has_left_nothing(self) -> bool:
        return wait_until(
            lambda: not self.processes() and not list(self.temporary.iterdir()),
            timeout_s=END_S_MAX,
        )


@contextmanager
def demo(directory: Path, pg_version: str) -> Iterator[Demo]:
    mark = uuid.uuid4().hex
    with tempfile.TemporaryDirectory(prefix="dbsplit-test-") as temporary:
        Path(temporary).chmod(0o755)  # PostgreSQL may run as another user
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "toolkit.cli.main", "demo", "--json"),
                *("--scale", str(SCALE), "--dir", str(directory), "--pg-version", pg_version),
            ],
            env={**os.environ, MARK: mark, "TMPDIR": temporary},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            yield Demo(process, mark, Path(temporary), directory)
        finally:
            process.kill()
            process.communicate(timeout=END_S_MAX)


def test_the_demo_splits_moves_back_and_forth_and_loses_nothing(
    tmp_path: Path, pg_version: str
) -> None:
    with demo(tmp_path / "demo", pg_version) as run:
        *told, result = run.lines()
        assert run.process.wait(DEMO_S_MAX) == 0, (result, run.process.stderr)
        assert run.has_left_nothing()

    assert result["ok"] is True
    assert result["rows"] > 1000
    assert result["changes"] > 0
    assert result["acknowledged"] > 100
    wrong = ("missing", "doubled", "phantom", "altered", "torn", "differences")
    assert [result[name] for name in wrong] == [0] * len(wrong)
    assert result["contradictions"] > 0
    assert len(result["write_pause_ms"]) == 3
    assert all(ms > 0 for ms in result["write_pause_ms"])

    steps = [line["step"] for line in told if line["event"] == "end"]
    order = ["check", "prepare", "copy", "stream", "cutover-1", "rollback", "cutover-2"]
    assert [step for step in steps if step in order] == order
    refused = next(line for line in told if (line["event"], line.get("step")) == ("end", "orders"))
    assert "cannot go from CLOSED to PRODUCTION" in refused["summary"]

    report = Path(result["report"]).read_text(encoding="utf-8")
    assert "Every acknowledged write is there, once" in report
    assert "<svg" in report
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", report)
    assert "<script" not in report
    stays = {path.name for path in (tmp_path / "demo").iterdir()}
    assert {"report.html", "plan.yaml"} < stays
    assert sum(name.endswith(".json") for name in stays) == 3  # the certificates
    assert not stays & {"history", "log", "routing.json"}


def test_ctrl_c_ends_the_demo_with_all_that_it_has_started(tmp_path: Path, pg_version: str) -> None:
    directory = tmp_path / "demo"
    with demo(directory, pg_version) as run:
        followed = next(
            line for line in run.lines() if (line["event"], line.get("step")) == ("end", "stream")
        )
        assert followed
        assert len(run.processes()) > 6  # four servers, the applications, the stream
        run.process.send_signal(signal.SIGINT)
        run.process.communicate(timeout=END_S_MAX)
        assert run.process.returncode == 130
        assert run.has_left_nothing()
    assert not directory.exists()


def silent(_: Telling) -> None:
    """Nobody watches."""


def options(tmp_path: Path, pg_version: str) -> Options:
    return Options(directory=tmp_path / "demo", scale=SCALE, version=pg_version, dwell_s=0.5)


def test_a_write_that_is_lost_or_doubled_after_all_is_reported(
    tmp_path: Path, pg_version: str
) -> None:
    def sabotage(stage: Stage, history: Path) -> None:
        whole = check_history(history, {name: stage.dsn(name) for name in ("crm", "shop")})
        assert whole.whole  # so it is the sabotage that is found
        lost, doubled = added(history, MATERIALS.name), added(history, AUDIT.name)
        plant(stage.dsn("shop"), "DELETE FROM materials WHERE code = %s", lost.key)
        plant(
            stage.dsn("crm"),
            "INSERT INTO audit_log SELECT * FROM audit_log WHERE subject = %s",
            doubled.key,
        )

    outcome = run_demo(options(tmp_path, pg_version), silent, before_check=sabotage)
    result = outcome.result()
    assert not result["ok"]
    assert result["missing"] == 1
    assert result["doubled"] == 1
    assert "1 acknowledged write is missing" in outcome.report.read_text(encoding="utf-8")
    assert (tmp_path / "demo/history").is_dir()  # it is needed to find out why


def added(history: Path, subject: str) -> RowEffect:
    """A row that was acknowledged, and that no other transaction touched."""
    effects: dict[str, list[RowEffect]] = {}
    for transaction in read_histories(history):
        for effect in transaction.rows:
            if effect.subject == subject and transaction.outcome is Outcome.ACKNOWLEDGED:
                effects.setdefault(effect.key, []).append(effect)
    return next(found[0] for found in effects.values() if [e.change for e in found] == [1])


def plant(dsn: str, statement: str, key: str) -> None:
    with psycopg.connect(dsn) as connection:
        connection.execute("SET session_replication_role = replica")
        connection.execute("SELECT set_config(%s, %s, false)", [APPLIER_SETTING, SPLIT])
        assert connection.execute(statement.encode(), [key]).rowcount == 1


def test_a_stream_that_loses_rows_is_found_before_anything_is_moved(
    tmp_path: Path, pg_version: str
) -> None:
    leaky = (sys.executable, str(tests.leaky_stream.__file__))
    steps: list[str] = []

    def watch(telling: Telling) -> None:
        steps.append(getattr(telling, "step", ""))

    outcome = run_demo(options(tmp_path, pg_version), watch, follower=leaky)
    result = outcome.result()
    assert not result["ok"]
    assert result["differences"] > 0
    assert "rows differ" in result["stopped"]
    assert result["missing"] is None  # not looked at is not zero
    assert "validate" in steps
    assert "cutover-1" not in steps
    assert "differ" in outcome.report.read_text(encoding="utf-8")
