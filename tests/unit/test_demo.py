"""What the demo says follows from what it has found, and nothing passes that was not looked at."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from ruamel.yaml import YAML

from plans.crm_shop.workload.check import HistoryReport
from toolkit.cli.demo_screen import _Picture
from toolkit.demo import stage
from toolkit.demo.facts import Facts
from toolkit.demo.orders import Moves
from toolkit.demo.telling import Began, Ended, Said, Sample
from toolkit.report.model import Report
from toolkit.report.verdict import Standing, judge

WHOLE = HistoryReport(
    acknowledged=10,
    indeterminate=0,
    void=0,
    effects=10,
    missing=0,
    doubled=0,
    phantom=0,
    altered=0,
    torn=0,
    examples=(),
    max_pause_ms=300.4,
)
EQUAL: dict[str, Any] = {"missing": 0, "extra": 0, "different": 0, "state": "equal"}


def with_one(fault: str) -> HistoryReport:
    one: dict[str, Any] = {fault: 1}
    return replace(WHOLE, **one)


def compared(*tables: dict[str, Any], consistent: bool = True) -> dict[str, Any]:
    return {"consistent": consistent, "tables": list(tables), "lists": []}


def facts(**changes: Any) -> Facts:
    good: dict[str, Any] = {
        "acknowledged": 10,
        "comparison": compared(EQUAL),
        "history": WHOLE,
        "orders": Moves("moved", "refused"),
    }
    return Facts(**{**good, **changes})


def test_it_is_a_success_if_all_was_looked_at_and_nothing_is_wrong() -> None:
    assert facts().ok
    assert facts().result()["ok"] is True


@pytest.mark.parametrize(
    "changes",
    [
        {"history": None},
        {"history": replace(WHOLE, acknowledged=0)},
        *({"history": with_one(kind)} for kind in ("missing", "doubled", "phantom")),
        *({"history": with_one(kind)} for kind in ("altered", "torn")),
        {"comparison": None},
        {"comparison": compared({**EQUAL, "missing": 1}, consistent=False)},
        {"comparison": compared({**EQUAL, "state": "unverified"}, consistent=False)},
        {"orders": None},
        {"stopped": "rows differ"},
    ],
    ids=str,
)
def test_anything_wrong_or_not_looked_at_is_no_success(changes: dict[str, Any]) -> None:
    assert not facts(**changes).ok


def test_what_could_not_be_told_is_none_and_not_zero() -> None:
    unverified = compared({**EQUAL, "state": "unverified"}, consistent=False)
    result = facts(comparison=unverified, history=None).result()
    assert result["differences"] is None
    assert result["missing"] is None


@pytest.mark.parametrize("kind", ["phantom", "altered", "torn"])
def test_the_report_does_not_call_it_proven_if_a_write_is_wrong_in_another_way(kind: str) -> None:
    figures = facts(history=with_one(kind)).figures()
    report = Report(split="x", started_at=0, ended_at=1, figures=figures)
    assert judge(report).standing is Standing.BROKEN


def test_the_plan_that_is_written_is_the_bundled_one_but_for_its_switch(tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    stage.write_plan(path, ["switch", "it"])
    bundled = (stage._CASE / "plan.yaml").read_text(encoding="utf-8").splitlines()
    written = path.read_text(encoding="utf-8").splitlines()
    changed = [new for old, new in zip(bundled, written, strict=True) if old != new]
    assert [line.split(":")[0].strip("# ") for line in changed] == [
        "yaml-language-server",
        "orchestrator",
        "switch",
    ]
    plan = YAML(typ="safe").load(path)
    assert plan["switch"]["command"] == ["switch", "it"]
    assert Path(plan["services"]["orchestrator"]["revisions"], "versions").is_dir()


def test_the_screen_shows_the_step_that_goes_on_and_keeps_those_that_are_done() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100, record=True)
    with _Picture(console) as picture:
        picture(Began("copy", "Copy all rows"))
        picture(Said("copy", {"event": "copied", "route": "crm:leads"}))
        picture(
            Sample(
                at=1.0,
                acknowledged=12345,
                per_s=150,
                phases={"crm": "following"},
                lag_bytes={"crm": 4096},
            )
        )
        console.print(picture._draw())
        picture(Ended("copy", "Copy all rows", 1.25, "7 rows"))
    text = console.export_text()
    for shown in ("Copy all rows", "crm:leads", "12,345 writes acknowledged", "4,096 bytes behind"):
        assert shown in text
    assert "✓ Copy all rows  7 rows  1.2 s" in text
