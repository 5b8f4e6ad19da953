"""A role that is no superuser, as managed servers give it, with no more than the runbook says."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import LiteralString
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from tests.small_shop import SmallShop, small_shop
from tests.verbs import Verbs
from toolkit.servers import Server
from toolkit.servers_watchdog import wait_until

ARRIVES_S_MAX = 20.0
ROLES = ("splitter", "app_least", "crm_least", "shop_least")

OWNED_BY_APP: LiteralString = """
DO $$
DECLARE one record;
BEGIN
    FOR one IN SELECT c.oid::regclass AS name FROM pg_class AS c
                WHERE relnamespace IN ('public'::regnamespace, 'billing'::regnamespace)
                  AND relkind IN ('r', 'p', 'v') LOOP
        EXECUTE format('ALTER TABLE %s OWNER TO app_least', one.name);
    END LOOP;
    ALTER TYPE order_state OWNER TO app_least;
    ALTER SCHEMA billing OWNER TO app_least;
    GRANT USAGE ON SCHEMA public, billing TO crm_least, shop_least;
    GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO crm_least, shop_least;
    GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO crm_least, shop_least;
END
$$
"""

ON_SERVERS = ("GRANT SET ON PARAMETER session_replication_role TO splitter",)
IN_DATABASES = (
    "GRANT EXECUTE ON FUNCTION pg_replication_origin_create(text),"
    " pg_replication_origin_drop(text), pg_replication_origin_session_setup(text) TO splitter",
)
IN_SOURCE = (
    "GRANT CREATE ON SCHEMA public, billing TO splitter",
    "GRANT app_least TO splitter",
)


def execute(dsn: str, *statements: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def on_database(dsn: str, statement: str) -> str:
    name = sql.Identifier(str(conninfo_to_dict(dsn)["dbname"])).as_string(None)
    return statement.replace("DATABASE", f"DATABASE {name}", 1)


@pytest.fixture(scope="module")
def roles(source_server: Server, target_server: Server) -> Iterator[None]:
    servers = [source_server.dsn(), target_server.dsn()]
    for dsn in servers:
        execute(
            dsn,
            "CREATE ROLE splitter LOGIN REPLICATION",
            *(f"CREATE ROLE {role} LOGIN" for role in ROLES[1:]),
            *ON_SERVERS,
        )
    yield
    for dsn in servers:
        execute(dsn, "DROP OWNED BY splitter", *(f"DROP ROLE {role}" for role in ROLES))


@pytest.fixture
def shop(
    source_server: Server, target_server: Server, roles: None, tmp_path: Path
) -> Iterator[SmallShop]:
    with small_shop(
        source_server,
        target_server,
        tmp_path,
        edit=lambda text: text.replace(
            '{dsn: "${DBSPLIT_CRM_DSN}"}', '{dsn: "${DBSPLIT_CRM_DSN}", roles: [crm_least]}'
        ).replace(
            '{dsn: "${DBSPLIT_SHOP_DSN}"}', '{dsn: "${DBSPLIT_SHOP_DSN}", roles: [shop_least]}'
        ),
    ) as one:
        execute(one.source, OWNED_BY_APP, *IN_DATABASES, *IN_SOURCE)
        execute(one.source, on_database(one.source, "GRANT CREATE ON DATABASE TO splitter"))
        for dsn in one.targets.values():
            execute(dsn, *IN_DATABASES, on_database(dsn, "ALTER DATABASE OWNER TO splitter"))
        environment = {name: as_splitter(dsn) for name, dsn in one.verbs.environment.items()}
        yield replace(one, verbs=Verbs(one.verbs.plan, environment))


def as_splitter(dsn: str) -> str:
    parts = urlsplit(dsn)
    return urlunsplit(parts._replace(netloc=f"splitter@{parts.netloc.rpartition('@')[2]}"))


def application(shop: SmallShop, place: str, statement: LiteralString, role: str) -> None:
    with psycopg.connect(shop.dsn(place), autocommit=True, user=role) as connection:
        connection.execute(statement)


LACKS = {
    "REPLICATION": ("ALTER ROLE splitter NOREPLICATION", 'ALTER ROLE "splitter" REPLICATION'),
    "SET on session_replication_role": (
        "REVOKE SET ON PARAMETER session_replication_role FROM splitter",
        'GRANT SET ON PARAMETER session_replication_role TO "splitter"',
    ),
    "EXECUTE on pg_replication_origin_drop(text)": (
        "REVOKE EXECUTE ON FUNCTION pg_replication_origin_drop(text) FROM splitter",
        'GRANT EXECUTE ON FUNCTION pg_replication_origin_drop(text) TO "splitter"',
    ),
    'CREATE and USAGE on schema "public"': (
        "REVOKE CREATE ON SCHEMA public FROM splitter",
        'GRANT CREATE, USAGE ON SCHEMA "public" TO "splitter"',
    ),
}


def test_each_right_that_is_missing_is_named_before_anything_is_done(shop: SmallShop) -> None:
    for right, (take, give) in LACKS.items():
        execute(shop.source, take)
        refused = shop.verbs.tried("prepare")
        execute(shop.source, give)
        assert refused.code == 4, refused.err
        assert f"splitter lacks {right}\n" in refused.err
        assert give in refused.err
    assert shop.value("source", "SELECT to_regnamespace('dbsplit') IS NULL") is True
    assert shop.verbs.json("doctor")["ok"] is True


def test_who_owns_a_table_or_its_sequence_is_asked_for(shop: SmallShop) -> None:
    execute(
        shop.source,
        "CREATE SEQUENCE others",
        "ALTER TABLE visits ADD n int DEFAULT nextval('others')",
        "ALTER TABLE tickets OWNER TO postgres",
        "ALTER TABLE scratch OWNER TO postgres",  # stays behind
    )
    refused = shop.verbs("prepare", code=4)
    assert "public.others to postgres, public.tickets to postgres" in refused.err
    assert "scratch" not in refused.err
    assert 'GRANT "postgres" TO "splitter"' in refused.err


@pytest.mark.long
@pytest.mark.release
def test_the_line_needs_no_superuser(shop: SmallShop) -> None:
    verbs = shop.verbs
    assert verbs.json("plan", "check")["ok"] is True
    assert verbs.json("doctor")["ok"] is True
    verbs("plan", "explain", "--sql")
    verbs("plan", "render", "-o", str(verbs.plan.parent / "rendered"))
    shop.follow()
    with verbs.stream(shop.source):
        assert verbs.json("validate")["consistent"] is True
        assert verbs.json("validate", "--snapshot")["consistent"] is True
        assert verbs.json("cutover", "--dry-run")["outcome"] == "ready"
        assert verbs.json("cutover", "--yes")["outcome"] == "moved"
        application(shop, "shop", "UPDATE orders SET state = 'sent' WHERE id = 7", "shop_least")
        application(shop, "crm", "UPDATE customers SET phone = '1' WHERE id = 7", "crm_least")
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            application(shop, "source", "UPDATE orders SET state = 'new'", "shop_least")
        assert wait_until(
            lambda: shop.value("source", "SELECT phone FROM customers WHERE id = 7") == "1",
            timeout_s=ARRIVES_S_MAX,
        )
        assert verbs.json("rollback", "--yes")["outcome"] == "returned"
        application(shop, "source", "DELETE FROM notes WHERE id = 7", "shop_least")
        assert verbs.json("validate", "--repair")["consistent"] is True
        execute(shop.source, "ALTER TYPE order_state ADD VALUE 'lost'")
        execute(shop.source, "ALTER TABLE tickets ADD COLUMN seen boolean DEFAULT false")
    verbs("plan", "refresh")
    with verbs.stream(shop.source):
        assert verbs.json("cutover", "--yes")["outcome"] == "moved"
        verbs("status")
        verbs("complete", "--yes", "--drop")


def test_it_goes_away_without_a_trace(shop: SmallShop) -> None:
    before = shop.everything()
    shop.follow()
    shop.verbs("stream", "--until-caught-up")
    shop.verbs("abort", "--yes")
    assert shop.everything() == before
