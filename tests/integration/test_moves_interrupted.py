"""Moves that somebody ends, or that lose a server or a disk: where they say the split is."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Iterator

import psycopg
import pytest

from tests.small_shop import SmallShop, small_shop
from toolkit.servers import Server
from toolkit.servers_watchdog import wait_until

SWITCH = """\
import os
from pathlib import Path

import psycopg

if os.environ["DBSPLIT_STEP"] == "switch":
    if Path("cut").exists():
        Path("cut").unlink()
        with psycopg.connect(os.environ["DBSPLIT_CRM_DSN"], autocommit=True) as target:
            target.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE pid <> pg_backend_pid() AND application_name LIKE 'dbsplit%'"
            )
    if Path("full").exists():
        Path("proofs").rmdir()
        Path("proofs").touch()
"""


@pytest.fixture(scope="module")
def shop(
    source_server: Server, target_server: Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SmallShop]:
    directory = tmp_path_factory.mktemp("moves")
    (directory / "switch.py").write_text(SWITCH)
    command = json.dumps([sys.executable, str(directory / "switch.py")])

    def edit(plan: str) -> str:
        return f"{plan}switch: {{kind: command, command: {command}}}\n"

    with small_shop(source_server, target_server, directory, edit=edit) as one:
        one.follow()
        yield one


@pytest.mark.long
def test_without_a_slot_for_the_way_back_nothing_is_paused(shop: SmallShop) -> None:
    free = (
        "SELECT current_setting('max_replication_slots')::int - count(*)::int"
        " FROM pg_replication_slots"
    )
    with shop.verbs.stream(shop.source):
        try:
            for number in range(shop.value("crm", free)):
                shop.ask(
                    "crm",
                    "SELECT pg_create_logical_replication_slot(%s::text, 'pgoutput')::text",
                    f"somebody_{number}",
                )
            told = shop.verbs.json("cutover", "--yes", code=4)
        finally:
            shop.ask(
                "crm",
                "SELECT pg_drop_replication_slot(slot_name)::text FROM pg_replication_slots"
                " WHERE slot_name LIKE 'somebody%%'",
            )
    assert "all replication slots of the server of service crm are in use" in told["error"]
    assert "max_replication_slots" in told["hint"]
    assert told["write_pause_ms"] == 0


@pytest.mark.long
def test_a_target_that_takes_no_writes_is_told_before_anything_is_done(shop: SmallShop) -> None:
    dsn = f"{shop.dsn('crm')}?options=-cdefault_transaction_read_only%3Don"
    with shop.verbs.stream(shop.source):
        told = shop.verbs.json("cutover", "--yes", code=4, DBSPLIT_CRM_DSN=dsn)
    assert told["error"].startswith("service crm: takes writes: ")
    assert "RESET" in told["hint"]
    assert told["write_pause_ms"] == 0


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_move_that_is_interrupted_within_the_pause_is_given_up(
    shop: SmallShop, signum: signal.Signals
) -> None:
    with shop.verbs.stream(shop.source), psycopg.connect(shop.source) as writer:
        writer.execute("UPDATE orders SET state = 'sent' WHERE id = 1")
        words = ["cutover", str(shop.verbs.plan), "--json", "--yes"]
        move = shop.verbs._start(words, shop.verbs._environment({}))

        def refuses() -> bool:
            try:
                shop.ask("source", "UPDATE billing.invoices SET paid = paid WHERE id = 1")
            except psycopg.errors.ReadOnlySqlTransaction:
                return True
            return False

        assert wait_until(refuses, timeout_s=60), move.said()
        move.send_signal(signum)
        began = time.monotonic()
        assert move.wait() == 130
        assert time.monotonic() - began < 3, "it did not wait for the pause to be over"
        out, err = move.all_said()
        told = json.loads(out.splitlines()[-1])
        assert told["outcome"] == "aborted"
        assert told["write_pause_ms"] > 0
        assert told["exit_code"] == 130
        assert "the source takes writes again" in err
        writer.rollback()
        shop.ask("source", "UPDATE billing.invoices SET paid = paid WHERE id = 1")
        shop.ask("source", "UPDATE orders SET state = state WHERE id = 1")
        assert shop.verbs.json("status")["phase"] == "following"


@pytest.mark.long
def test_a_move_whose_session_is_ended_within_the_pause_is_given_up_with_another(
    shop: SmallShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its writers need not wait until somebody else finds the fences."""

    def end_session(at: str) -> None:
        if at == "cutover.fenced":
            ended = shop.ask(
                "source",
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                " WHERE application_name LIKE 'dbsplit cutover of %%'",
            )
            assert ended == [(True,)]

    with shop.verbs.stream(shop.source):
        monkeypatch.setattr("toolkit.write_pause.crash_point", end_session)
        told = shop.verbs.json("cutover", "--yes", code=8)
        assert "the source takes writes again" in told["error"]
        shop.ask("source", "UPDATE orders SET state = state WHERE id = 1")
        assert shop.verbs.json("status")["phase"] == "following"


@pytest.mark.long
def test_a_move_that_is_interrupted_while_it_is_decided_is_made(
    shop: SmallShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(at: str) -> None:
        if at == "cutover.owns":  # committed, and nobody was told
            raise KeyboardInterrupt

    with shop.verbs.stream(shop.source):
        with monkeypatch.context() as patch:
            patch.setattr("toolkit.write_pause.crash_point", interrupt)
            moved = shop.verbs.json("cutover", "--yes", "--service", "billing")
        assert (moved["outcome"], moved["services"]) == ("moved", ["billing"])
        assert moved["write_pause_ms"] > 0
        shop.ask("billing", "UPDATE billing.invoices SET paid = paid WHERE id = 1")
        back = shop.verbs.json("rollback", "--yes", "--service", "billing")
        assert back["outcome"] == "returned"


def test_after_the_decision_a_move_is_halted_or_made_and_never_given_up(shop: SmallShop) -> None:
    verbs, directory = shop.verbs, shop.verbs.plan.parent
    with verbs.stream(shop.source):
        (directory / "cut").touch()
        halted = verbs.json("cutover", "--yes", "--service", "crm", code=9)
        assert halted["outcome"] == "halted"
        assert halted["services"] == ["crm"]
        assert halted["write_pause_ms"] > 0
        assert "the right to write has moved, and the new side is open" in halted["error"]
        assert "same command again" in halted["hint"]
        shop.ask("crm", "UPDATE tickets SET subject = 'here' WHERE id = 1")
        assert verbs.json("cutover", "--yes", "--service", "crm")["outcome"] == "moved"
        (directory / "full").touch()
        made = verbs.json("cutover", "--yes", "--certificates", "proofs")
        assert (made["outcome"], made["services"]) == ("moved", ["shop", "billing"])
        assert made["certificate"] is None
        document = shop.value(
            "source",
            "SELECT details -> 'document' ->> 'outcome' FROM dbsplit.journal"
            " WHERE step = 'certificate' ORDER BY id DESC LIMIT 1",
        )
        assert document == "moved"
        refused = verbs.json("rollback", "--yes", "--certificates", "proofs", code=2)
        assert "proofs" in refused["error"]
        of_crm = verbs.json("cutover", "--yes", "--service", "crm")
        assert of_crm["services"] == ["crm"], "not the last attempt, which was of others"
        looked = verbs.json("cutover", "--dry-run")
        assert looked["outcome"] == "moved", "nothing is left to move"
