"""Parts of one row, each written by a service that has moved, before either hears of the other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import LiteralString

import psycopg
import pytest

from cdc.progress import turn_key
from tests.conftest import fresh_database
from tests.integration.test_line import arrives
from tests.small_shop import SmallShop
from tests.verbs import Verbs
from toolkit.servers import Server
from toolkit.state import Direction

SERVICES = ("crm", "shop")
SCHEMA = """
CREATE TYPE tag AS ENUM ('new', 'old');
CREATE TYPE place AS (town text, tags tag[]);
CREATE TABLE parts (
    tenant int,
    id bigint GENERATED ALWAYS AS IDENTITY,
    name text NOT NULL DEFAULT '',
    long text,
    email text NOT NULL DEFAULT '',
    code int UNIQUE,
    tags tag[],
    at place DEFAULT ('here', '{new}'),
    PRIMARY KEY (tenant, id)
);
ALTER TABLE parts ALTER long SET STORAGE EXTERNAL;
INSERT INTO parts (tenant, name, long, email, code)
    SELECT 1, 'name ' || n, repeat(n::text, 3000), 'email ' || n, n FROM generate_series(1, 9) AS n;
CREATE TABLE notes (id serial PRIMARY KEY, channel text NOT NULL, body text, kept int NOT NULL);
INSERT INTO notes (channel, kept) SELECT (ARRAY['web', 'mail'])[1 + n % 2], n
    FROM generate_series(1, 9) AS n;
CREATE TABLE years (id int, year int, channel text, PRIMARY KEY (id, year))
    PARTITION BY LIST (year);
CREATE TABLE years_1 PARTITION OF years FOR VALUES IN (1);
INSERT INTO years VALUES (1, 1, 'web'), (2, 1, 'mail');
"""
PLAN = """\
split: small
source: {dsn: "${DBSPLIT_SOURCE_DSN}"}
services:
  crm: {dsn: "${DBSPLIT_CRM_DSN}"}
  shop: {dsn: "${DBSPLIT_SHOP_DSN}"}
tables:
  parts:
    split_columns:
      crm: [tenant, id, name, long, tags, at]
      shop: [tenant, id, email, code]
  notes:
    drop: [kept]
    split_rows: {crm: "channel <> 'web'", shop: "channel = 'web'"}
  years:
    split_rows:
      crm: "channel IS DISTINCT FROM 'web'"
      shop: "channel IS NOT DISTINCT FROM 'web'"
