# ruff: noqa: S608 -- all of the SQL is the tests' own
"""Which way a batch is written, and that each leaves the follower as the source is.

A way that does not do is undone and the next one tried, so a mistake in the fastest way may
show in nothing but time: here it is seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from cdc.batch import PARTS_MAX, TableBatch
from cdc.lsn import LSN
from cdc.progress import Session
from cdc.write import BatchWriter, Manner
from tests.following import Following, following
from tests.stream_traps import big
from toolkit.opened import Split
from toolkit.servers import Server

LARGE = [f"b{n}" for n in range(PARTS_MAX + 2)]
SCHEMA = f"""
CREATE SCHEMA odd;
CREATE TABLE wide (id bigint PRIMARY KEY, n int, {", ".join(f"{one} text" for one in LARGE)});
ALTER TABLE wide {", ".join(f"ALTER {one} SET STORAGE EXTERNAL" for one in LARGE)};
CREATE TABLE late (id uuid PRIMARY KEY, n int, u int UNIQUE, body text);
ALTER TABLE late ALTER body SET STORAGE EXTERNAL;
"""
ROWS = f"""
INSERT INTO wide SELECT n, n, {", ".join([big("old")] * len(LARGE))} FROM generate_series(1, 40) n;
INSERT INTO late SELECT lpad(n::text, 32, '0')::uuid, n, n, {big("old")}
  FROM generate_series(1, 9) n;
"""


class Ways:
    """The ways in which batches were written, those of each batch together."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.taken: list[str] = []
        self._next = ""
        write, begin = BatchWriter.write, Session.begin_batch

        def written(
            writer: BatchWriter, batches: Sequence[TableBatch], lsn: LSN, manner: Manner
        ) -> None:
            self.taken[-1] += manner.way.value[0]
            write(writer, batches, lsn, manner)

        def begun(session: Session, stages: object) -> object:
            self.taken.append("")
            return begin(session, stages)  # type: ignore[arg-type]

        patch.setattr(BatchWriter, "write", written)
        patch.setattr(Session, "begin_batch", begun)

    def clear(self) -> list[str]:
        """Those since it was called before."""
        taken, self.taken = self.taken, []
        return taken


@pytest.fixture
def databases(source_server: Server, target_server: Server, tmp_path: Path) -> Iterator[Following]:
    with following(source_server, target_server, tmp_path, tables="wide: a\nlate: a\n") as one:
        one.execute(SCHEMA, ROWS)
        one.prepare()
        one.copy()
        yield one


def require_equal(databases: Following, split: Split) -> None:
    for route in split.routes:
        assert databases.differences(split, route) == ([], []), route.id


def test_the_fastest_way_does_unless_the_follower_has_other_rows(
    databases: Following, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cdc.writer.CAREFUL_BATCHES", 0)
    monkeypatch.setattr("cdc.apply.BATCH_CHANGES_MAX", 1)
    ways, split = Ways(monkeypatch), databases.open()
    databases.execute_on(
        "a", "INSERT INTO dbsplit.tracked (route) " + f"VALUES ('{split.routes[0].id}')"
    )

    # Rows that lack other values each; some in turn, so that only some are missing in the end.
    every = [f"UPDATE wide SET {one} = 'x', n = -1 WHERE id = {n + 1}" for n, one in
             enumerate(LARGE[: PARTS_MAX - 5])]  # fmt: skip
    databases.execute(
        "; ".join(every),
        "; ".join(every[::-1]),
        f"UPDATE wide SET b0 = 'y' WHERE id = 30; UPDATE wide SET b1 = {big('b')} WHERE id = 30;"
        " UPDATE wide SET b0 = 'z' WHERE id = 30; UPDATE wide SET n = 0 WHERE id = 30;"
        "DELETE FROM wide WHERE id = 31; INSERT INTO wide (id, b3) VALUES (31, '');"
        f" UPDATE wide SET b4 = {big('b')} WHERE id = 31; UPDATE wide SET n = 0 WHERE id = 31;"
        f"INSERT INTO wide (id, b5) VALUES (131, {big('i')}); UPDATE wide SET n = 2 WHERE id = 131;"
        "DELETE FROM wide WHERE id = 32",
    )
    databases.stream()
    assert ways.clear() == ["d"] * 3
    require_equal(databases, split)
    (dirty,) = databases.rows("a", "SELECT count(DISTINCT key) FROM dbsplit.dirty")
    assert dirty == (PARTS_MAX - 5 + 4,)

    # Rows that the follower should not have, or has not; then more of what is lacking than has
    # numbers.  Nothing of a way that did not do may stay, be it in a stage or prepared.
    a_batch = "UPDATE wide SET n = n + 1 WHERE id < 4; DELETE FROM late WHERE n = {n};"
    a_batch += " INSERT INTO late VALUES (lpad('{n}', 32, 'a')::uuid, {n}, {n}, 'i')"
    databases.execute(
        *(a_batch.format(n=n) for n in range(1, 8)),
        "DELETE FROM wide WHERE id = 20; INSERT INTO wide (id) VALUES (120); UPDATE wide SET n = 9"
        " WHERE id < 5",
        "INSERT INTO wide (id) VALUES (20); UPDATE wide SET n = 10 WHERE id IN (35, 5)",
        *(a_batch.format(n=n) for n in range(8, 14)),
        "; ".join(f"UPDATE wide SET {one} = 'm' WHERE id = 33" for one in LARGE),
        "; ".join(
            f"UPDATE wide SET {one} = 'n', n = -{n} WHERE id = {n % 19}"
            for n, one in enumerate(LARGE)
        ),
        "; ".join(f"UPDATE wide SET {one} = 'o' WHERE id = {n}" for n, one in enumerate(LARGE, 1)),
        "UPDATE wide SET n = 100 WHERE id = 10",
    )
    databases.execute_on(
        "a", "INSERT INTO wide (id, n) VALUES (120, 1)", "DELETE FROM wide WHERE id = 35"
    )
    databases.stream()
    assert ways.clear() == ["d"] * 7 + ["dm", "dmm"] + ["d"] * 10
    require_equal(databases, split)


def test_a_transaction_in_parts_touches_a_table_late_and_waits_for_values(
    databases: Following, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cdc.writer.CAREFUL_BATCHES", 0)
    monkeypatch.setattr("cdc.apply.PART_CHANGES_MAX", 5)
    monkeypatch.setattr("cdc.write.STAGED_MAX", 8)  # so stages are truncated, and that is undone
    ways, split = Ways(monkeypatch), databases.open()
    updates = "; ".join(f"UPDATE wide SET n = {n}, b{n} = 'p' WHERE id = {n + 1}" for n in range(7))
    databases.execute(
        f"{updates}; DELETE FROM wide WHERE id > 35; UPDATE late SET u = 50 WHERE n = 1;"
        " INSERT INTO wide (id) VALUES (36), (37), (38); UPDATE late SET u = 60 WHERE n = 2;"
        f" UPDATE late SET n = 5; {updates}; TRUNCATE wide; INSERT INTO wide (id) VALUES (7)",
        "UPDATE late SET n = 6",
    )
    # So that no way leads to what the first of them is before the second has been changed.
    databases.execute_on("a", "UPDATE late SET u = 50 WHERE n = 2")
    databases.stream()
    assert "dmr" in ways.taken
    require_equal(databases, split)
