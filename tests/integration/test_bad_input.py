"""What can be wrong before and while a split runs: said with place and remedy, and harmless."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from tests.pooler import pooler
from tests.small_shop import PASSWORD, SmallShop, small_shop
from toolkit import locks
from toolkit.servers import Server, running_server
from toolkit.servers_watchdog import wait_until

NO_ROWS = "SELECT"
FAILS_S_MAX = 60.0
ME = r"\S+@\S+:\d+"


@pytest.fixture
def shop(source_server: Server, target_server: Server, tmp_path: Path) -> Iterator[SmallShop]:
    with small_shop(source_server, target_server, tmp_path) as one:
        yield one


@pytest.fixture(scope="module")
def untouched(
    source_server: Server, target_server: Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SmallShop]:
    """A database that no test may change."""
    directory = tmp_path_factory.mktemp("untouched")
    with small_shop(source_server, target_server, directory, rows=NO_ROWS) as one:
        before = one.everything()
        yield one
        for place, found in one.everything().items():
            for kind, rows in found.items():
                assert rows == before[place][kind], f"{kind} of {place}"


@pytest.fixture(scope="module")
def other_server(pg_version: str) -> Iterator[Server]:
    """A server that asks for a password, and whose log is for physical copies only."""
    with running_server(
        version=pg_version, auth="scram", settings={"wal_level": "replica"}
    ) as server:
        yield server


@contextmanager
def plan_with(shop: SmallShop, old: str, new: str) -> Iterator[None]:
    """The plan, changed for a while."""
    text = shop.verbs.plan.read_text()
    assert old in text
    shop.verbs.plan.write_text(text.replace(old, new))
    try:
        yield
    finally:
        shop.verbs.plan.write_text(text)


@pytest.mark.parametrize(
    ("old", "new", "says", "hint"),
    [
        ("{owner: shop, ref", "{ownr: shop, ref", r"plan\.yaml:14:\d+: .*ownr", "'owner'"),
        ("  tickets: crm", "  ticket: crm", r"plan\.yaml:28:3: .*no table 'ticket'", "'tickets'"),
        ("  tickets: crm", "  tickets: crn", r"plan\.yaml:28:12: .*service 'crn'", "'crm'"),
        ("  tickets: crm\n", "", r"plan\.yaml:\d+:\d+: .*public.tickets has no owner", "drop"),
        ("_CRM_DSN}", "_CMR_DSN}", r"plan\.yaml:6:\d+: .*DBSPLIT_CMR_DSN is not set", "export"),
        (
            "${DBSPLIT_CRM_DSN}",
            f"postgresql://u:{PASSWORD}@h/d",
            r"plan\.yaml:6:\d+: .*holds a password",
            "${VARIABLE}",
        ),
        ("${DBSPLIT_SHOP_DSN}", "${DBSPLIT_SOURCE_DSN}", "the same database as source", "its own"),
        ("${DBSPLIT_SHOP_DSN}", "${DBSPLIT_CRM_DSN}", "the same database as services.crm", "own"),
        ("channel = 'web'", "channel = 'fax'", "'notes'|notes", "predicate"),
        ("services:", "services: [", r"plan\.yaml:\d+:\d+: .*isn't readable YAML", ""),
    ],
)
def test_a_wrong_plan(untouched: SmallShop, old: str, new: str, says: str, hint: str) -> None:
    if "fax" in new:
        untouched.ask("source", "INSERT INTO customers DEFAULT VALUES")
        untouched.ask("source", "INSERT INTO notes (customer_id, channel) VALUES (1, 'web')")
    with plan_with(untouched, old, new):
        # The check passes over a target whose DSN nobody has told, and says so.
        checked = untouched.verbs("plan", "check", code=0 if "_CMR_" in new else 3)
        refused = untouched.verbs("prepare", code=3)
        told = untouched.verbs.json("prepare", code=3)
    assert re.search(says, checked.out + checked.err), checked
    assert re.search(says, refused.err), refused
    assert hint in refused.err
    assert told["exit_code"] == 3
    assert re.search(says, told["error"])


def test_a_wrong_command_line(untouched: SmallShop, tmp_path: Path) -> None:
    verbs = untouched.verbs
    missing = replace(verbs, plan=tmp_path / "no.yaml")
    assert "does not exist" in missing("prepare", code=2).err
    directory = replace(verbs, plan=tmp_path)
    assert "is a directory" in directory("prepare", code=2).err
    assert "--servce" in verbs("cutover", "--servce", "crm", code=2).err
    assert "--jobs" in verbs("copy", code=2, DBSPLIT_COPY_JOBS="many").err
    assert "goes with --continuous" in verbs("validate", "--every", "5", code=2).err
    assert "goes with --snapshot" in verbs("validate", "--snapshot-limit", "5", code=2).err


@contextmanager
def _silence() -> Iterator[int]:
    """A port that takes connections and says nothing."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield listening.getsockname()[1]


