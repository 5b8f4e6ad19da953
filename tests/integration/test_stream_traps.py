"""What PostgreSQL's change stream has in store, trap by trap, on every way through a batch.

All traps share one database and one run of the stream; each is looked at by a
test of its own.  The runs differ in where a batch ends: "together", everything is
one batch and only the net effect is written; "change by change", nothing is netted
and transactions are carried over in parts; "a few at a time", each batch is tried the
fastest way first; "pulled", the changes come by SQL.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.following import Following, following
from tests.stream_traps import TRAPS, Trap
from toolkit.opened import Split
from toolkit.servers import Server
from validators.results import TableResult

WAYS = {
    "together": {},
    "change by change": {"cdc.apply.BATCH_CHANGES_MAX": 1, "cdc.apply.PART_CHANGES_MAX": 1},
    "a few at a time": {"cdc.apply.BATCH_CHANGES_MAX": 7, "cdc.writer.CAREFUL_BATCHES": 0},
    "pulled": {"cdc.follow.PULL_BYTES_MIN": -1, "cdc.pull.CALL_BYTES_MIN": 10_000},
}


@dataclass(frozen=True)
class Followed:
    """The databases after the stream has caught up, and what the comparison says of them."""

    databases: Following
    split: Split
    validated: dict[str, TableResult]


@pytest.fixture(scope="module", params=WAYS)
def followed(
    request: pytest.FixtureRequest,
    source_server: Server,
    target_server: Server,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Followed]:
    with (
        pytest.MonkeyPatch.context() as patch,
        following(
            source_server,
            target_server,
            tmp_path_factory.mktemp("traps"),
            tables="".join(trap.plan for trap in TRAPS),
            derived="".join(trap.derived for trap in TRAPS),
        ) as databases,
    ):
        for name, setting in WAYS[request.param].items():
            patch.setattr(name, setting)
        databases.execute("CREATE SCHEMA odd", *(trap.schema for trap in TRAPS))
        databases.execute(*(trap.rows for trap in TRAPS if trap.rows))
        databases.prepare()
        databases.execute(*(text for trap in TRAPS for text in trap.copied))
        databases.copy()
        databases.execute(*(text for trap in TRAPS for text in trap.changes))
        databases.stream()
        split = databases.open()
        yield Followed(databases, split, databases.validated())


@pytest.mark.parametrize("trap", TRAPS, ids=lambda trap: trap.name)
def test_the_target_is_what_the_source_is(followed: Followed, trap: Trap) -> None:
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
