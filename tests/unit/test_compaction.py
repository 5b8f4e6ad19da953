"""The net effect of changes against a model that applies them one by one."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdc.compaction import NetChanges, NetRows
from cdc.messages import DELETE, INSERT, UPDATE
from cdc.row_messages import RowChanges
from cdc.rows import NULL, UNCHANGED, Row, Value, fill, take, value, values

KEYS = [value(b"1"), value(b"2"), value(b"3"), value(b"4")]
VALUES = [value(b"x"), value(b"y"), NULL]
LARGE = [value(b"L1"), value(b"L2"), value(b"L3"), NULL]

Values = tuple[Value, ...]  # a key, a value, a large value


@dataclass
class Leader:
    """A table with a key, and the stream that a server would make of its changes."""

    rows: dict[bytes, Values]
    full: bool  # REPLICA IDENTITY
    said: list[tuple[int, Values | None, Values | None]] = field(default_factory=list)

    def insert(self, row: Values) -> None:
        if row[0] not in self.rows:
            self.rows[row[0]] = row
            self.said.append((INSERT, None, row))

    def delete(self, key: bytes) -> None:
        if key in self.rows:
            self.said.append((DELETE, self._old(self.rows.pop(key)), None))

    def update(self, key: bytes, new_key: bytes, value: bytes, large: bytes) -> None:
        """`large` is UNCHANGED or the new large value."""
        if key not in self.rows or (new_key != key and new_key in self.rows):
            return
        before = self.rows.pop(key)
        is_kept = large == UNCHANGED and before[2] != NULL
        kept = before[2] if large == UNCHANGED else large
        self.rows[new_key] = (new_key, value, kept)
        told = (new_key, value, UNCHANGED if is_kept else kept)
        old = self._old(before) if self.full or new_key != key else None
        self.said.append((UPDATE, old, told))

    def _old(self, row: Values) -> Values:
        return row if self.full else (row[0], NULL, NULL)


def joined(row: Values) -> Row:
    return b"".join(row)


def split(row: Row) -> Values:
    return tuple(values(row))


def read(leader: Leader) -> RowChanges:
    """What is read of the leader's messages."""
    kinds, keys, rows, old = [], [], [], {}
    partial: dict[int, tuple[int, ...]] = {}
    for place, (kind, before, now) in enumerate(leader.said):
        row = now if now is not None else before
        assert row is not None
        kinds.append(kind)
        keys.append(row[0])
        rows.append(joined(row))
        if kind == UPDATE and before is not None:
            old[place] = before[0], joined(before)
        if UNCHANGED in row:
            partial[place] = tuple(n for n, one in enumerate(row) if one == UNCHANGED)
    return RowChanges(kinds, keys, rows, old, partial)


def apply(net: NetChanges, leader: Leader) -> None:
    """One by one, and the same again as many at once."""
    beside = NetChanges()
    beside.take_in(read(leader))
    for kind, old, new in leader.said:
        if kind == INSERT:
            assert new is not None
            net.insert(new[0], joined(new))
        elif kind == UPDATE:
            assert new is not None
            told = None if old is None else (old[0], joined(old))
            net.update(new[0], joined(new), told, unchanged=(2,) if UNCHANGED in new else ())
        else:
            assert old is not None
            net.delete(old[0], joined(old))
    assert list(beside.present()) == list(net.present())
    assert list(beside.gone()) == list(net.gone())
    assert list(beside.renamed()) == list(net.renamed())
    assert list(beside.before()) == list(net.before())
    assert beside.partial() == net.partial()


changes = st.lists(
    st.one_of(
        st.tuples(
            st.just("insert"),
            st.tuples(st.sampled_from(KEYS), st.sampled_from(VALUES), st.sampled_from(LARGE)),
        ),
        st.tuples(st.just("delete"), st.tuples(st.sampled_from(KEYS))),
        st.tuples(
            st.just("update"),
            st.tuples(
                st.sampled_from(KEYS),
                st.sampled_from(KEYS),
                st.sampled_from(VALUES),
                st.sampled_from([UNCHANGED, *LARGE]),
            ),
        ),
    ),
    max_size=25,
)
beginnings = st.dictionaries(
    st.sampled_from(KEYS), st.tuples(st.sampled_from(VALUES), st.sampled_from(LARGE)), max_size=4
).map(lambda rows: {key: (key, *row) for key, row in rows.items()})


def changed(rows: dict[bytes, Values], done: list[tuple[str, Values]], *, full: bool) -> Leader:
    leader = Leader(dict(rows), full)
    for what, arguments in done:
        getattr(leader, what)(*([arguments] if what == "insert" else arguments))
    return leader


