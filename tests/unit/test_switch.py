from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from plans.model import CommandSwitch, NoSwitch
from toolkit.switch import SwitchFailed, run_switch

ROUTES = {"crm": "postgresql://crm:s3cret@127.0.0.1/crm", "shop": "dbname=shop"}


def python(code: str, timeout_s: float = 10) -> CommandSwitch:
    return CommandSwitch(kind="command", command=(sys.executable, "-c", code), timeout_s=timeout_s)


def test_the_command_gets_the_step_and_the_routes(tmp_path: Path) -> None:
    told = tmp_path / "told"
    code = (
        "import os, pathlib; e = os.environ;"
        f" pathlib.Path({str(told)!r}).write_text(e['DBSPLIT_STEP'] + e['DBSPLIT_ROUTES'])"
    )
    run_switch(python(code), "switch", ROUTES)
    text = told.read_text()
    assert text.startswith("switch")
    assert json.loads(text.removeprefix("switch")) == ROUTES


def test_a_failure_is_told_without_the_passwords() -> None:
    code = "import os, sys; sys.exit('no: ' + os.environ['DBSPLIT_ROUTES'])"
    with pytest.raises(SwitchFailed, match="exit code 1 in step back") as caught:
        run_switch(python(code), "back", ROUTES)
    assert "********" in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_a_command_that_hangs_or_does_not_exist_has_failed() -> None:
    with pytest.raises(SwitchFailed, match=r"longer than 0\.2 s"):
        run_switch(python("import time; time.sleep(9)", timeout_s=0.2), "switch", ROUTES)
    with pytest.raises(SwitchFailed, match="could not be started"):
        run_switch(CommandSwitch(kind="command", command=("/no/such",)), "switch", ROUTES)


def test_no_switch_does_nothing() -> None:
    run_switch(NoSwitch(), "switch", ROUTES)
