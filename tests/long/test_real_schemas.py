"""Schemas that others published go through the whole line while they are written to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import require_version
from tests.invented_traffic import InventedTraffic
from tests.real_schemas import REAL_SCHEMAS, RealLine, RealSchema, real_line
from toolkit.servers import Server, running_server

WITH_CONTRIB = "15"  # Debian's


@pytest.mark.release
@pytest.mark.parametrize("real", REAL_SCHEMAS, ids=lambda one: one.name)
def test_a_published_schema_goes_the_whole_line_under_writes(
    real: RealSchema, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    with (
        servers_for(real, request) as (source_server, target_server),
        real_line(real, source_server, target_server, tmp_path) as line,
    ):
        a_plan_is_proposed_of_what_is_known(line)
        the_plan_of_who_knows_passes_the_check(line)
        line.render()
        line.add_switch()
        traffic = line.traffic()
        traffic.start()
        try:
            the_line(line, traffic)
        finally:
            traffic.stop()


@contextmanager
def servers_for(
    real: RealSchema, request: pytest.FixtureRequest
) -> Iterator[tuple[Server, Server]]:
    """Two servers, or one for all where modules are needed."""
    if not real.contrib:
        yield request.getfixturevalue("source_server"), request.getfixturevalue("target_server")
        return
    require_version(WITH_CONTRIB)
    with running_server(version=WITH_CONTRIB) as server:
        yield server, server


def a_plan_is_proposed_of_what_is_known(line: RealLine) -> None:
    """Of tables alone, of which the names and keys tell something."""
    code, told = line.propose()
    checked = line.verbs.json("plan", "check", code=code)
    blockers = {one["code"] for one in checked["findings"] if one["severity"] == "blocker"}
    assert bool(blockers) is bool(code)
    assert len(told["tables"]) >= sum(map(len, line.tables.values()))


def the_plan_of_who_knows_passes_the_check(line: RealLine) -> None:
    code, told = line.propose("--owners", str(line.write_owners()))
    assert code == 0, told
    owners = {one["table"]: one["owner"] for one in told["tables"]}
    for service, tables in line.tables.items():
        assert {owners[table] for table in tables} == {service}
    checked = line.verbs.json("plan", "check")
    codes = {one["code"] for one in checked["findings"]}
    assert codes >= line.real.says


def the_line(line: RealLine, traffic: InventedTraffic) -> None:
    verbs = line.verbs
    traffic.flows()
    verbs("prepare")
    verbs("copy")
    with verbs.stream(line.source):
        line.prove(traffic)
        line.move("cutover", "moved")
        line.prove(traffic)
        line.move("rollback", "returned")
        line.prove(traffic)
        line.move("cutover", "moved")
        line.prove(traffic)
        assert verbs.json("complete", "--dry-run")["outcome"] == "dry-run"
        if line.real.aborted:
            line.move("rollback", "returned")
        else:
            assert verbs.json("complete", "--yes")["outcome"] == "completed"
    if line.real.aborted:
        assert verbs.json("abort", "--yes")["outcome"] == "removed"
    line.prove(traffic, compare=False)
