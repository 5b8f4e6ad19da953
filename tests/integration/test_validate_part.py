"""A part of the rows is compared by `validate`, and counts for no more than that."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.small_shop import SmallShop, small_shop
from toolkit.servers import Server
from validators.scans import Course


@pytest.fixture
def shop(source_server: Server, target_server: Server, tmp_path: Path) -> Iterator[SmallShop]:
    with small_shop(source_server, target_server, tmp_path) as one:
        one.follow()
        yield one


def test_what_lies_outside_a_part_is_not_told_and_no_proof_is_noted(shop: SmallShop) -> None:
    shop.verbs("stream", "--until-caught-up")
    shop.ask("crm", "SELECT set_config('dbsplit.applier', 'small', false)")
    shop.ask(
        "crm", "UPDATE tickets SET subject = 'planted' WHERE id = (SELECT max(id) FROM tickets)"
    )
    last = shop.value("crm", "SELECT max(id) FROM tickets")
    low = ("--table", "tickets", "--below", str(last))
    part = shop.verbs.json("validate", *low)
    assert part["consistent"]
    assert part["scope"] == f"keys below {last}"
    assert shop.ask("source", "SELECT route FROM dbsplit.validated") == []

    high = ("--table", "tickets", "--from", str(last))
    (table,) = shop.verbs.json("validate", *high, code=5)["tables"]
    assert (table["rows"], table["different"]) == (1, 1)
    assert shop.ask("source", "SELECT route FROM dbsplit.validated") == []

    shop.verbs.json("validate", "--table", "tickets", code=5)
    assert len(shop.ask("source", "SELECT route FROM dbsplit.validated")) == 1


def test_a_part_in_which_no_row_is_proves_nothing(shop: SmallShop) -> None:
    nowhere = ("validate", "--table", "tickets", "--from", "999999")
    told = shop.verbs.json(*nowhere, code=5)
    assert (told["consistent"], told["rows_equal"]) == (False, False)
    assert [one["rows"] for one in told["tables"]] == [0]
    assert "No rows were compared" in shop.verbs(*nowhere, code=5).out


def test_a_part_that_no_table_has_is_refused_before_anything_is_read(shop: SmallShop) -> None:
    shop.verbs.refused(
        "validate", "--table", "tickets", "--within", "nowhere:2d",
        code=2, says="no column 'nowhere'", hint="its columns are",
    )  # fmt: skip
    # Nor for tables that come before it: public.notes has such a column, others have not.
    shop.verbs.refused("validate", "--within", "placed_at:2d", code=2, says="no column 'placed_at'")
    shop.verbs.refused(
        "validate", "--within", "often", code=2, says="is no column with an age", hint="--help"
    )
    shop.verbs.refused(
        "validate", "--table", "tickets", "--from", "first",
        code=2, says="--from 'first' is no integer", hint="of that type",
    )  # fmt: skip
    everything = shop.verbs.json("validate", "--sample", "50")
    assert everything["scope"] == "a sample of 50 % of the keys"


def test_sessions_are_those_asked_for_and_the_snapshots_limit_is_the_plans(
    shop: SmallShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, float]] = []

    def course(**how: Any) -> Course:
        seen.append((how["jobs"], how["snapshot_s_max"]))
        return Course(**how)

    monkeypatch.setattr("toolkit.validation.Course", course)
    shop.verbs("stream", "--until-caught-up")
    plan = shop.verbs.plan
    plan.write_text(plan.read_text() + "\nlimits: {snapshot_s_max: 77}\n")
    shop.verbs.json("validate", "--table", "tickets", "--jobs", "5")
    assert seen == [(5, 77)]