def test_servers_that_do_not_let_us_in(untouched: SmallShop, other_server: Server) -> None:
    with socket.socket() as closed, _silence() as silent:
        closed.bind(("127.0.0.1", 0))  # and does not listen
        port = closed.getsockname()[1]
        cases = {
            f"postgresql://u:{PASSWORD}@127.0.0.1:{port}/shared": "Connection refused",
            f"postgresql://u:{PASSWORD}@127.0.0.1:{silent}/d?connect_timeout=2": "timeout",
            other_server.dsn(user="postgres", password=PASSWORD): "password authentication failed",
            other_server.dsn("nowhere"): '"nowhere" does not exist',
        }
        for dsn, says in cases.items():
            hint = "prepare PLAN --create" if "nowhere" in says else "check that the server runs"
            for place in ("SOURCE", "CRM"):
                one = untouched.verbs.refused(
                    "prepare",
                    code=4,
                    says=says,
                    hint=hint,
                    **{f"DBSPLIT_{place}_DSN": dsn},
                )
                assert str(other_server.password) not in one.err
                # The doctor looks at the others nevertheless.
                told = untouched.verbs.json("doctor", code=4, **{f"DBSPLIT_{place}_DSN": dsn})
                ill = [need for need in told["needs"] if not need["ok"]]
                assert [need["need"].rpartition(": ")[2] for need in ill] == ["answers"]
                assert says in ill[0]["observed"]
                assert hint in ill[0]["remedy"]
                assert str(other_server.password) not in str(told)
                assert any(need["need"].startswith("service shop: wal") for need in told["needs"])


def test_all_that_is_missing_is_told_a_line_each(
    untouched: SmallShop, other_server: Server
) -> None:
    nowhere = {f"DBSPLIT_{s}_DSN": other_server.dsn(f"no_{s}") for s in ("CRM", "SHOP")}
    refused = untouched.verbs("prepare", code=4, **nowhere)
    head, crm, shop, hint = refused.err.splitlines()
    assert head == "Error: 2 needs are not met"
    assert ("service crm: " in crm, "service shop: " in shop) == (True, True)
    assert hint.count("create the database") == 1
    doctor = untouched.verbs("doctor", code=4, **nowhere).out.splitlines()
    missing = [n for n, line in enumerate(doctor) if line.startswith("MISSING")]
    assert all("create the database" in doctor[n + 1] for n in missing)


def test_servers_that_are_not_as_they_must_be(
    untouched: SmallShop, other_server: Server, source_server: Server
) -> None:
    verbs = untouched.verbs
    one = verbs("prepare", code=4, DBSPLIT_SHOP_DSN=other_server.dsn())
    assert "service shop: wal_level: is replica" in one.err
    assert "ALTER SYSTEM SET wal_level = logical" in one.err
    checked = verbs.json("doctor", code=4, DBSPLIT_SHOP_DSN=other_server.dsn())
    assert [n["need"] for n in checked["needs"] if not n["ok"]] == ["service shop: wal_level"]
    for place, where in (("SOURCE", "source"), ("CRM", "service crm")):
        dsn = untouched.verbs.environment[f"DBSPLIT_{place}_DSN"]
        read_only = {f"DBSPLIT_{place}_DSN": f"{dsn}?options=-cdefault_transaction_read_only%3Don"}
        says = f"{where}: takes writes: default_transaction_read_only is on"
        verbs.refused("prepare", code=4, says=says, hint="RESET", **read_only)
        told = verbs.json("doctor", code=4, **read_only)
        assert (told["ok"], told["exit_code"]) == (False, 4)
        assert "read" in told["error"]
        assert told["hint"]
    same = untouched.source.replace("127.0.0.1", "localhost")
    verbs.refused(
        "prepare",
        code=4,
        says="service crm has a database of its own",
        hint="another database than that of the source",
        DBSPLIT_CRM_DSN=same,
    )
    twice = untouched.targets["shop"].replace("127.0.0.1", "localhost")
    verbs.refused(
        "prepare",
        code=4,
        says="service shop has a database of its own",
        hint="service crm",
        DBSPLIT_CRM_DSN=twice,
    )
    with psycopg.connect(untouched.targets["crm"]) as connection:
        connection.execute("CREATE TABLE theirs ()")
    try:
        verbs.refused("prepare", code=4, says="public.theirs", hint="give it an empty database")
    finally:
        with psycopg.connect(untouched.targets["crm"]) as connection:
            connection.execute("DROP TABLE theirs")
    assert untouched.value("source", "SELECT count(*) FROM pg_replication_slots") == 0


