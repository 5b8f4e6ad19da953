"""Slots that standbys have came with PostgreSQL 17: a failover there."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests import real_fetch
from toolkit.binaries import find_binaries

FAILOVER = Path(__file__).with_name("test_failover.py")
RUN_S_MAX = 400.0
CLIENTS = ("pg_basebackup", "pg_dump")


@pytest.mark.release
def test_a_failover_on_postgresql_17_loses_and_doubles_nothing() -> None:
    """All of `test_failover.py`; what the archive lacks is of 18, which serves older servers."""
    newer = find_binaries("18")
    with tempfile.TemporaryDirectory(prefix="dbsplit-17-") as place:
        Path(place).chmod(0o755)  # the server's account is another
        programs = real_fetch.postgres_17(Path(place))
        for name in CLIENTS:
            script = programs / name
            script.write_text(f'#!/bin/sh\nexec {newer.program(name)} "$@"\n')
            script.chmod(0o755)
        environment = {"DBSPLIT_PG_BIN": str(programs), "DBSPLIT_TEST_PG_VERSION": "17"}
        words = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-m", "long", str(FAILOVER)]
        run = subprocess.run(
            words,
            env={**os.environ, **environment},
            timeout=RUN_S_MAX,
            capture_output=True,
            text=True,
            check=False,
        )
    assert run.returncode == 0, run.stdout
    assert "2 passed" in run.stdout
