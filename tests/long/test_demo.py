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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest

from plans.crm_shop.workload.check import check_history
from plans.crm_shop.workload.history import Outcome, RowEffect, read_histories
from plans.crm_shop.workload.subjects import AUDIT, MATERIALS
from toolkit.servers_watchdog import wait_until

SCALE: Final = 0.01
DEMO_S_MAX: Final = 600.0
END_S_MAX: Final = 60.0
PROGRAM: Final = (sys.executable, "-m", "toolkit.cli.main")
LEAKY: Final = (sys.executable, str(Path(__file__).parents[1] / "leaky_demo.py"))


@dataclass
class Demo:
    """A demo under way, as a process of its own."""

    process: subprocess.Popen[str]
    mark: str
    temporary: Path

    def lines(self) -> Iterator[dict[str, Any]]:
        for line in self.process.stdout or ():
            yield json.loads(line)

    def processes(self) -> set[int]:
        """Everything that it has started, directly or not, and that still lives."""
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
def demo(
    directory: Path, pg_version: str, *more: str, program: Sequence[str] = PROGRAM
) -> Iterator[Demo]:
    mark = uuid.uuid4().hex
    with tempfile.TemporaryDirectory(prefix="dbsplit-test-") as temporary:
        Path(temporary).chmod(0o755)  # PostgreSQL may run as another user
        process = subprocess.Popen(
            [
                *(*program, "demo", "--json", "--scale", str(SCALE), "--dir", str(directory)),
                *("--pg-version", pg_version, *more),
            ],
            env={**os.environ, "DBSPLIT_TEST_MARK": mark, "TMPDIR": temporary},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        run = Demo(process, mark, Path(temporary))
        try:
            yield run
        finally:
            process.kill()
            process.communicate(timeout=END_S_MAX)
            for pid in run.processes():  # none, unless the test has failed
                os.kill(pid, signal.SIGKILL)


def test_the_demo_splits_moves_back_and_forth_and_every_figure_is_true(
    tmp_path: Path, pg_version: str
) -> None:
    directory = tmp_path / "demo"
    with demo(directory, pg_version, "--keep") as run:
        *told, result = run.lines()
        assert run.process.wait(DEMO_S_MAX) == 0, result
        check_result(result)
        check_steps(told)
        check_report(Path(result["report"]))
        certificates = [*directory.glob("*-cutover-*.json"), *directory.glob("*-rollback-*.json")]
        assert len(certificates) == 3
        check_against_sabotage(result, directory)

        assert len(result["stop"]) == 4
        for command in result["stop"]:
            subprocess.run(["sh", "-c", command], check=True, timeout=END_S_MAX)  # noqa: S607
        assert run.has_left_nothing()


def check_result(result: dict[str, Any]) -> None:
    assert result["ok"] is True
    assert result["rows"] > 1000
    assert result["changes"] > 1000
    assert result["acknowledged"] > 100
    wrong = ("missing", "doubled", "phantom", "altered", "torn", "differences")
    assert [result[name] for name in wrong] == [0] * len(wrong)
    assert result["contradictions"] > 0
    assert len(result["write_pause_ms"]) == 3
    assert all(ms > 0 for ms in result["write_pause_ms"])


def check_steps(told: list[dict[str, Any]]) -> None:
    ended = {line["step"]: line["summary"] for line in told if line["event"] == "end"}
    order = ["check", "prepare", "copy", "stream", "cutover-1", "rollback", "cutover-2"]
    assert [step for step in ended if step in order] == order
    assert "cannot go from CLOSED to PRODUCTION" in ended["orders"]
    samples = [line for line in told if line["event"] == "sample"]
    assert {"following", "moved"} <= {sample["phases"].get("shop") for sample in samples}


def check_report(report: Path) -> None:
    text = report.read_text(encoding="utf-8")
    assert "Every acknowledged write is there, once" in text
    assert "<svg" in text
    assert not re.search(r"""(src|href)=["']?(https?:)?//|<script|@import""", text)


def check_against_sabotage(result: dict[str, Any], directory: Path) -> None:
    """What the demo has looked at is what shows a lost row, and a doubled one."""
    dsns = dict(
        re.findall(
            r"^export DBSPLIT_(\w+)_DSN='(.*)'$", (directory / "servers.sh").read_text(), re.M
        )
    )
    places = {"crm": dsns["CRM"], "shop": dsns["SHOP"]}
    history = directory / "history"
    before = check_history(history, places)
    assert before.whole
    assert before.acknowledged == result["acknowledged"]

    lost, doubled = added(history, MATERIALS.name), added(history, AUDIT.name)
    with psycopg.connect(places["shop"]) as shop:
        shop.execute("DELETE FROM materials WHERE code = %s", [lost.key])
    with psycopg.connect(places["crm"]) as crm:
        crm.execute(
            "INSERT INTO audit_log SELECT * FROM audit_log WHERE subject = %s", [doubled.key]
        )
    after = check_history(history, places)
    assert (after.missing, after.doubled, after.faults) == (1, 1, 2)


def added(history: Path, subject: str) -> RowEffect:
    """A row that was acknowledged, and that no other transaction touched."""
    effects: dict[str, list[RowEffect]] = {}
    for transaction in read_histories(history):
        for effect in transaction.rows:
            if effect.subject == subject and transaction.outcome is Outcome.ACKNOWLEDGED:
                effects.setdefault(effect.key, []).append(effect)
    return next(found[0] for found in effects.values() if [e.change for e in found] == [1])


@pytest.mark.release
def test_a_stream_that_loses_rows_fails_the_demo_before_anything_is_moved(
    tmp_path: Path, pg_version: str
) -> None:
    directory = tmp_path / "demo"
    with demo(directory, pg_version, program=LEAKY) as run:
        *told, result = run.lines()
        assert run.process.wait(DEMO_S_MAX) == 1, result
        assert run.has_left_nothing()
    assert result["ok"] is False
    assert result["differences"] > 0
    assert re.search("rows? differ", result["stopped"])
    assert result["missing"] is None  # not looked at is not zero
    steps = [line.get("step") for line in told]
    assert "validate" in steps
    assert "cutover-1" not in steps
    assert "differ" in Path(result["report"]).read_text(encoding="utf-8")
    assert (directory / "log/stream.log").exists()  # it is needed to find out why


@pytest.mark.release
def test_ctrl_c_ends_the_demo_with_all_that_it_has_started(tmp_path: Path, pg_version: str) -> None:
    directory = tmp_path / "demo"
    with demo(directory, pg_version) as run:
        assert any((line["event"], line.get("step")) == ("end", "stream") for line in run.lines())
        assert len(run.processes()) > 6  # four servers, the applications, the stream
        run.process.send_signal(signal.SIGINT)
        run.process.communicate(timeout=END_S_MAX)
        assert run.process.returncode == 130
        assert run.has_left_nothing()
    assert not directory.exists()


def test_a_directory_with_something_in_it_is_left_alone(tmp_path: Path, pg_version: str) -> None:
    (tmp_path / "mine").touch()
    with demo(tmp_path, pg_version) as run:
        *_, result = run.lines()
        assert run.process.wait(END_S_MAX) == 4
    assert "is not empty" in result["error"]
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
