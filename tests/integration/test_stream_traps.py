"""What PostgreSQL's change stream has in store, trap by trap, on every way through a batch.

All traps share one database and one run of the stream; each is looked at by a
test of its own.  The runs differ in where a batch ends: "together", everything is
one batch and only the net effect is written; "change by change", nothing is netted
and transactions are carried over in parts; "a few at a time", each batch is tried the
fastest way first; "pulled", the changes come by SQL.

A stream brings all rows in binary form, as it does mostly, or all of them as text: one
table is enough that cannot come otherwise.  Rows in binary form may be copied straight
into their table.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.following import Following, following
from tests.stream_traps import TRAPS, Trap
from toolkit.links import forward_feed
from toolkit.opened import Split
from toolkit.servers import Server
from validators.results import TableResult

WAYS = {
    "together": {},
    "change by change": {"cdc.apply.BATCH_CHANGES_MAX": 1, "cdc.apply.PART_CHANGES_MAX": 1},
    "a few at a time": {"cdc.apply.BATCH_CHANGES_MAX": 7, "cdc.writer.CAREFUL_BATCHES": 0},
    "pulled": {"cdc.follow.PULL_BYTES_MIN": -1, "cdc.pull.CALL_BYTES_MIN": 10_000},
}


TEXT_ONLY = "types that come as text"
FORMS = {
    "in text": TRAPS,
    "in binary form": tuple(trap for trap in TRAPS if trap.name != TEXT_ONLY),
}
BY_DEFAULT = {
    ("in text", "together"),
    ("in text", "change by change"),
    ("in binary form", "a few at a time"),
    ("in binary form", "pulled"),
}
RUNS = [
    pytest.param(form, way, id=f"{way}, {form}", marks=marks)
    for form in FORMS
    for way in WAYS
    for marks in [() if (form, way) in BY_DEFAULT else (pytest.mark.long, pytest.mark.release)]
]


@dataclass(frozen=True)
class Followed:
    """The databases after the stream has caught up, and what the comparison says of them."""

    traps: tuple[Trap, ...]
    databases: Following
    split: Split
    validated: dict[str, TableResult]


@pytest.fixture(scope="module")
def followed(
    form: str,
    way: str,
    source_server: Server,
    target_server: Server,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Followed]:
    traps = FORMS[form]
    with (
        pytest.MonkeyPatch.context() as patch,
        following(
            source_server,
            target_server,
            tmp_path_factory.mktemp("traps"),
            tables="".join(trap.plan for trap in traps),
            derived="".join(trap.derived for trap in traps),
        ) as databases,
    ):
        for name, setting in WAYS[way].items():
            patch.setattr(name, setting)
        databases.execute("CREATE SCHEMA odd", *(trap.schema for trap in traps))
        databases.execute(*(trap.rows for trap in traps if trap.rows))
        databases.prepare()
        databases.execute(*(text for trap in traps for text in trap.copied))
        databases.copy()
        databases.execute(*(text for trap in traps for text in trap.changes))
        databases.stream()
        split = databases.open()
        assert forward_feed(split).binary == (form == "in binary form")
        yield Followed(traps, databases, split, databases.validated())


@pytest.mark.parametrize(("form", "way"), RUNS, scope="module")
@pytest.mark.parametrize("trap", TRAPS, ids=lambda trap: trap.name)
def test_the_target_is_what_the_source_is(followed: Followed, trap: Trap) -> None:
    if trap not in followed.traps:
        return  # it has no binary form
    routes = [route for route in followed.split.routes if route.source.name.name in trap.tables]
    assert {route.source.name.name for route in routes} == set(trap.tables)
    for route in routes:
        missing, extra = followed.databases.differences(followed.split, route)
        assert (missing, extra) == ([], []), route.id
        result = followed.validated[route.id]
        assert result.state == "equal", result
    for query, expected in trap.expected.items():
        place, _, text = query.partition(": ")
        assert followed.databases.rows(place, text) == expected
