"""What a comparison that came to no end had proven: who may go on with it, and who may not."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psycopg
import pytest

from tests.small_shop import SmallShop, small_shop
from toolkit.servers import Server
from validators.scans import Course

UNITS = 4


@pytest.fixture
def shop(source_server: Server, target_server: Server, tmp_path: Path) -> Iterator[SmallShop]:
    with small_shop(source_server, target_server, tmp_path) as one:
        one.follow()
        yield one


def test_a_cutover_looks_again_at_what_was_proven_while_its_target_was_open(
    shop: SmallShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("toolkit.validation.Course", partial(Course, rows_per_unit=5))
    units = iter(range(UNITS))

    def interrupt(_point: str) -> None:
        if next(units, None) is None:
            raise KeyboardInterrupt

    with shop.verbs.stream(shop.source):
        with monkeypatch.context() as patch:
            patch.setattr("toolkit.compared_units.crash_point", interrupt)
            shop.verbs("validate", "--table", "tickets", code=130)
        assert shop.value("source", "SELECT count(*) FROM dbsplit.compared_unit") > UNITS
        with psycopg.connect(shop.targets["crm"]) as somebody:  # a DBA: nothing is closed yet
            somebody.execute("UPDATE tickets SET subject = 'planted' WHERE id = 1")
        refused = shop.verbs("cutover", "--yes", code=6)
        assert "validated is 1" in refused.err
