"""The net effect of changes against a model that applies them one by one."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdc.compaction import Key, NetChanges, NetRows, fill, take
from cdc.pgoutput import UNCHANGED, Tuple

KEYS = [b"1", b"2", b"3", b"4"]
VALUES = [b"x", b"y", None]
LARGE = [b"L1", b"L2", b"L3", None]

Row = tuple[bytes | None, ...]  # a key, a value, a large value


@dataclass
class Leader:
    """A table with a key, and the stream that a server would make of its changes."""

    rows: dict[bytes, Row]
    full: bool  # REPLICA IDENTITY
    said: list[tuple[str, Tuple | None, Tuple | None]] = field(default_factory=list)

    def insert(self, row: Row) -> None:
        assert row[0] is not None
        if row[0] not in self.rows:
            self.rows[row[0]] = row
            self.said.append(("insert", None, row))

    def delete(self, key: bytes) -> None:
        if key in self.rows:
            self.said.append(("delete", self._old(self.rows.pop(key)), None))

    def update(self, key: bytes, new_key: bytes, value: bytes | None, large: object) -> None:
        """`large` is UNCHANGED or the new large value."""
        if key not in self.rows or (new_key != key and new_key in self.rows):
            return
        before = self.rows.pop(key)
        is_kept = large is UNCHANGED and before[2] is not None
        kept = before[2] if large is UNCHANGED else large
        assert kept is None or isinstance(kept, bytes)
        self.rows[new_key] = (new_key, value, kept)
        told: Tuple = (new_key, value, UNCHANGED if is_kept else kept)
        old = self._old(before) if self.full or new_key != key else None
        self.said.append(("update", old, told))

    def _old(self, row: Row) -> Tuple:
        return row if self.full else (row[0], None, None)


def apply(net: NetChanges | NetRows, leader: Leader) -> None:
    for what, old, new in leader.said:
        match what:
            case "insert":
                assert new is not None
                net.insert(new)
            case "update":
                assert new is not None
                net.update(old, new)
            case _:
                assert old is not None
                net.delete(old)


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


def changed(rows: dict[bytes, Row], done: list[tuple[str, Tuple]], *, full: bool) -> Leader:
    leader = Leader(dict(rows), full)
    for what, arguments in done:
        getattr(leader, what)(*([arguments] if what == "insert" else arguments))
    return leader


@settings(max_examples=400)
@given(rows=beginnings, done=changes, full=st.booleans())
def test_the_net_effect_on_a_table_with_a_key(
    rows: dict[bytes, Row], done: list[tuple[str, Tuple]], *, full: bool
) -> None:
    leader = changed(rows, done, full=full)
    net = NetChanges((0,))
    apply(net, leader)
    follower = dict(rows)
    for image in net.gone():
        assert isinstance(image[0], bytes)
        del follower[image[0]]  # it was there
    for old, _ in net.renamed():
        assert isinstance(old[0], bytes)
        del follower[old[0]]  # it was there, too
    for image in net.present():
        key = image[0]
        assert isinstance(key, bytes)
        if UNCHANGED in image and net.has_moved(image):
            image = take(image, leader.rows[key])  # read back
        # A row that came in part and did not move is the follower's own.
        follower[key] = fill(image, rows.get(key))  # type: ignore[assignment]
    assert follower == leader.rows


@given(beginnings, changes)
def test_old_images_are_those_of_the_beginning(
    rows: dict[bytes, Row], done: list[tuple[str, Tuple]]
) -> None:
    """With old rows in full: what was, and what is, for keys made of other columns."""
    leader = changed(rows, done, full=True)
    net = NetChanges((0,))
    apply(net, leader)
    old = [*net.gone(), *net.before(), *(before for before, _ in net.renamed())]
    assert all(rows[image[0]] == image for image in old)  # type: ignore[index]
    untouched = {key: row for key, row in rows.items() if row not in old}
    follower = Counter([*untouched.values(), *net.present()])
    assert follower == Counter(leader.rows.values())


@given(beginnings, changes)
def test_a_key_is_present_or_gone_and_both_only_if_it_was_taken_by_another_row(
    rows: dict[bytes, Row], done: list[tuple[str, Tuple]]
) -> None:
    net = NetChanges((0,))
    leader = changed(rows, done, full=False)
    apply(net, leader)
    present: list[Key] = [net.key_of(image) for image in net.present()]
    gone = [net.key_of(image) for image in net.gone()]
    assert len(set(present)) == len(present)
    assert len(set(gone)) == len(gone)
    taken = {net.key_of(new) for _, new in net.renamed()}
    came = {(new[0],) for what, old, new in leader.said if new and (what == "insert" or old)}
    assert set(present) & set(gone) <= taken | came
    net.clear()
    assert not len(net)
    assert [*net.present(), *net.gone(), *net.before()] == []


@given(
    st.lists(st.sampled_from([(b"a", b"1"), (b"a", b"2"), (b"b", None)]), max_size=8),
    st.lists(
        st.tuples(
            st.sampled_from(["insert", "delete", "update", "update unchanged"]),
            st.integers(0, 20),
            st.sampled_from([(b"a", b"1"), (b"c", b"1"), (b"b", None)]),
        ),
        max_size=25,
    ),
)
def test_the_net_effect_on_a_multiset(
    rows: list[Tuple], done: list[tuple[str, int, Tuple]]
) -> None:
    table = list(rows)
    net = NetRows()
    for what, which, new in done:
        if what == "insert":
            table.append(new)
            net.insert(new)
            continue
        if not table:
            continue
        old = table.pop(which % len(table))
        if what == "delete":
            net.delete(old)
            continue
        is_kept = what == "update unchanged" and old[1] is not None
        table.append((new[0], old[1] if is_kept else new[1]))
        net.update(old, (new[0], UNCHANGED if is_kept else new[1]))
    counts = dict(net.rows())
    assert 0 not in counts.values()
    follower = Counter(rows)
    follower.update(counts)
    assert follower == Counter(table)


def test_an_update_of_a_multiset_needs_its_old_row() -> None:
    with pytest.raises(ValueError, match="without its old row"):
        NetRows().update(None, (b"x",))


def test_a_row_that_came_and_went_within_a_batch_is_nothing() -> None:
    net = NetChanges((0,))
    net.insert((b"1", b"x"))
    net.update(None, (b"1", b"y"))
    net.delete((b"1", None))
    assert [*net.present(), *net.gone(), *net.before()] == []


def test_a_row_that_was_read_back_keeps_what_the_stream_told() -> None:
    net = NetChanges((0,))
    net.update(None, (b"1", b"then", UNCHANGED))
    (image,) = net.present()
    net.complete(image, (b"1", b"later", None))
    assert list(net.present()) == [(b"1", b"then", None)]


def test_a_row_that_was_not_found_is_gone() -> None:
    net = NetChanges((0,))
    net.update(None, (b"1", b"then", UNCHANGED))
    net.complete((b"1", b"then", UNCHANGED), None)
    assert list(net.present()) == []
    assert list(net.gone()) == [(b"1", b"then", UNCHANGED)]


def test_a_null_is_never_taken_for_a_value_that_was_not_sent() -> None:
    assert fill((b"1", UNCHANGED, UNCHANGED), (b"0", None, b"v")) == (b"1", UNCHANGED, b"v")
    whole: Tuple = (b"1", None)
    assert fill(whole, (b"2", b"v")) is whole
    assert fill((UNCHANGED,), None) == (UNCHANGED,)


@settings(max_examples=400)
@given(beginnings, changes)
def test_rows_keep_what_does_not_flow_when_their_key_changes(
    rows: dict[bytes, Row], done: list[tuple[str, Tuple]]
) -> None:
    """A part of a split table: the follower has columns that this leader does not."""
    leader = Leader({key: (key, None, None) for key in rows}, full=False)
    own = {key: f"own {key!r}" for key in rows}  # follows the row, not the key
    where = {key: key for key in rows}  # where each old row is now
    for what, arguments in done:
        before = set(leader.rows)
        getattr(leader, what)(*([arguments] if what == "insert" else arguments))
        said = leader.said[-1:] if set(leader.rows) != before else []
        for kind, old, new in said:
            key = (old or new or ())[0]
            assert isinstance(key, bytes)
            origin = next((o for o, k in where.items() if k == key), None)
            if kind == "delete" and origin is not None:
                del where[origin]
            elif kind == "update" and origin is not None and new is not None:
                assert isinstance(new[0], bytes)
                where[origin] = new[0]
    net = NetChanges((0,))
    apply(net, leader)
    follower = dict(own)
    for image in net.gone():
        del follower[image[0]]  # type: ignore[arg-type]
    renamed = [(old[0], new[0]) for old, new in net.renamed()]
    moving = {new: follower.pop(old) for old, new in renamed}  # type: ignore[arg-type]
    assert not set(moving) & set(follower)
    follower |= moving  # type: ignore[arg-type]
    expected = {key: own[origin] for origin, key in where.items()}
    assert follower == expected