@settings(max_examples=400)
@given(rows=beginnings, done=changes, full=st.booleans())
def test_the_net_effect_on_a_table_with_a_key(
    rows: dict[bytes, Values], done: list[tuple[str, Values]], *, full: bool
) -> None:
    leader = changed(rows, done, full=full)
    net = NetChanges()
    apply(net, leader)
    follower = dict(rows)
    for gone in net.gone():
        del follower[split(gone)[0]]  # it was there
    for old, _ in net.renamed():
        del follower[split(old)[0]]  # it was there, too
    for key, row in net.present():
        assert (UNCHANGED in split(row)) == (key in net.partial())
        if key in net.partial() and net.has_moved(key):
            row = take(row, joined(leader.rows[key]))  # read back
        # A row that came in part and did not move is the follower's own.
        follower[key] = split(fill(row, joined(rows[key]) if key in rows else None))
    assert follower == leader.rows


@settings(max_examples=400)
@given(rows=beginnings, done=changes, full=st.booleans())
def test_rows_to_insert_are_not_there_and_rows_to_update_are(
    rows: dict[bytes, Values], done: list[tuple[str, Values]], *, full: bool
) -> None:
    """What is written straight into a table."""
    leader = changed(rows, done, full=full)
    net = NetChanges()
    apply(net, leader)
    for key in [key for key in net.partial() if net.has_moved(key)]:
        net.complete(key, joined(leader.rows[key]))  # read back
    follower = dict(rows)
    for gone in [*net.gone(), *(old for old, _ in net.renamed())]:
        del follower[split(gone)[0]]
    appearing, changing = net.coming()
    for unchanged, some in changing.items():
        for row in map(split, some):
            assert unchanged == tuple(n for n, one in enumerate(row) if one == UNCHANGED)
            stored = follower[row[0]]  # it is there
            follower[row[0]] = split(fill(joined(row), joined(stored)))
    for row in map(split, appearing):
        assert row[0] not in follower
        assert UNCHANGED not in row
        follower[row[0]] = row
    assert follower == leader.rows


@settings(max_examples=400)
@given(rows=beginnings, done=changes, other=beginnings, data=st.data())
def test_a_follower_with_rows_of_other_moments_is_right_when_the_changes_are_in(
    rows: dict[bytes, Values],
    done: list[tuple[str, Values]],
    other: dict[bytes, Values],
    data: st.DataObject,
) -> None:
    """A copy in chunks: of what changed it may have any version, or none."""
    leader = changed(rows, done, full=False)
    net = NetChanges()
    apply(net, leader)
    touched = {one[0] for _, old, new in leader.said for one in (old, new) if one}
    follower = {key: row for key, row in rows.items() if key not in touched}
    for key in sorted(touched):
        versions = [some[key] for some in (rows, leader.rows, other) if key in some]
        if (version := data.draw(st.sampled_from([None, *versions]))) is not None:
            follower[key] = version
    for gone in [*net.gone(), *(old for old, _ in net.renamed())]:
        follower.pop(split(gone)[0], None)
    for key in net.passed():
        follower.pop(key, None)
    for key, row in net.present():
        if key in net.partial():
            row = take(row, joined(leader.rows[key]))
        follower[key] = split(row)
    assert follower == leader.rows


@given(beginnings, changes)
def test_old_rows_are_those_of_the_beginning(
    rows: dict[bytes, Values], done: list[tuple[str, Values]]
) -> None:
    """With old rows in full: what was, and what is, for keys made of other columns."""
    leader = changed(rows, done, full=True)
    net = NetChanges()
    apply(net, leader)
    told = [*net.gone(), *net.before(), *(before for before, _ in net.renamed())]
    old = [split(row) for row in told]
    assert all(rows[row[0]] == row for row in old)
    untouched = {key: row for key, row in rows.items() if row not in old}
    follower = Counter([*untouched.values(), *(split(row) for _, row in net.present())])
    assert follower == Counter(leader.rows.values())


@given(beginnings, changes)
def test_a_key_is_present_or_gone_and_both_only_if_it_was_taken_by_another_row(
    rows: dict[bytes, Values], done: list[tuple[str, Values]]
) -> None:
    net = NetChanges()
    leader = changed(rows, done, full=False)
    apply(net, leader)
    present = [key for key, _ in net.present()]
    gone = [split(row)[0] for row in net.gone()]
    assert len(set(present)) == len(present)
    assert len(set(gone)) == len(gone)
    taken = {key for _, key in net.renamed()}
    came = {new[0] for kind, old, new in leader.said if new and (kind == INSERT or old)}
    assert set(present) & set(gone) <= taken | came
    net.clear()
    assert not len(net)
    assert [*net.present(), *net.gone(), *net.before(), *net.partial()] == []


