"""The workflow in docs/ci.md, run step by step."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from ruamel.yaml import YAML

from tests.small_shop import SmallShop, small_shop
from toolkit.servers import Server

ROOT = Path(__file__).parents[2]
STEP_S_MAX = 240


def job() -> dict[str, Any]:
    """The documented job."""
    page = (ROOT / "docs" / "ci.md").read_text()
    (workflow,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    (one,) = YAML(typ="safe").load(workflow)["jobs"].values()
    return dict(one)


def run(shop: SmallShop, directory: Path) -> tuple[int, str]:
    """Run the job as a runner would: stop at a failure, but for steps that are for it."""
    code, out = 0, ""
    summary = directory / "summary.md"
    environment = {name: shop.verbs.environment[name] for name in job()["env"]}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    kept = {k: v for k, v in os.environ.items() if k.startswith("DBSPLIT_PG")}
    for step in job()["steps"]:
        wanted = step.get("if", "success()")
        if "run" not in step or step["name"] == "Install":
            continue
        if wanted != "always()" and (wanted == "failure()") is not bool(code):
            continue
        done = subprocess.run(
            ["bash", "-e", "-c", step["run"]],  # noqa: S607 - as a runner finds it
            cwd=directory,
            env={**kept, **environment, "PATH": path, "GITHUB_STEP_SUMMARY": str(summary)},
            capture_output=True,
            text=True,
            timeout=STEP_S_MAX,
            check=False,
        )
        code, out = code or done.returncode, out + done.stdout + done.stderr
    return code, out


@pytest.mark.long
def test_the_documented_workflow_passes_and_fails_as_it_should(
    source_server: Server, target_server: Server, tmp_path: Path
) -> None:
    with small_shop(source_server, target_server, tmp_path) as shop:
        shop.follow()
        with shop.verbs.stream(shop.source):
            code, out = run(shop, tmp_path)
            assert code == 0, out
            assert "::notice " in out
            shop.ask("shop", "UPDATE orders SET customer_id = 1 WHERE id IN (6, 7)")
            code, out = run(shop, tmp_path)
        assert code == 5, out
        assert "::error file=plan.yaml,line=" in out
    reports = tmp_path / "reports"
    assert {path.name for path in reports.iterdir()} == {"rows.html", "rows.xml", "rows.jsonl"}
    cases = list(ElementTree.parse(reports / "rows.xml").iter("testcase"))  # noqa: S314
    assert [case.get("name") for case in cases if case.find("failure") is not None] == [
        "public.orders"
    ]
    assert (tmp_path / "summary.md").read_text().split() == ["2", "reports/rows.jsonl"]
