"""What a comparison that came to no end had proven: who may go on with it, and who may not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.small_shop import SmallShop, small_shop
from toolkit.servers import Server
from validators.ranges import begin_chunks, begin_rows
from validators.scans import Course
from validators.units import Sizes

UNITS = 4


@pytest.fixture
def shop(source_server: Server, target_server: Server, tmp_path: Path) -> Iterator[SmallShop]:
    with small_shop(source_server, target_server, tmp_path) as one:
        one.follow()
        yield one


@pytest.fixture
def half_proven(shop: SmallShop, monkeypatch: pytest.MonkeyPatch) -> Iterator[SmallShop]:
    """A live comparison was ended half-way; a row of what it had proven is spoiled since."""
    monkeypatch.setattr("toolkit.validation.Course", partial(Course, sizes=Sizes(rows_per_unit=5)))
    units = iter(range(UNITS))

    def interrupt(_point: str) -> None:
        if next(units, None) is None:
            raise KeyboardInterrupt

    with shop.verbs.stream(shop.source):
        with monkeypatch.context() as patch:
            patch.setattr("toolkit.compared_units.crash_point", interrupt)
            shop.verbs("validate", "--table", "tickets", code=130)
        assert proven_units(shop) > UNITS
        with psycopg.connect(shop.targets["crm"]) as somebody:  # a DBA: nothing is closed yet
            somebody.execute("UPDATE tickets SET subject = 'planted' WHERE id = 1")
        yield shop


def proven_units(shop: SmallShop) -> int:
    return int(shop.value("source", "SELECT count(*) FROM dbsplit.compared_unit"))


def test_at_one_position_all_is_read_at_that_position(
    half_proven: SmallShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither what a live comparison has proven, nor what one at another position had."""
    shop = half_proven
    known = proven_units(shop)
    table = ("--snapshot", "--table", "tickets")
    units = iter(range(UNITS))

    def interrupt(begin: Any, *words: Any) -> Any:
        if next(units, None) is None:
            raise KeyboardInterrupt
        return begin(*words)

    with monkeypatch.context() as patch:
        patch.setattr("validators.scans.begin_chunks", partial(interrupt, begin_chunks))
        patch.setattr("validators.scans.begin_rows", partial(interrupt, begin_rows))
        shop.verbs("validate", *table, code=130)
    assert proven_units(shop) == known
    with psycopg.connect(shop.targets["crm"]) as somebody:
        somebody.execute("UPDATE tickets SET subject = 'planted' WHERE id = 2")
    found = shop.verbs.json("validate", *table, code=5)
    ((_, different, rows),) = [(t["table"], t["different"], t["rows"]) for t in found["tables"]]
    assert (different, rows) == (2, shop.value("source", "SELECT count(*) FROM tickets"))


def test_a_cutover_looks_again_at_what_was_proven_while_its_target_was_open(
    half_proven: SmallShop,
) -> None:
    shop = half_proven
    refused = shop.verbs("cutover", "--yes", code=6)
    assert "validated is 1" in refused.err


@pytest.mark.long
def test_a_certificate_has_hashes_of_a_large_tables_parts(
    shop: SmallShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("toolkit.validation.Course", partial(Course, sizes=Sizes(rows_per_unit=5)))
    monkeypatch.setattr("validators.glance.ROWS_MAX", 10)
    with shop.verbs.stream(shop.source):
        moved = shop.verbs.json("cutover", "--yes")
    file = shop.verbs.plan.parent / moved["certificate"]
    proof = json.loads(file.read_text())
    (tickets,) = [one for one in proof["tables"] if one["route"].endswith("tickets")]
    assert len(tickets["chunks"]) > UNITS
    rows = [int(chunk["hash"].split(":")[0]) for chunk in tickets["chunks"]]
    assert sum(rows) == tickets["rows"]
    assert "chunks" not in proof["steps"]["validate"]
    assert tickets["chunks"][UNITS]["hash"] in file.with_suffix(".html").read_text()
