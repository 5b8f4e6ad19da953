"""The bundled workload, and that its check finds each kind of fault that is planted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import LiteralString

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from plans.crm_shop import generate
from plans.crm_shop.workload import subjects, switch
from plans.crm_shop.workload.check import HistoryReport, check_history
from plans.crm_shop.workload.crew import Crew
from plans.crm_shop.workload.history import Outcome, read_histories
from plans.crm_shop.workload.process import Workload, WorkloadFailed
from plans.crm_shop.workload.routing import write_routing
from plans.crm_shop.workload.service import WRITERS
from plans.crm_shop.workload.shop_operations import import_views
from plans.crm_shop.workload.subject import RowSubject
from plans.crm_shop.workload.writer import Operation, Writer
from tests.conftest import fresh_database
from toolkit.servers import Server
from toolkit.servers_watchdog import wait_until

SCALE = 0.005
RUN_S = 5.0


@dataclass(frozen=True)
class Bundled:
    dsn: str
    routing: Path
    history: Path

    def check(self) -> HistoryReport:
        return check_history(self.history, {"crm": self.dsn, "shop": self.dsn})

    def plant(self, statement: LiteralString, *values: object) -> None:
        """Change one row behind the writers' backs, past foreign keys and triggers."""
        with psycopg.connect(self.dsn) as connection:
            connection.execute("SET session_replication_role = replica")
            assert connection.execute(statement, values or None).rowcount == 1

    def key(self, subject: RowSubject, outcome: Outcome, change: int) -> str:
        """The key of a row that a transaction with this outcome changed so."""
        return next(
            effect.key
            for transaction in read_histories(self.history)
            for effect in transaction.rows
            if (effect.subject, effect.change) == (subject.name, change)
            and transaction.outcome is outcome
        )


def bundle(dsn: str, directory: Path) -> Bundled:
    bundled = Bundled(dsn, directory / "routing.json", directory / "history")
    write_routing(bundled.routing, {"crm": dsn, "shop": dsn})
    return bundled


def import_batches(bundled: Bundled) -> None:
    """What the workload does too rarely for a test."""
    writer = Writer(
        "importer",
        [Operation("import views", 1, import_views, bulk=True)],
        place=lambda: bundled.dsn,
        history_dir=bundled.history,
        interval_s=0.2,
        seed="batches",
    )
    with Crew([writer]):
        assert wait_until(lambda: writer.tally.acknowledged >= 2, timeout_s=20)


@contextmanager
def copied(server: Server, template: str) -> Iterator[str]:
    """A copy of a database to which nobody is connected."""
    original = str(conninfo_to_dict(template)["dbname"])
    name = f"test_{uuid.uuid4().hex[:12]}"
    create = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
    drop = sql.SQL("DROP DATABASE {} WITH (FORCE)")
    with psycopg.connect(server.dsn(), autocommit=True) as admin:
        admin.execute(create.format(sql.Identifier(name), sql.Identifier(original)))
        yield server.dsn(name)
        admin.execute(drop.format(sql.Identifier(name)))


@pytest.fixture(scope="module")
def loaded(source_server: Server) -> Iterator[str]:
    """A database in which nobody has been."""
    with fresh_database(source_server) as dsn:
        generate.create(dsn)
        generate.load(dsn, scale=SCALE)
        yield dsn


@pytest.fixture
def bundled(source_server: Server, loaded: str, tmp_path: Path) -> Iterator[Bundled]:
    """A copy of it."""
    with copied(source_server, loaded) as dsn:
        yield bundle(dsn, tmp_path)


@pytest.fixture(scope="module")
def written(
    source_server: Server, loaded: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Bundled]:
    """A copy in which writers have been."""
    with copied(source_server, loaded) as dsn:
        bundled = bundle(dsn, tmp_path_factory.mktemp("workload"))
        with Workload(bundled.routing, bundled.history) as workload:
            time.sleep(RUN_S)
            alive = workload.stats().alive
        stats = workload.stats()
        assert alive == WRITERS
        assert stats.crashed == stats.given_up == stats.indeterminate == 0, stats
        assert stats.acknowledged == bundled.check().acknowledged
        import_batches(bundled)
        yield bundled


@pytest.fixture
def copy(source_server: Server, written: Bundled) -> Iterator[Bundled]:
    """A copy of that, to be broken."""
    with copied(source_server, written.dsn) as dsn:
        yield replace(written, dsn=dsn)


def test_all_that_was_acknowledged_is_there_once(written: Bundled) -> None:
    report = written.check()
    assert report.whole, report
    assert report.acknowledged > 300
    assert report.void > 0


