"""The catalog as it is read from a real server."""

from __future__ import annotations

import time
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql

from plans.catalog import Catalog, TableName
from plans.catalog_read import read_catalog
from plans.errors import NotReady

SCHEMA = """
CREATE TYPE mood AS ENUM ('calm', 'busy');
CREATE DOMAIN amount AS numeric(12, 2) CHECK (VALUE >= 0);
CREATE DOMAIN state AS mood;
CREATE TYPE pair AS (a int, b text);
CREATE TYPE span AS RANGE (subtype = float8);
CREATE SEQUENCE numbers;
CREATE TABLE customers (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    full_name text COLLATE "C" NOT NULL,
    code varchar(4), long_code varchar(40), size int DEFAULT 7, born date DEFAULT '2020-01-02',
    serial_number serial, drawn int DEFAULT nextval('numbers'),
    upper_name text GENERATED ALWAYS AS (upper(full_name)) STORED,
    m mood, s state, a amount, ms mood[], p pair, f span, r int4range, ts text[], c regclass,
    net inet, file bytea, gone int, "Odd ""Name" int
);
ALTER TABLE customers DROP COLUMN gone;
CREATE TABLE "Odd Table" (a int, b text);
ALTER TABLE "Odd Table" REPLICA IDENTITY FULL;
CREATE TABLE child (c int) INHERITS ("Odd Table");
CREATE TABLE by_index (a int NOT NULL, b int NOT NULL, c int);
CREATE UNIQUE INDEX by_index_key ON by_index (b, a) INCLUDE (c);
ALTER TABLE by_index REPLICA IDENTITY USING INDEX by_index_key;
CREATE SCHEMA parts;
CREATE TABLE events (id int, at date, PRIMARY KEY (at, id)) PARTITION BY RANGE (at);
CREATE TABLE parts.events_20 PARTITION OF events FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
CREATE TABLE parts.events_21 PARTITION OF events
    FOR VALUES FROM ('2021-01-01') TO ('2022-01-01') PARTITION BY LIST (id);
CREATE TABLE parts.events_21_rest PARTITION OF parts.events_21 DEFAULT;
CREATE TABLE visits (
    id int PRIMARY KEY DEFERRABLE,
    customer bigint REFERENCES customers ON DELETE CASCADE DEFERRABLE,
    event_at date, event_id int, FOREIGN KEY (event_at, event_id) REFERENCES events
);
CREATE UNLOGGED TABLE scratch (id int PRIMARY KEY);
CREATE TEMP TABLE passing (id int);
CREATE FOREIGN DATA WRAPPER nothing;
CREATE SERVER far FOREIGN DATA WRAPPER nothing;
CREATE FOREIGN TABLE elsewhere (id int) SERVER far;
CREATE SCHEMA dbsplit;
CREATE TABLE dbsplit.journal (id int);
INSERT INTO events SELECT g, '2020-02-01' FROM generate_series(1, 500) g;
INSERT INTO events SELECT g, '2021-02-01' FROM generate_series(1, 300) g;
ANALYZE;
"""