"""


@pytest.fixture
def moved(
    source_server: Server, target_server: Server, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[SmallShop]:
    """Both services lead, and no stream runs."""
    schema = SCHEMA.replace("ALWAYS", getattr(request, "param", "ALWAYS"))
    with ExitStack() as stack:
        source = stack.enter_context(fresh_database(source_server))
        targets = {s: stack.enter_context(fresh_database(target_server)) for s in SERVICES}
        with psycopg.connect(source) as connection:
            connection.execute(schema.encode())
        plan = tmp_path / "plan.yaml"
        plan.write_text(PLAN)
        dsns = {"source": source, **targets}
        verbs = Verbs(plan, {f"DBSPLIT_{place.upper()}_DSN": dsn for place, dsn in dsns.items()})
        shop = SmallShop(source, targets, verbs)
        shop.follow()
        with verbs.stream(source):
            verbs("cutover", "--yes")
        yield shop


def _catch_up(shop: SmallShop) -> None:
    for _ in range(2):  # to the source, and from there to the others
        shop.verbs("stream", "--until-caught-up")
    with shop.verbs.stream(shop.source):
        assert shop.verbs.json("validate")["consistent"] is True


@contextmanager
def _without(shop: SmallShop, service: str) -> Iterator[psycopg.Connection]:
    """Nothing comes from a service to the source as long as this session has its lock."""
    with psycopg.connect(shop.source, autocommit=True) as held:
        held.execute(
            "SELECT pg_advisory_lock(%s)", [turn_key(Direction.ROLLBACK.stream("small", service))]
        )
        yield held


@pytest.mark.parametrize(
    ("moved", "batch"),
    [("BY DEFAULT", None), ("ALWAYS", 1)],
    indirect=["moved"],
    ids=["together", "one-by-one"],
)
def test_no_part_is_lost_with_what_the_other_does(
    moved: SmallShop, batch: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("BATCH_CHANGES_MAX", "PART_CHANGES_MAX") if batch else ():
        monkeypatch.setattr(f"cdc.apply.{name}", batch)
    # A key that was had only for a moment, of a row with a value that is not in the log.
    for tenant in (2, 3, 4):
        moved.ask(
            "crm", "UPDATE parts SET tenant = %s, tags = tags || '{old}' WHERE id = 3", tenant
        )
    # What names types that have other numbers in the source.
    moved.ask("crm", "UPDATE parts SET tags = '{old,NULL}', at.tags = '{}' WHERE id = 4")
    moved.ask("shop", "UPDATE parts SET email = 'other' WHERE id = 4")
    # Keys that are exchanged.
    moved.ask(
        "crm",
        "INSERT INTO parts (tenant, id, name) OVERRIDING SYSTEM VALUE VALUES (6, 5, 'second')",
    )
    moved.ask(
        "crm",
        "UPDATE parts SET tenant = -1 WHERE id = 5 AND tenant = 1;"
        " UPDATE parts SET tenant = 1 WHERE id = 5 AND tenant = 6;"
        " UPDATE parts SET tenant = 6 WHERE id = 5 AND tenant = -1",
    )
    _catch_up(moved)
    assert moved.ask(
        "source",
        "SELECT tags::text, at::text, email FROM parts WHERE id IN (4, 5) ORDER BY id, name",
    ) == [
        ("{old,NULL}", "(here,{})", "other"),
        (None, "(here,{new})", "email 5"),
        (None, "(here,{new})", ""),
    ]
    whole = "SELECT tenant, id, name, left(long, 1), length(long), email, code FROM parts"
    assert moved.ask("source", f"{whole} WHERE id IN (3, 5) ORDER BY id, tenant") == [
        (4, 3, "name 3", "3", 3000, "email 3", 3),
        (1, 5, "second", None, None, "", None),
        (6, 5, "name 5", "5", 3000, "email 5", 5),
    ]
    rows: dict[str, LiteralString] = {
        "crm": "SELECT tenant, id, name, long, tags::text, at::text FROM parts ORDER BY 1, 2",
        "shop": "SELECT tenant, id, email, code FROM parts ORDER BY 1, 2",
    }
    for place, query in rows.items():
        assert moved.ask(place, query) == moved.ask("source", query)


def test_unique_values_that_change_hands_leave_the_other_part_alone(moved: SmallShop) -> None:
    """The source's rows are written anew for it, which the other service must not undergo."""
    moved.ask("crm", "UPDATE parts SET name = 'new' WHERE id IN (1, 2)")
    moved.ask(
        "shop",
        "UPDATE parts SET code = NULL WHERE id = 1; UPDATE parts SET code = 1 WHERE id = 2;"
        " UPDATE parts SET code = 2 WHERE id = 1; INSERT INTO parts (tenant) VALUES (7)",
    )
    names = "SELECT string_agg(name, ' ' ORDER BY id) FROM parts WHERE id IN (1, 2)"
    with (
        _without(moved, "crm") as held,
        moved.verbs.stream(moved.source),
    ):
        arrives(moved, "crm", "SELECT count(*) FROM parts WHERE tenant = 7", 1)
        assert moved.value("crm", names) == "new new"
        held.execute("SELECT pg_advisory_unlock_all()")
        arrives(moved, "source", names, "new new")
        assert moved.verbs.json("validate")["consistent"] is True


@pytest.mark.long
def test_a_service_does_not_make_rows_that_are_anothers(moved: SmallShop) -> None:
    for place, statement in (
        ("crm", "UPDATE notes SET channel = 'web' WHERE id = 1"),
        ("shop", "UPDATE notes SET channel = 'mail'"),
        ("crm", "UPDATE years SET channel = 'web'"),
        ("crm", "UPDATE years_1 SET channel = 'web'"),
        ("crm", "INSERT INTO years VALUES (3, 1, 'web')"),
    ):
        with pytest.raises(psycopg.errors.CheckViolation, match="is not true") as refused:
            moved.ask(place, statement)
        other = "crm" if place == "shop" else "shop"
        assert f"the database of service {other}" in (refused.value.diag.message_hint or "")
    # What is not in the source's way back is refused as ever.
    assert "the source needs kept" in str(
        moved.refuses("crm", "INSERT INTO notes (channel) VALUES ('mail')")
    )
    for place, statement in (
        ("crm", "UPDATE notes SET channel = 'fax', body = 'x' WHERE channel = 'mail'"),
        ("shop", "UPDATE notes SET body = 'x'"),
        ("crm", "UPDATE years_1 SET channel = NULL"),
        ("shop", "DELETE FROM years"),
    ):
        moved.ask(place, statement)
    _catch_up(moved)
    assert moved.value("source", "SELECT count(*) FROM notes WHERE body = 'x'") == 9
    with moved.verbs.stream(moved.source):
        moved.verbs("rollback", "--yes")
    moved.ask("source", "UPDATE notes SET channel = 'mail'")
    moved.verbs("abort", "--yes")
    for place in ("source", *SERVICES):
        left = moved.ask(place, "SELECT tgname FROM pg_trigger WHERE NOT tgisinternal")
        assert left == [], place