LOST_ROWS: list[LiteralString] = [
    "DELETE FROM payments WHERE id = (SELECT id FROM payments"
    " WHERE provider_reply->>'reference' LIKE 'shop_api-%' LIMIT 1)",
    "DELETE FROM interactions WHERE id = (SELECT min(id) FROM interactions"
    " WHERE subject LIKE 'crm_api-%')",
    "DELETE FROM interactions WHERE id = (SELECT max(id) FROM interactions"
    " WHERE subject LIKE 'shop_api-%')",
    "DELETE FROM audit_log WHERE subject = (SELECT max(subject) FROM audit_log"
    " WHERE subject LIKE 'crm_api-%')",
    "DELETE FROM job_steps WHERE name = (SELECT max(name) FROM job_steps"
    " WHERE name LIKE 'mes_api-%')",
    "DELETE FROM customer_tags WHERE tag = (SELECT max(tag) FROM customer_tags"
    " WHERE tag LIKE 'crm_api-%')",
    "DELETE FROM materials WHERE code = (SELECT max(code) FROM materials"
    " WHERE code LIKE 'mes_api-%')",
]


@pytest.mark.parametrize("statement", LOST_ROWS, ids=lambda text: text.split()[2])
def test_a_lost_row_is_missing(copy: Bundled, statement: LiteralString) -> None:
    copy.plant(statement)
    report = copy.check()
    assert (report.missing, report.faults) == (1, 1), report


DOUBLED_INCREMENTS: list[LiteralString] = [
    "UPDATE invoice_series SET last_number = last_number + 1 WHERE series = 'W1'",
    "UPDATE customers SET notes = '#' || substring(notes from '^#([0-9]+) ')::int + 1 || ' '"
    " WHERE id = (SELECT min(id) FROM customers WHERE notes ~ '^#[0-9]+ ')",
    "UPDATE orders SET comment = '#' || substring(comment from '^#([0-9]+) ')::int + 1 || ' '"
    " WHERE id = (SELECT min(id) FROM orders WHERE comment ~ '^#[0-9]+ ')",
]


@pytest.mark.parametrize("statement", DOUBLED_INCREMENTS, ids=lambda text: text.split()[1])
def test_a_doubled_increment_is_doubled(copy: Bundled, statement: LiteralString) -> None:
    copy.plant(statement)
    report = copy.check()
    assert (report.doubled, report.faults) == (1, 1), report


def test_a_lost_increment_is_missing(copy: Bundled) -> None:
    copy.plant("UPDATE invoice_series SET last_number = last_number - 1 WHERE series = 'W2'")
    report = copy.check()
    assert (report.missing, report.faults) == (1, 1), report


def test_a_doubled_row_of_a_table_without_a_key_is_doubled(copy: Bundled) -> None:
    copy.plant(
        "INSERT INTO audit_log SELECT * FROM audit_log WHERE subject LIKE 'crm_api-%' LIMIT 1"
    )
    report = copy.check()
    assert (report.doubled, report.faults) == (1, 1), report


def test_a_deleted_cart_that_is_back_is_a_phantom(copy: Bundled) -> None:
    cart = copy.key(subjects.CARTS, Outcome.ACKNOWLEDGED, -1)
    copy.plant("INSERT INTO carts (id, customer_id) VALUES (%s, 1)", cart)
    report = copy.check()
    assert (report.phantom, report.faults) == (1, 1), report


def test_a_row_that_was_rolled_back_is_a_phantom(copy: Bundled) -> None:
    order = copy.key(subjects.ORDERS, Outcome.VOID, 1)
    copy.plant("INSERT INTO orders (id, customer_id) VALUES (%s, 1)", order)
    report = copy.check()
    assert (report.phantom, report.faults) == (1, 1), report


def test_a_row_that_was_rolled_back_to_a_savepoint_is_a_phantom(copy: Bundled) -> None:
    order = copy.key(subjects.ORDERS, Outcome.ACKNOWLEDGED, 0)
    copy.plant("INSERT INTO orders (id, customer_id) VALUES (%s, 1)", order)
    report = copy.check()
    assert (report.phantom, report.faults) == (1, 1), report


def test_a_batch_that_lacks_one_row_is_missing(copy: Bundled) -> None:
    copy.plant(
        "DELETE FROM page_views WHERE id = (SELECT max(id) FROM page_views"
        " WHERE agent LIKE 'importer-%')"
    )
    report = copy.check()
    assert (report.missing, report.faults) == (1, 1), report


def test_a_key_that_has_its_old_value_is_found(copy: Bundled) -> None:
    old = copy.key(subjects.TAGS, Outcome.ACKNOWLEDGED, -1)
    copy.plant(
        "UPDATE customer_tags SET tag = %s WHERE tag = (SELECT max(tag) FROM customer_tags"
        " WHERE tag LIKE 'crm_api-%%')",
        old,
    )
    report = copy.check()
    assert (report.missing, report.phantom, report.faults) == (1, 1, 2), report


def test_a_large_value_that_was_not_carried_over_is_altered(copy: Bundled) -> None:
    model = copy.key(subjects.MODELS, Outcome.ACKNOWLEDGED, 1)
    copy.plant("UPDATE uploaded_models SET content = '' WHERE id = %s", model)
    report = copy.check()
    assert report.altered >= 1
    assert report.altered == report.faults, report