@pytest.fixture
def conn(source_db: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(source_db, autocommit=True) as connection:
        connection.execute(SCHEMA)
        yield connection


@pytest.fixture
def catalog(conn: psycopg.Connection) -> Catalog:
    return read_catalog(conn, ["public", "dbsplit"])


def public(name: str) -> TableName:
    return TableName("public", name)


def test_which_tables_there_are(catalog: Catalog) -> None:
    assert {str(name) for name in catalog.tables} == {
        "public.customers", "public.Odd Table", "public.child", "public.by_index",
        "public.events", "parts.events_20", "parts.events_21", "parts.events_21_rest",
        "public.visits", "public.scratch",
    }  # fmt: skip
    assert catalog.foreign_tables == (public("elsewhere"),)
    assert catalog.server_version >= 150000


def test_which_binary_forms_are_portable(catalog: Catalog) -> None:
    columns = catalog.tables[public("customers")].columns
    assert {column.name for column in columns if not column.is_portable} == {"c"}


def test_which_values_may_be_stored_out_of_line(catalog: Catalog) -> None:
    columns = catalog.tables[public("customers")].columns
    assert {column.name for column in columns if column.toastable} == {
        "full_name", "long_code", "upper_name", "a", "ms", "p", "f", "r", "ts", "file"
    }  # fmt: skip


def test_columns(catalog: Catalog) -> None:
    customers = catalog.tables[public("customers")]
    assert customers.columns[-1].name == 'Odd "Name'
    assert customers.primary_key == customers.key == ("id",)
    name = customers.column("full_name")
    assert (name.type, name.collation, name.not_null) == ("text", 'pg_catalog."C"', True)
    assert customers.column("a").type == "public.amount"
    assert customers.column("code").type == "character varying(4)"
    assert customers.column("born").default == "'2020-01-02'::date"
    upper = customers.column("upper_name")
    assert (upper.generated, upper.generated_kind, upper.default) == ("upper(full_name)", "s", None)
    with pytest.raises(KeyError):
        customers.column("gone")


def test_sequences(catalog: Catalog) -> None:
    customers = catalog.tables[public("customers")]
    drawn = {column.name: column.sequence for column in customers.columns if column.sequence}
    assert drawn == {
        "id": public("customers_id_seq"),
        "serial_number": public("customers_serial_number_seq"),
        "drawn": public("numbers"),
    }
    assert customers.column("id").identity == "a"
    assert customers.column("drawn").default == "nextval('public.numbers'::regclass)"


def test_identities(catalog: Catalog) -> None:
    by_index = catalog.tables[public("by_index")]
    assert by_index.replica_identity == "i"
    assert by_index.identity_index_columns == by_index.key == ("b", "a")
    assert catalog.tables[public("Odd Table")].replica_identity == "f"
    assert catalog.tables[public("Odd Table")].key == ()
    assert catalog.tables[public("visits")].key_deferrable
    assert catalog.tables[public("scratch")].persistence == "u"


def test_partitions_are_with_their_root_whatever_their_schema(catalog: Catalog) -> None:
    events = catalog.tables[public("events")]
    leaves = (TableName("parts", "events_20"), TableName("parts", "events_21_rest"))
    assert (events.kind, events.leaves, events.key) == ("p", leaves, ("at", "id"))
    assert events.rows_estimated == 800
    assert events.size_bytes > 0
    rest = catalog.tables[leaves[1]]
    assert (rest.parent, rest.is_partition) == (TableName("parts", "events_21"), True)
    child = catalog.tables[public("child")]
    assert (child.parent, child.is_partition) == (public("Odd Table"), False)


def test_foreign_keys(catalog: Catalog) -> None:
    customer, event = sorted(catalog.foreign_keys, key=lambda key: key.name)
    assert customer.definition == (
        "FOREIGN KEY (customer) REFERENCES public.customers(id) ON DELETE CASCADE DEFERRABLE"
    )
    assert (customer.on_delete, customer.on_update, customer.deferrable) == ("c", "a", True)
    # Once, not for each partition.
    assert (event.table, event.references) == (public("visits"), public("events"))
    assert event.columns == ("event_at", "event_id")
    assert event.referenced_columns == ("at", "id")


def test_generated_columns_of_the_newest_kind(conn: psycopg.Connection) -> None:
    is_18 = conn.info.server_version >= 180000  # virtual ones came with PostgreSQL 18
    kind = sql.SQL("VIRTUAL" if is_18 else "STORED")
    conn.execute(
        sql.SQL("CREATE TABLE v (a int, b int GENERATED ALWAYS AS (a + 1) {})").format(kind)
    )
    column = read_catalog(conn, ["public"]).tables[public("v")].column("b")
    assert (column.generated, column.generated_kind) == ("(a + 1)", "v" if is_18 else "s")


def test_the_session_is_left_as_it_was(conn: psycopg.Connection) -> None:
    conn.execute("SET search_path = public, parts")
    read_catalog(conn, ["public"])
    assert conn.execute("SHOW search_path").fetchone() == ("public, parts",)
    conn.autocommit = False
    conn.execute("SELECT 1")
    with pytest.raises(ValueError, match="in a transaction"):
        read_catalog(conn, ["public"])


def test_a_locked_table_is_not_waited_for_without_end(
    conn: psycopg.Connection, source_db: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from plans import catalog_sql

    hurried = tuple(one.replace("'5s'", "'100ms'") for one in catalog_sql.SETTINGS)
    monkeypatch.setattr(catalog_sql, "SETTINGS", hurried)
    with psycopg.connect(source_db) as other:
        other.execute("LOCK TABLE customers")
        with pytest.raises(NotReady, match="customers is locked by"):
            read_catalog(conn, ["public"])
        other.rollback()


def test_a_thousand_tables_are_read_at_once(conn: psycopg.Connection) -> None:
    conn.execute(
        "CREATE SCHEMA wide;"
        "DO $$ BEGIN FOR i IN 1..1000 LOOP EXECUTE format('CREATE TABLE wide.t%s"
        " (id int PRIMARY KEY, a text, b numeric, c timestamptz, d jsonb)', i);"
        " END LOOP; END $$"
    )
    begun = time.monotonic()
    assert len(read_catalog(conn, ["wide"]).tables) == 1000
    assert time.monotonic() - begun < 10


def test_a_sequence_that_a_function_draws_from_is_the_columns(source_db: str) -> None:
    with psycopg.connect(source_db, autocommit=True) as conn:
        conn.execute(
            """
            CREATE SCHEMA other;
            CREATE SEQUENCE codes; CREATE SEQUENCE "Odd One"; CREATE SEQUENCE other.plain;
            CREATE SEQUENCE into_it; CREATE SEQUENCE nobody;
            CREATE FUNCTION new_code() RETURNS text LANGUAGE sql AS
                $$ SELECT 'c' || nextval('codes') $$;
            CREATE FUNCTION new_odd() RETURNS bigint LANGUAGE sql
                BEGIN ATOMIC SELECT nextval('"Odd One"'); END;
            CREATE FUNCTION number() RETURNS trigger LANGUAGE plpgsql AS
                $$ BEGIN NEW."n" := coalesce(NEW.n, nextval('other.plain'));
                         SELECT nextval ( 'into_it' ) INTO NEW.m; RETURN NEW; END $$;
            CREATE FUNCTION uncalled() RETURNS bigint LANGUAGE sql
                AS $$ SELECT nextval('nobody') $$;
            CREATE TABLE a (id int PRIMARY KEY, code text DEFAULT new_code(),
                            odd bigint DEFAULT 1 + new_odd(), n int, m int, other int);
            CREATE TRIGGER number BEFORE INSERT ON a FOR EACH ROW EXECUTE FUNCTION number();
            """
        )
        table = read_catalog(conn, ["public"]).tables[public("a")]
    assert {column.name: column.sequence for column in table.columns if column.sequence} == {
        "code": public("codes"),
        "odd": public("Odd One"),
        "n": TableName("other", "plain"),
        "m": public("into_it"),
    }
