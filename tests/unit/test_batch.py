"""What an applier gathers of a table, netted side by side first and then one by one."""

from __future__ import annotations

from dataclasses import replace
from struct import pack

import pytest
from psycopg import sql

from cdc.batch import PARTS_MAX, Destination, TableBatch, destinations
from cdc.compaction import NetChanges
from cdc.flow import Flow, forward
from cdc.messages import DELETE, INSERT, UPDATE, Messages
from cdc.rows import NULL, UNCHANGED, Row, Value, value
from plans.catalog import Column, Table, TableName
from plans.routes import Kind, Route, RouteColumn

NAMES = ("id", "n", "body")
TABLE = Table(
    name=TableName("public", "t"),
    kind="r",
    columns=tuple(
        Column(name=name, type="integer", is_portable=True, toastable=name == "body")
        for name in NAMES
    ),
    primary_key=("id",),
)


def flow() -> Flow:
    columns = tuple(
        RouteColumn(
            name, sql.Identifier(name).as_string(), frozenset({name}), "integer", name, binary=True
        )
        for name in NAMES
    )
    return forward(
        Route(
            id="a:public.t",
            service="a",
            owner="a",
            kind=Kind.WHOLE,
            source=TABLE,
            target=TABLE.name,
            columns=columns,
            key=("id",),
        ),
        TABLE,
    )


@pytest.fixture
def to() -> Destination:
    (one,) = destinations([flow()], {}, {}, binary=True)
    assert one.is_direct
    return one


def number(of: int) -> Value:
    return value(pack("!i", of))


def row(*some: Value) -> Row:
    return b"".join(some)


def taken(to: Destination, *some: tuple[int, Value, Value, Value]) -> TableBatch:
    batch = TableBatch(to)
    take_in(batch, *some)
    return batch


def take_in(batch: TableBatch, *some: tuple[int, Value, Value, Value]) -> None:
    kinds = {NULL: b"n", UNCHANGED: b"u"}
    texts = [
        bytes([kind]) + pack("!I", 5) + (b"K" if kind == DELETE else b"N") + pack("!h", 3)
        + b"".join(kinds.get(one) or b"b" + one for one in sent)
        for kind, *sent in some
    ]  # fmt: skip
    batch.messages.append(Messages.of(texts))
    batch.take_in()


def is_netted(batch: TableBatch) -> bool:
    """Whether its changes were netted side by side."""
    return batch.net is not None


def present(batch: TableBatch) -> dict[bytes, Row]:
    changes = batch.changes
    assert isinstance(changes, NetChanges)
    return dict(changes.present())


def test_what_comes_later_is_netted_with_what_came_before(to: Destination) -> None:
    """As of a transaction that could not be carried over in parts."""
    one, two = number(1), number(2)
    batch = taken(to, (INSERT, one, one, value(b"x")), (UPDATE, two, one, UNCHANGED))
    assert is_netted(batch)
    take_in(batch, (UPDATE, one, two, UNCHANGED), (UPDATE, two, two, value(b"y")))
    take_in(batch, (UPDATE, two, one, UNCHANGED))
    assert not is_netted(batch)
    assert present(batch) == {one: row(one, two, value(b"x")), two: row(two, one, value(b"y"))}
    assert not list(batch.gone())


def test_what_was_emptied_is_forgotten(to: Destination) -> None:
    one = number(1)
    batch = taken(to, (UPDATE, one, one, UNCHANGED), (DELETE, number(2), NULL, NULL))
    batch.empty()
    assert not is_netted(batch)
    assert (list(batch.gone()), present(batch)) == ([], {})
    assert batch.touched
    take_in(batch, (INSERT, one, one, NULL))
    assert is_netted(batch)
    batch.empty()
    assert not is_netted(batch)
    assert present(batch) == {}


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("one_by_one", [False, True])
def test_followers_of_several_moments_may_have_rows_that_were_there_only_in_between(
    to: Destination, *, several: bool, one_by_one: bool
) -> None:
    to = replace(to, of_several_moments=several)
    one, two = number(1), number(2)
    batch = taken(
        to, (INSERT, one, one, NULL), (DELETE, one, NULL, NULL), (DELETE, two, NULL, NULL)
    )
    assert is_netted(batch)
    if one_by_one:
        assert present(batch) == {}
    gone = {row(two, NULL, NULL)} | ({row(one, NULL, NULL)} if several else set())
    assert set(batch.gone()) == gone


def test_so_many_sets_of_missing_values_have_numbers(to: Destination) -> None:
    assert to.number([(n,) for n in range(PARTS_MAX)])
    assert to.number([(3,), (5,)])
    assert sorted(to.parts.values()) == list(range(PARTS_MAX))
    assert not to.number([(PARTS_MAX,)])
    assert to.number([(0,)])