def test_a_pooler_in_between(untouched: SmallShop) -> None:
    dsn = untouched.verbs.environment["DBSPLIT_CRM_DSN"]
    with pooler(dsn) as pooled:
        told = untouched.verbs.json("doctor", code=4, DBSPLIT_CRM_DSN=pooled)
        ill = [need for need in told["needs"] if not need["ok"]]
        assert [need["need"] for need in ill] == ["service crm: no pooler in between"]
        untouched.verbs.refused(
            "prepare", code=4, says="no pooler", hint="the server itself", DBSPLIT_CRM_DSN=pooled
        )


def test_missing_privileges(untouched: SmallShop, source_server: Server) -> None:
    role = "small_shop_poor"
    dsn = untouched.source.replace("postgres@", f"{role}@")
    with psycopg.connect(source_server.dsn(), autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(role)))
        try:
            one = untouched.verbs("doctor", code=4, DBSPLIT_SOURCE_DSN=dsn)
            assert "lacks REPLICATION, CREATE on database" in one.out
            assert f"ALTER ROLE {role}" in one.out.replace('"', "")
            assert "and 15 more belong" in one.out
            assert 'GRANT "postgres" TO' in one.out
            untouched.verbs.refused(
                "prepare", code=4, says="lacks REPLICATION", hint="GRANT", DBSPLIT_SOURCE_DSN=dsn
            )
        finally:
            admin.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))


@pytest.mark.long
@pytest.mark.release
def test_verbs_before_their_turn(shop: SmallShop) -> None:
    verbs, before = shop.verbs, shop.everything()
    for verb in ("copy", "stream", "validate", "cutover", "rollback", "complete"):
        verbs.refused(verb, code=4, says="not prepared", hint="dbsplit prepare")
    assert verbs("abort", "--yes").err == ""
    assert shop.everything() == before
    verbs("prepare")
    prepared = shop.everything()
    for verb in ("stream", "validate", "validate --continuous", "validate --repair --yes"):
        verbs.refused(*verb.split(), code=4, says="not copied yet", hint="dbsplit copy")
    verbs.refused("cutover", "--yes", code=6, says="crm is prepared", hint="dbsplit copy")
    verbs.refused("rollback", "--yes", code=6, says="crm is prepared", hint="dbsplit copy")
    verbs.refused("complete", "--yes", code=6, says="crm is prepared", hint="dbsplit cutover")
    assert shop.everything() == prepared
    verbs("copy")
    copied = shop.everything()
    verbs.refused("cutover", "--yes", code=4, says="no stream process", hint="dbsplit stream")
    verbs.refused("rollback", "--yes", code=6, says="no service has been moved")
    verbs.refused("complete", "--yes", code=6, says="crm is following", hint="dbsplit cutover")
    for verb in ("cutover", "rollback", "validate"):
        one = verbs(verb, "--service", "shopp", code=2)
        assert "no service 'shopp'" in one.err
        assert "'shop'" in one.err
    verbs.refused("validate", "--table", "ticket", code=2, says="no route", hint="'tickets'")
    with plan_with(shop, "  tickets: crm", "  tickets: shop"):
        for verb in ("prepare", "copy", "stream", "validate", "cutover", "rollback", "complete",
                     "abort"):  # fmt: skip
            verbs.refused(verb, code=3, says="has changed since split small", hint="restore")
        assert verbs.json("status")["phase"] == "following"
    assert shop.everything() == copied
    read_only = f"{shop.source}?options=-cdefault_transaction_read_only%3Don"
    # It is what applications are to do, and `prepare` has seen that we may write.
    for verb in ("validate", "throttle --pause", "throttle --resume", "stream --until-caught-up"):
        verbs(*verb.split(), DBSPLIT_SOURCE_DSN=read_only)
    with plan_with(shop, "foreign_keys:", "limits: {write_pause_s_max: 4}\nforeign_keys:"):
        assert verbs.json("stream", "--until-caught-up")["outcome"] == "caught_up"


@pytest.mark.long
def test_two_at_once_and_a_table_that_somebody_locks(shop: SmallShop) -> None:
    shop.follow()
    for role, calls in {
        locks.SETUP: ("prepare", "copy", "complete", "abort"),
        locks.CUTOVER: ("cutover", "rollback", "abort"),
    }.items():
        with locks.sole_runner(shop.source, "small", role):
            for verb in calls:
                one = shop.verbs.refused(verb, code=4, says="is running already", hint="one at a")
                assert re.search(rf"by {ME}, connected since \d{{4}}-", one.err), one.err
    with psycopg.connect(shop.dsn("crm")) as other:
        other.execute("LOCK TABLE tickets")  # as VACUUM FULL does, for as long as it takes
        with locks.sole_runner(shop.source, "small", locks.SETUP):  # or as a copy does
            shop.verbs.refused("copy", code=4, says="`copy`, `complete` or `abort` of split small")
        # A lock of less than a second is not told.
        assert wait_until(lambda: bool(shop.verbs.json("status")["locked"]), timeout_s=FAILS_S_MAX)
        told = shop.verbs.json("status")
        assert told["services"]["crm"]["copied"] == told["services"]["crm"]["tables"]
        (gate,) = told["gates"]
        assert (gate["gate"], gate["ok"]) == ("targets", False)
        assert "table public.tickets is locked by process" in gate["observed"]
        assert "end it" in gate["remedy"]
    with shop.verbs.stream(shop.source) as first:
        one = shop.verbs.refused("stream", code=4, says="`dbsplit stream` of split small")
        assert f":{first.pid}, connected since" in one.err