def test_connections_that_are_terminated_leave_the_history_whole(bundled: Bundled) -> None:
    with (
        psycopg.connect(bundled.dsn, autocommit=True) as admin,
        Workload(bundled.routing, bundled.history, rate=500) as workload,
    ):
        for _ in range(20):
            time.sleep(0.1)
            admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name ~ '_api-'"
            )
    stats = workload.stats()
    assert stats.retried > 0
    assert stats.crashed == stats.given_up == 0
    report = bundled.check()
    assert report.whole, report
    assert report.max_pause_ms == pytest.approx(stats.max_pause_ms, abs=0.1)


def test_a_workload_that_is_killed_leaves_the_history_whole(bundled: Bundled) -> None:
    workload = Workload(bundled.routing, bundled.history, rate=1000)
    workload.start()
    time.sleep(1.0)
    workload.kill()
    with pytest.raises(WorkloadFailed, match="not at work"):
        workload.pause()
    with psycopg.connect(bundled.dsn, autocommit=True) as admin:
        assert wait_until(lambda: writing(admin) == 0, timeout_s=10)
    report = bundled.check()
    assert report.whole, report
    # And the next one goes on with the same history.
    with Workload(bundled.routing, bundled.history):
        time.sleep(1.0)
    after = bundled.check()
    assert after.whole, after
    assert after.acknowledged > report.acknowledged


def test_writers_end_with_the_process_that_started_them(bundled: Bundled) -> None:
    program = (
        "import sys, time; from pathlib import Path;"
        "from plans.crm_shop.workload.process import Workload;"
        "workload = Workload(Path(sys.argv[1]), Path(sys.argv[2])); workload.start();"
        "print(workload.pid, flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", program, str(bundled.routing), str(bundled.history)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        writers = Path("/proc") / parent.stdout.readline().strip()
        assert writers.exists()
        parent.send_signal(signal.SIGKILL)
    assert wait_until(lambda: not writers.exists(), timeout_s=10)


def test_a_failed_transaction_is_retried_where_the_switch_points_then(
    bundled: Bundled, target_db: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate.create(target_db)
    generate.load(target_db, scale=SCALE)
    with Workload(bundled.routing, bundled.history) as workload:
        time.sleep(0.5)
        with psycopg.connect(bundled.dsn) as fence:
            fence.execute(
                "CREATE FUNCTION moved() RETURNS trigger LANGUAGE plpgsql AS"
                " $$BEGIN RAISE 'table orders has moved to service shop'; END$$"
            )
            fence.execute(
                "CREATE TRIGGER fence BEFORE INSERT OR UPDATE ON orders EXECUTE FUNCTION moved()"
            )
        assert wait_until(lambda: workload.stats().errors.get("P0001", 0) > 3, timeout_s=10)
        assert "moved to service shop" in workload.stats().last_error
        monkeypatch.setenv("DBSPLIT_STEP", "switch")
        monkeypatch.setenv("DBSPLIT_ROUTES", json.dumps({"shop": target_db}))
        assert switch.main([str(bundled.routing)]) == 0
        time.sleep(1.0)
        workload.pause()
        refused = workload.stats().errors["P0001"]
        workload.resume()
        time.sleep(0.5)
        assert workload.stats().errors["P0001"] == refused
    assert workload.stats().max_pause_ms > 0
    assert json.loads(bundled.routing.read_text()) == {"crm": bundled.dsn, "shop": target_db}
    with psycopg.connect(target_db, autocommit=True) as target:
        [orders] = target.execute("SELECT count(*) FROM orders WHERE comment ~ 'shop_api'")
        [calls] = target.execute("SELECT count(*) FROM interactions WHERE subject ~ 'crm_api'")
    assert orders[0] > 0
    assert calls[0] == 0


def test_nothing_is_written_while_paused(bundled: Bundled) -> None:
    with (
        psycopg.connect(bundled.dsn, autocommit=True) as admin,
        Workload(bundled.routing, bundled.history) as workload,
    ):
        time.sleep(0.5)
        paused = workload.pause()
        time.sleep(0.5)
        assert workload.stats().acknowledged == paused.acknowledged > 0
        [row] = admin.execute(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE application_name ~ '_api-' AND state <> 'idle'"
        )
        assert row[0] == 0
        workload.resume()
        assert wait_until(lambda: workload.stats().acknowledged > paused.acknowledged, timeout_s=10)


def test_the_command_line_runs_and_checks(bundled: Bundled) -> None:
    finished = subprocess.run(
        [
            *(sys.executable, "-m", "plans.crm_shop.workload", "--check"),
            *("--routing", bundled.routing, "--history", bundled.history, "--seconds", "1"),
        ],
        capture_output=True,
        env={**os.environ, "PYTHONWARNINGS": "error"},
        text=True,
        timeout=60,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    report = json.loads(finished.stdout.splitlines()[-1])
    assert report["acknowledged"] > 0
    assert report["missing"] == report["doubled"] == 0


def writing(admin: psycopg.Connection) -> int:
    [row] = admin.execute("SELECT count(*) FROM pg_stat_activity WHERE application_name ~ '_api-'")
    return int(row[0])
