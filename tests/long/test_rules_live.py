"""Rules under the bundled applications' writes: what holds at rest is not said to be broken."""

from __future__ import annotations

import os
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from plans import crm_shop
from tests.long.test_compare_live import at_work
from toolkit.opened import Split
from toolkit.rules import Chosen
from toolkit.validating import Wanted, run_validation
from validators.rules.rule import RuleResult

# Not imported here: its import takes seconds, and warns.
pytestmark = pytest.mark.skipif(
    find_spec("great_expectations") is None, reason="needs pip install 'dbsplit[quality]'"
)

LIVE_S = float(os.environ.get("DBSPLIT_TEST_LIVE_S") or 30)
SUITES = Path(crm_shop.__path__[0]) / "rules"


def told(split: Split) -> list[RuleResult]:
    """What the rules say now, generated ones and those of the bundled case."""
    wanted = Wanted(rules=Chosen(suites=SUITES))
    return list(run_validation(split, split.routes, lambda _step, _details: None, wanted).rules)


def test_no_rule_is_broken_by_looking_while_applications_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with at_work(tmp_path, monkeypatch) as split:
        deadline = time.monotonic() + LIVE_S
        while True:
            results = told(split)
            assert {one.side for one in results} == {"source", "target"}
            assert [one for one in results if one.counts] == []
            if time.monotonic() > deadline:
                break
