"""``plan queries``: statements of code, scripts, logs and statistics against the boundary."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.conftest import fresh_database
from tests.small_shop import PLAN, REVISION, TABLES
from tests.verbs import Verbs
from toolkit.servers import Server

pytestmark = pytest.mark.integration

MORE = """
CREATE VIEW order_mails AS SELECT o.id, c.email FROM orders o JOIN customers c
    ON c.id = o.customer_id;
CREATE VIEW order_phones AS SELECT o.id, c.phone FROM orders o JOIN customers c
    ON c.id = o.customer_id;
CREATE FUNCTION bill(bigint) RETURNS numeric LANGUAGE sql AS
    'SELECT sum(amount) FROM billing.invoices WHERE order_id = $1';
CREATE FUNCTION anything(t text) RETURNS void LANGUAGE plpgsql AS
    $$ BEGIN EXECUTE 'DELETE FROM ' || t; END $$;
CREATE FUNCTION count_ticket() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN UPDATE visits SET path = path; RETURN NEW; END $$;
CREATE FUNCTION visited() RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM visits';
ALTER TABLE notes ADD CONSTRAINT seldom CHECK (visited() < 1000000);
CREATE TRIGGER counted AFTER INSERT ON tickets FOR EACH ROW EXECUTE FUNCTION count_ticket();
"""

LABELLED = (
    # What a service has whole, with its copies.
    ("SELECT * FROM orders JOIN \"Order Lines\" l ON l.order_id = orders.id", "inside"),
    ("SELECT subject, \"Name\" FROM tickets JOIN \"Products\" p ON p.\"Id\" = product", "inside"),
    ("SELECT id, email FROM customers", "inside"),
    ("SELECT id FROM order_mails", "inside"),
    ("INSERT INTO events (at, what) VALUES ('2024-01-01', 'x')", "inside"),
    ("SELECT * FROM events_2024", "inside"),
    ("SELECT now()", "inside"),
    # What no service has.
    ("SELECT full_name, email FROM customers", "crosses"),
    ("SELECT * FROM order_phones", "crosses"),
    ("SELECT o.id, bill(o.id) FROM orders o", "crosses"),
    ("UPDATE orders SET state = 'sent' FROM billing.invoices i WHERE paid", "crosses"),
    ("WITH t AS (SELECT * FROM tickets) SELECT * FROM t JOIN visits ON true", "crosses"),
    ("INSERT INTO visits (path) SELECT subject FROM tickets", "crosses"),
    ("DELETE FROM \"Products\" WHERE \"Id\" IN (SELECT product FROM tickets)", "crosses"),
    ("DELETE FROM scratch", "crosses"),
    ("INSERT INTO tickets (customer_id) VALUES (nextval('billing.invoices_id_seq'))", "crosses"),
    ("SELECT id, nextval('public.notes_id_seq'::regclass) FROM billing.invoices", "crosses"),
    # What is not the same any more.
    ("SELECT * FROM notes", "partial"),
    ("DELETE FROM customers WHERE id = 1", "partial"),
    ("INSERT INTO tickets (customer_id, subject) VALUES (1, 'x')", "sets-off"),
    ("INSERT INTO notes (customer_id, channel) VALUES (1, 'phone')", "sets-off"),
    # What cannot be told.
    ("SELECT anything('orders')", "unproven"),
)  # fmt: skip


@pytest.fixture
def queries(source_server: Server, tmp_path: Path) -> Iterator[Verbs]:
    with fresh_database(source_server) as dsn:
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(TABLES)
            connection.execute(MORE)
        plan = tmp_path / "plan.yaml"
        plan.write_text(PLAN)
        (tmp_path / "revisions").mkdir()
        (tmp_path / "revisions/0001_overview.py").write_text(REVISION)
        yield Verbs(plan, {"DBSPLIT_SOURCE_DSN": dsn})


def verdicts(verbs: Verbs, *arguments: str, code: int) -> dict[str, str]:
    """Verdicts by statement, of those that were told."""
    told = verbs("plan", "queries", *arguments, "--json", code=code).result
    return {" ".join(one["statement"].split()): one["verdict"] for one in told["places"]}


def test_each_statement_has_its_verdict(queries: Verbs, tmp_path: Path) -> None:
    script = tmp_path / "all.sql"
    script.write_text(";\n".join(text for text, _ in LABELLED))
    found = verdicts(queries, str(script), code=3)
    assert {text: found.get(text, "inside") for text, _ in LABELLED} == dict(LABELLED)


def test_nothing_crosses_and_it_passes(queries: Verbs, tmp_path: Path) -> None:
    script = tmp_path / "inside.sql"
    script.write_text(";\n".join(text for text, verdict in LABELLED if verdict == "inside"))
    said = queries("plan", "queries", str(script))
    assert "nothing found" in said.out


def test_of_whose_code_a_statement_is_depends_its_verdict(queries: Verbs, tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    code = tmp_path / "code/tickets.py"
    code.write_text('ALL = """\n  SELECT id\n  FROM tickets"""\n')
    assert verdicts(queries, f"crm={code}", code=0) == {}
    assert verdicts(queries, str(tmp_path / "code"), code=0) == {}
    assert verdicts(queries, f"shop={code}", code=3) == {"SELECT id FROM tickets": "elsewhere"}


def test_annotations_lead_to_file_and_line(queries: Verbs, tmp_path: Path) -> None:
    code = tmp_path / "report.py"
    code.write_text('x = 1\n\n\nQ = "SELECT * FROM tickets, visits"\n')
    github = queries("plan", "queries", str(code), "--format", "github", code=3).out
    assert "::error file=report.py,line=4,col=1,title=statement-crosses" in github
    sarif = json.loads(queries("plan", "queries", str(code), "--format", "sarif", code=3).out)
    (result,) = sarif["runs"][0]["results"]
    assert result["locations"][0]["physicalLocation"]["region"]["startLine"] == 4


def test_an_entry_of_the_allow_list_holds_until_its_last_day(
    queries: Verbs, tmp_path: Path
) -> None:
    script = tmp_path / "crossing.sql"
    script.write_text("SELECT * FROM tickets, visits WHERE tickets.id = 7")
    (place,) = queries("plan", "queries", str(script), "--json", code=3).result["places"]
    allowed = tmp_path / "allowed-queries.yaml"

    def allow(last_day: date, **entry: object) -> None:
        entry = {**entry, "reason": "a report", "expires": last_day.isoformat()}
        allowed.write_text(json.dumps({"allow": [entry]}))

    today = date.today()  # noqa: DTZ011 - the verb's own day is UTC's; a day of margin below
    later = today + timedelta(days=2)
    for entry in (
        {"fingerprint": place["fingerprint"]},
        {"tables": ["public.tickets", "visits"]},
        {"path": "*/crossing.sql"},
    ):
        allow(later, **entry)
        assert queries("plan", "queries", str(script), "--json").result["ok"]
        allow(today - timedelta(days=2), **entry)
        assert "was allowed until" in queries("plan", "queries", str(script), code=3).out
    allow(later, tables=["tickets"])
    said = queries("plan", "queries", str(script), code=3).out
    assert "no statement needs this entry" in said


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("allow: [{tables: [a], expires: 2030-01-01}]", r":1:\d+: allow\[0\]\.reason: is missing"),
        ("allow:\n  - {tabels: [a], reason: x, expires: 2030-01-01}", "did you mean 'tables'"),
        ("allow:\n  - {reason: x, expires: 2030-01-01}", "doesn't say what it allows"),
        ("allow:\n  - {tables: [a], reason: x, expires: soon}", r"allow\[0\]\.expires"),
        ("allow: [", "isn't readable YAML"),
    ],
)
def test_a_bad_allow_list_is_told_with_its_place(
    queries: Verbs, tmp_path: Path, text: str, message: str
) -> None:
    allowed = tmp_path / "mine.yaml"
    allowed.write_text(text)
    script = tmp_path / "a.sql"
    script.write_text("SELECT 1")
    said = queries("plan", "queries", str(script), "--allow", str(allowed), code=3)
    assert str(allowed) in said.err
    assert re.search(message, said.err)


def test_bad_arguments_are_refused(queries: Verbs, tmp_path: Path) -> None:
    assert "no file or directory" in queries("plan", "queries", "nowhere.sql", code=2).err
    assert "--statistics" in queries("plan", "queries", code=2).err


def test_logs_tell_the_service_by_the_role(queries: Verbs, tmp_path: Path) -> None:
    plan = queries.plan
    roles = 'crm: {dsn: "${DBSPLIT_CRM_DSN}", roles: [crm_api]}'
    plan.write_text(plan.read_text().replace('crm: {dsn: "${DBSPLIT_CRM_DSN}"}', roles))
    database = psycopg.conninfo.conninfo_to_dict(queries.environment["DBSPLIT_SOURCE_DSN"])
    record: dict[str, Any] = {
        "timestamp": "2026-01-01 10:00:00.000 UTC", "user": "crm_api", "pid": 7,
        "dbname": database["dbname"], "session_id": "a.b", "error_severity": "LOG",
    }  # fmt: skip
    log = tmp_path / "postgresql.json"
    query = "SELECT path FROM visits WHERE 0"
    log.write_text(
        "".join(
            json.dumps({**record, "message": f"statement: {query} = {n}"}) + "\n" for n in range(5)
        )
    )
    (place,) = queries("plan", "queries", str(log), "--json", code=3).result["places"]
    assert place["verdict"] == "elsewhere"
    assert (place["line"], place["times"]) == (1, 5)


def test_what_only_the_server_knows_is_unproven(queries: Verbs, tmp_path: Path) -> None:
    """A temporary table of the script has the name of the plan's: the server has only that."""
    script = tmp_path / "shadow.sql"
    script.write_text(
        "CREATE TEMP TABLE tickets (id int); SELECT * FROM tickets JOIN visits ON true"
    )
    dsn = queries.environment["DBSPLIT_SOURCE_DSN"]
    with psycopg.connect(dsn) as connection:
        knows = connection.info.server_version >= 160000
    found = verdicts(queries, str(script), code=0)
    assert found == ({"SELECT * FROM tickets JOIN visits ON true": "unproven"} if knows else {})