@dataclass
class Multiset:
    """A table without a key, and what is read of the stream of its changes."""

    rows: list[Row]
    said: RowChanges = field(default_factory=lambda: RowChanges([], [], [], {}, {}))

    def insert(self, _which: int, row: Row) -> None:
        self.rows.append(row)
        self._say(INSERT, row)

    def delete(self, which: int, _row: Row) -> None:
        if self.rows:
            self._say(DELETE, self.rows.pop(which % len(self.rows)))

    def update(self, which: int, row: Row) -> None:
        if self.rows:
            old = self.rows.pop(which % len(self.rows))
            self.rows.append(row)
            self._say(UPDATE, row, old)

    def update_unchanged(self, which: int, row: Row) -> None:
        """Without touching the second value."""
        if not self.rows:
            return
        old = self.rows.pop(which % len(self.rows))
        first, second = values(row)[0], values(old)[1]
        self.rows.append(first + second)
        self._say(UPDATE, first + (NULL if second == NULL else UNCHANGED), old)

    def _say(self, kind: int, row: Row, old: Row | None = None) -> None:
        if old is not None:
            assert isinstance(self.said.old, dict)
            self.said.old[len(self.said.kinds)] = b"", old
        self.said.kinds.append(kind)
        self.said.keys.append(b"")
        self.said.rows.append(row)


TWO = [value(b"a") + value(b"1"), value(b"a") + value(b"2"), value(b"b") + NULL]


@given(
    st.lists(st.sampled_from(TWO), max_size=8),
    st.lists(
        st.tuples(
            st.sampled_from(["insert", "delete", "update", "update_unchanged"]),
            st.integers(0, 20),
            st.sampled_from([value(b"a") + value(b"1"), value(b"c") + value(b"1"), TWO[2]]),
        ),
        max_size=25,
    ),
)
def test_the_net_effect_on_a_multiset(rows: list[Row], done: list[tuple[str, int, Row]]) -> None:
    table = Multiset(list(rows))
    for what, which, row in done:
        getattr(table, what)(which, row)
    net = NetRows()
    net.take_in(table.said)
    counts = dict(net.rows())
    assert 0 not in counts.values()
    follower = Counter(rows)
    follower.update(counts)
    assert follower == Counter(table.rows)


def test_an_update_of_a_multiset_needs_its_old_row() -> None:
    with pytest.raises(KeyError):
        NetRows().take_in(RowChanges([UPDATE], [b""], [value(b"x")], {}, {}))


ONE = value(b"1")
THEN, LATER = value(b"then"), value(b"later")


def test_a_row_that_came_and_went_within_a_batch_is_nothing() -> None:
    net = NetChanges()
    net.insert(ONE, ONE + value(b"x"))
    net.update(ONE, ONE + value(b"y"))
    net.delete(ONE, ONE + NULL)
    assert [*net.present(), *net.gone(), *net.before()] == []


def test_a_row_that_was_read_back_keeps_what_the_stream_told() -> None:
    net = NetChanges()
    net.update(ONE, ONE + THEN + UNCHANGED, unchanged=(2,))
    assert list(net.partial()) == [ONE]
    net.complete(ONE, ONE + LATER + NULL)
    assert list(net.present()) == [(ONE, ONE + THEN + NULL)]
    assert not net.partial()


def test_a_row_that_was_not_found_is_gone() -> None:
    net = NetChanges()
    net.update(ONE, ONE + THEN + UNCHANGED, unchanged=(2,))
    net.complete(ONE, None)
    assert list(net.present()) == []
    assert list(net.gone()) == [ONE + THEN + UNCHANGED]


@settings(max_examples=400)
@given(beginnings, changes)
def test_rows_keep_what_does_not_flow_when_their_key_changes(
    rows: dict[bytes, Values], done: list[tuple[str, Values]]
) -> None:
    """A part of a split table: the follower has columns that this leader does not."""
    leader = Leader({key: (key, NULL, NULL) for key in rows}, full=False)
    own = {key: f"own {key!r}" for key in rows}  # follows the row, not the key
    where = {key: key for key in rows}  # where each old row is now
    for what, arguments in done:
        before = set(leader.rows)
        getattr(leader, what)(*([arguments] if what == "insert" else arguments))
        said = leader.said[-1:] if set(leader.rows) != before else []
        for kind, old, new in said:
            key = (old or new or ())[0]
            origin = next((o for o, k in where.items() if k == key), None)
            if kind == DELETE and origin is not None:
                del where[origin]
            elif kind == UPDATE and origin is not None and new is not None:
                where[origin] = new[0]
    net = NetChanges()
    apply(net, leader)
    follower = dict(own)
    for row in net.gone():
        del follower[split(row)[0]]
    renamed = [(split(old)[0], new) for old, new in net.renamed()]
    moving = {new: follower.pop(old) for old, new in renamed}
    assert not set(moving) & set(follower)
    follower |= moving
    expected = {key: own[origin] for origin, key in where.items()}
    assert follower == expected