Change = Callable[[SmallShop], object]


@pytest.mark.long
@pytest.mark.release
def test_tables_that_change_while_they_are_followed(shop: SmallShop) -> None:
    shop.follow()
    with shop.verbs.stream(shop.source, code=7) as stream:
        shop.ask("source", "ALTER TABLE tickets ADD COLUMN urgent boolean")
        assert stream.wait(FAILS_S_MAX) == 7
    assert "urgent" in shop.verbs.said[-1]
    assert "plan refresh" in shop.verbs.said[-1]
    shop.verbs.refused(
        "stream", code=7, says="tickets has a new column urgent", hint="plan refresh"
    )
    for verb in ("prepare", "copy", "validate", "cutover"):
        shop.verbs.refused(
            verb, code=3, says="tickets has a new column urgent", hint="plan refresh"
        )
    assert shop.verbs.json("status")["phase"] == "following"
    shop.ask("source", "ALTER TABLE tickets DROP COLUMN urgent")
    shop.ask("source", "INSERT INTO tickets (customer_id, subject) VALUES (1, 'after')")
    shop.verbs("stream", "--until-caught-up")
    assert shop.value("crm", "SELECT count(*) FROM tickets WHERE subject = 'after'") == 1
    shop.verbs("validate")
    with shop.verbs.stream(shop.source, code=7) as stream:
        shop.ask("source", "ALTER TABLE tickets DROP COLUMN subject")
        shop.ask("source", "INSERT INTO tickets (customer_id) VALUES (2)")
        assert stream.wait(FAILS_S_MAX) == 7
    assert shop.value("crm", "SELECT count(*) FROM tickets WHERE customer_id = 2") == 1
    shop.verbs.refused(
        "stream", code=7, says="tickets has lost column subject", hint="plan refresh"
    )
    shop.ask("source", "DROP TABLE visits")
    before = shop.everything()
    shop.verbs("abort", "--yes")
    after = shop.everything()
    assert [row for row in after["source"]["relations"] if "dbsplit" in str(row)] == []
    for service in shop.targets:
        assert after[service]["relations"] == [], "what was made is removed, whatever changed since"
        assert before[service]["relations"] != []


def _drop_slot(shop: SmallShop) -> None:
    with psycopg.connect(shop.source, autocommit=True) as admin:

        def is_dropped() -> bool:
            admin.execute(
                "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots"
                " WHERE slot_name = 'dbsplit_small' AND active"
            )
            try:
                admin.execute("SELECT pg_drop_replication_slot('dbsplit_small')")
            except psycopg.errors.ObjectInUse:
                return False
            return True

        assert wait_until(is_dropped, timeout_s=FAILS_S_MAX)


def _recreate_slot(shop: SmallShop) -> None:
    _drop_slot(shop)
    shop.ask("source", "UPDATE tickets SET subject = 'in the gap'")
    shop.ask("source", "SELECT pg_create_logical_replication_slot('dbsplit_small', 'pgoutput')")


@pytest.mark.long
@pytest.mark.release
def test_a_slot_that_was_lost_or_made_anew(shop: SmallShop) -> None:
    shop.follow()
    # Before anything was streamed, only the copy tells what there is already.
    _recreate_slot(shop)
    shop.verbs.refused("stream", code=7, says="dbsplit_small", hint="dbsplit abort")
    shop.verbs("abort", "--yes")
    shop.follow()
    with shop.verbs.stream(shop.source, code=7) as stream:
        _recreate_slot(shop)
        shop.ask("source", "UPDATE tickets SET subject = 'after'")
        assert stream.wait(FAILS_S_MAX) == 7
    assert shop.value("crm", "SELECT count(*) FROM tickets WHERE subject = 'after'") == 0
    shop.verbs.refused("stream", code=7, says="recreated", hint="dbsplit abort")
    _drop_slot(shop)
    shop.verbs.refused("stream", code=7, says="does not exist", hint="dbsplit abort")
    shop.verbs.refused("cutover", "--yes", code=4, says="no stream")
    shop.verbs("abort", "--yes")
