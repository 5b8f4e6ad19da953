"""What a history permits, by every outcome that a transaction can have."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from plans.crm_shop.workload.expectation import (
    Expectation,
    Kind,
    Observed,
    judge_counts,
    judge_rows,
    judge_whole,
)
from plans.crm_shop.workload.history import (
    CountEffect,
    HistoryFile,
    Outcome,
    RowEffect,
    Transaction,
    read_histories,
)
from plans.crm_shop.workload.routing import Routing, RoutingUnreadable, write_routing
from plans.crm_shop.workload.session import is_definite

ACK, VOID, UNKNOWN = Outcome.ACKNOWLEDGED, Outcome.VOID, Outcome.UNKNOWN


def rows_found(seen: int, *changes: tuple[int, Outcome]) -> list[tuple[Kind, int]]:
    expectation = Expectation()
    for number, (change, outcome) in enumerate(changes):
        effect = RowEffect("t", "k", change)
        transaction = Transaction(str(number), "op", number, rows=[effect], outcome=outcome)
        expectation.add(transaction)
    observed: Observed = {"k": (seen, None)} if seen else {}
    return [(f.kind, f.number) for f in judge_rows("t", expectation.rows["t"], observed)]


def counts_found(seen: int, *reached: tuple[int, Outcome]) -> list[tuple[Kind, int]]:
    expectation = Expectation()
    for number, (value, outcome) in enumerate(reached):
        effect = CountEffect("t", "k", value, f"at {value}")
        transaction = Transaction(str(number), "op", number, counts=[effect], outcome=outcome)
        expectation.add(transaction)
    observed: Observed = {"k": (seen, f"at {seen}")} if seen >= 0 else {}
    return [(f.kind, f.number) for f in judge_counts("t", expectation.counts["t"], observed)]


@pytest.mark.parametrize(
    ("changes", "right", "wrong"),
    [
        ([(1, ACK)], [1], {0: Kind.MISSING, 2: Kind.DOUBLED}),
        ([(1, VOID)], [0], {1: Kind.PHANTOM}),
        ([(0, ACK)], [0], {1: Kind.PHANTOM}),
        ([(1, UNKNOWN)], [0, 1], {2: Kind.DOUBLED}),
        ([(1, ACK), (-1, ACK)], [0], {1: Kind.PHANTOM}),
        ([(1, ACK), (-1, UNKNOWN)], [0, 1], {2: Kind.DOUBLED}),
        ([(1, ACK), (-1, VOID)], [1], {0: Kind.MISSING, 2: Kind.DOUBLED}),
        ([(5000, ACK)], [5000], {4999: Kind.MISSING, 5001: Kind.DOUBLED, 0: Kind.MISSING}),
        ([(5000, UNKNOWN)], [0, 5000], {4999: Kind.MISSING, 1: Kind.MISSING}),
        ([(1, UNKNOWN), (-1, UNKNOWN)], [0, 1], {2: Kind.DOUBLED}),
    ],
)
def test_rows(changes: list[tuple[int, Outcome]], right: list[int], wrong: dict[int, Kind]) -> None:
    for number in right:
        assert rows_found(number, *changes) == []
    for number, kind in wrong.items():
        assert rows_found(number, *changes) == [(kind, 1)]


def test_a_counter_that_says_all_is_right() -> None:
    assert counts_found(7, (5, ACK), (6, ACK), (7, ACK)) == []


@pytest.mark.parametrize("seen", [6, 7])
def test_an_increment_of_unknown_outcome_may_be_there_or_not(seen: int) -> None:
    assert counts_found(seen, (5, ACK), (6, ACK), (7, UNKNOWN)) == []


def test_an_increment_that_failed_is_no_increment() -> None:
    assert counts_found(5, (5, ACK), (6, VOID)) == []
    assert counts_found(6, (5, ACK), (6, VOID), (6, ACK)) == []


def test_each_lost_increment_counts() -> None:
    assert counts_found(5, (5, ACK), (6, ACK), (7, ACK)) == [(Kind.MISSING, 2)]


def test_each_doubled_increment_counts() -> None:
    assert counts_found(9, (5, ACK), (6, ACK), (7, ACK)) == [(Kind.DOUBLED, 2)]


def test_a_lost_and_a_doubled_increment_do_not_make_up_for_each_other() -> None:
    found = counts_found(7, (5, ACK), (6, ACK), (6, ACK))
    assert found == [(Kind.MISSING, 1), (Kind.DOUBLED, 1)]


def test_an_increment_that_the_next_did_not_see_was_lost() -> None:
    assert counts_found(6, (5, ACK), (6, ACK), (6, ACK)) == [(Kind.MISSING, 1)]


def test_a_row_that_fell_back_behind_its_first_write_has_lost_it() -> None:
    # The follower had not applied 5 when it was opened.
    assert counts_found(4, (5, ACK), (4, ACK)) == [(Kind.MISSING, 2)]


def test_a_row_that_is_gone_has_lost_all_increments() -> None:
    assert counts_found(-1, (5, ACK), (6, ACK)) == [(Kind.MISSING, 2)]


def test_a_transaction_of_unknown_outcome_is_there_as_a_whole_or_not_at_all() -> None:
    effects = [RowEffect("order", "1", 1), RowEffect("item", "1/1", 1)]
    expectation = Expectation()
    expectation.add(Transaction("x", "place order", 1.0, rows=effects))

    def torn(seen: dict[str, Observed]) -> list[Kind]:
        return [f.kind for f in judge_whole(expectation.unknown, expectation.rows, seen)]

    assert torn({}) == []
    assert torn({"order": {"1": (1, None)}, "item": {"1/1": (1, None)}}) == []
    assert torn({"order": {"1": (1, None)}}) == [Kind.TORN]


def test_a_history_is_read_as_it_was_written(tmp_path: Path) -> None:
    effects = [RowEffect("t", "ä\n", 1, None), RowEffect("t", "2", -1, '"')]
    counts = [CountEffect("c", "1", 3, "x")]
    history = HistoryFile(tmp_path, "w")
    for number, outcome in enumerate((ACK, UNKNOWN)):
        transaction = Transaction(str(number), "op", 1.5, rows=effects, counts=counts)
        history.begin(transaction)
        history.settle(transaction, outcome, paused_ms=12.34)
    history.void(Transaction("2", "op", 1.5, rows=effects))
    history.begin(Transaction("3", "op", 1.5, rows=effects))
    history.close()
    read = list(read_histories(tmp_path))
    assert [t.outcome for t in read] == [ACK, UNKNOWN, VOID, UNKNOWN]
    assert all(t.rows == effects for t in read)
    assert read[0].counts == counts
    assert read[0].paused_ms == 12.3


@pytest.mark.parametrize("cut", [1, 40])
def test_a_line_that_was_cut_off_is_no_acknowledgement(tmp_path: Path, cut: int) -> None:
    history = HistoryFile(tmp_path, "w")
    transaction = Transaction("1", "op", 1.5, rows=[RowEffect("t", "k", 1)])
    history.begin(transaction)
    history.settle(transaction, ACK)
    history.close()
    history.path.write_bytes(history.path.read_bytes()[:-cut])
    assert [t.outcome for t in read_histories(tmp_path)] == [UNKNOWN]


def test_a_history_is_never_written_over(tmp_path: Path) -> None:
    HistoryFile(tmp_path, "w").close()
    with pytest.raises(FileExistsError):
        HistoryFile(tmp_path, "w")


def test_routing_is_read_again_when_it_was_replaced(tmp_path: Path) -> None:
    path = tmp_path / "routing.json"
    routing = Routing(path)
    with pytest.raises(RoutingUnreadable, match="cannot read"):
        routing.place("shop_api", "shop")
    write_routing(path, {"shop": "one"})
    assert routing.place("shop_api", "shop") == "one"
    with pytest.raises(RoutingUnreadable, match="no place for crm"):
        routing.place("crm_api", "crm")
    write_routing(path, {"shop": "two", "mes_api": "three"})
    assert routing.place("shop_api", "shop") == "two"
    assert routing.place("mes_api", "shop") == "three"
    assert [file.name for file in tmp_path.iterdir()] == ["routing.json"]


@pytest.mark.parametrize(
    ("error", "definite"),
    [
        (psycopg.errors.SerializationFailure, True),
        (psycopg.errors.ForeignKeyViolation, True),  # of a deferred constraint
        (psycopg.errors.RaiseException, True),  # by a deferred trigger
        (psycopg.errors.StatementCompletionUnknown, False),
        (psycopg.errors.AdminShutdown, False),
        (psycopg.errors.ProtocolViolation, False),  # pgbouncer's, when it loses the server
        (psycopg.OperationalError, False),
    ],
)
def test_what_an_error_during_commit_says_about_the_outcome(
    *, error: type[psycopg.Error], definite: bool
) -> None:
    assert is_definite(error()) is definite
