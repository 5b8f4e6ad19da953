"""What statements touch, down to columns and ways, against a catalog without a server."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from plans.catalog import Catalog, Column, ForeignKey, Table, TableName
from plans.statements.model import Statement, Touch
from plans.statements.parts import Routine, Trigger, View
from plans.statements.read import read_statements
from plans.statements.scope import Scope
from plans.statements.settings import path_names

ORDERS, CUSTOMERS = TableName("public", "orders"), TableName("public", "customers")
CRM_ORDERS, EVENTS = TableName("crm", "orders"), TableName("public", "events")


def table(name: TableName, *columns: str, parent: TableName | None = None) -> Table:
    return Table(
        name=name,
        kind="r",
        columns=tuple(Column(name=one, type="text", is_portable=True) for one in columns),
        parent=parent,
        is_partition=parent is not None,
    )


def scope_of(**parts: object) -> Scope:
    tables = (
        table(ORDERS, "id", "customer_id", "status", "total", "Note"),
        table(CUSTOMERS, "id", "name", "email"),
        table(CRM_ORDERS, "id", "memo"),
        table(EVENTS, "id", "at"),
        table(TableName("public", "events_1"), "id", "at", parent=EVENTS),
        table(TableName("public", "events_1a"), "id", "at", parent=TableName("public", "events_1")),
    )
    key = ForeignKey(
        name="orders_customer_fkey",
        table=ORDERS,
        columns=("customer_id",),
        references=CUSTOMERS,
        referenced_columns=("id",),
        definition="",
        on_delete="n",
        on_update="a",
    )
    catalog = Catalog(
        server_version=180000,
        database="shop",
        schemas=("public", "crm"),
        tables={one.name: one for one in tables},
        foreign_keys=(key,),
    )
    return Scope.of(catalog, **parts)  # type: ignore[arg-type]


SCOPE = scope_of()


def only(text: str, scope: Scope = SCOPE) -> Statement:
    (statement,) = read_statements(text, scope)
    return statement


def columns(statement: Statement) -> dict[str, str]:
    """The columns that are named, as "read public.orders": "id status"; "*" for any."""
    return {
        f"{'write' if touch.writes else 'read'} {touch.table}": " ".join(sorted(touch.columns))
        or "*"
        for touch in statement.touches
    }


COLUMNS = [
    ("SELECT * FROM orders", {"read public.orders": "*"}),
    ("SELECT id, status FROM orders", {"read public.orders": "id status"}),
    ('SELECT "Note" FROM orders ORDER BY Total', {"read public.orders": "Note total"}),
    ("SELECT o.*, c.name FROM orders o JOIN customers c ON c.id = o.customer_id",
     {"read public.orders": "*", "read public.customers": "id name"}),
    ("SELECT status, name FROM orders JOIN customers ON customers.id = customer_id",
     {"read public.orders": "customer_id status", "read public.customers": "id name"}),
    ("SELECT memo FROM crm.orders JOIN public.orders o USING (id)",
     {"read crm.orders": "id memo", "read public.orders": "id"}),
    ("SELECT 1 FROM crm.orders NATURAL JOIN events",
     {"read crm.orders": "id", "read public.events": "id"}),
    ("SELECT c.id FROM customers c WHERE EXISTS (SELECT FROM orders WHERE customer_id = c.id"
     " AND email = status)",
     {"read public.customers": "email id", "read public.orders": "customer_id status"}),
    ("SELECT total AS status FROM orders ORDER BY status", {"read public.orders": "total"}),
    ("SELECT x.a FROM orders AS x (a, b)", {"read public.orders": "id"}),
    ("SELECT j.total FROM (orders o JOIN customers c ON true) j", {"read public.orders": "total",
     "read public.customers": "*"}),
    ("SELECT n FROM (SELECT status AS n FROM orders) s", {"read public.orders": "status"}),
    ("SELECT name FROM (SELECT status AS name FROM orders) s, events",
     {"read public.orders": "status", "read public.events": "*"}),
    ("WITH c (email) AS (SELECT total FROM orders) SELECT email FROM c, customers k",
     {"read public.orders": "total", "read public.customers": "email"}),
    ("SELECT o FROM orders o", {"read public.orders": "*"}),
    ("SELECT ctid, no_such FROM orders WHERE id = 1", {"read public.orders": "id"}),
    ("SELECT l.total FROM customers c, LATERAL (SELECT total, c.email FROM orders) l",
     {"read public.customers": "email", "read public.orders": "total"}),
    # Without LATERAL the neighbour isn't seen, so this email is nobody's.
    ("SELECT l.total FROM customers c, (SELECT total FROM orders WHERE status = email) l",
     {"read public.customers": "*", "read public.orders": "status total"}),
    ("INSERT INTO orders (id, status) VALUES (1, 'x')", {"write public.orders": "id status"}),
    ("INSERT INTO orders VALUES (1)", {"write public.orders": "*"}),
    ("INSERT INTO customers (id, name) VALUES (1, 'x') ON CONFLICT (id) DO UPDATE"
     " SET email = excluded.email WHERE customers.name <> '' RETURNING customers.email",
     {"write public.customers": "email id name", "read public.customers": "email id name"}),
    ("UPDATE orders SET status = 'x' WHERE id = 1",
     {"write public.orders": "status", "read public.orders": "id"}),
    ("UPDATE orders o SET total = 1 FROM customers c WHERE c.id = customer_id AND email = ''",
     {"write public.orders": "total", "read public.orders": "customer_id",
      "read public.customers": "email id"}),
    ("DELETE FROM crm.orders WHERE id = 1",
     {"write crm.orders": "*", "read crm.orders": "id"}),
    ("MERGE INTO orders o USING crm.orders c ON c.id = o.id WHEN MATCHED THEN UPDATE SET"
     ' "Note" = memo WHEN NOT MATCHED THEN INSERT (id) VALUES (c.id)',
     {"write public.orders": "Note id", "read public.orders": "id", "read crm.orders": "id memo"}),
    ("COPY orders (id, total) FROM STDIN", {"write public.orders": "id total"}),
    ("COPY orders (id, total) TO STDOUT", {"read public.orders": "id total"}),
    ("SELECT id FROM events_1a", {"read public.events": "id"}),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), COLUMNS, ids=[text for text, _ in COLUMNS])
def test_columns_belong_to_the_relation_that_has_them(text: str, expected: dict[str, str]) -> None:
    statement = only(text)
    assert columns(statement) == expected
    assert not statement.unproven


def test_a_statement_that_is_no_sql_costs_none_of_the_others() -> None:
    text = "SELECT * FROM orders;\nSELEC broken;\n\n-- why\nSELECT (1;\nDELETE FROM customers;"
    found = read_statements(text, SCOPE)
    assert [(one.line, one.verb, bool(one.unproven)) for one in found] == [
        (1, "select", False), (2, "other", True), (5, "other", True), (6, "delete", False),
    ]  # fmt: skip
    assert found[1].unproven == ('it can\'t be parsed: syntax error at or near "SELEC"',)
    assert found[3].text == "DELETE FROM customers"


def test_an_open_quote_hides_no_line_after_it() -> None:
    found = read_statements("SELECT 'x;\nSELECT * FROM orders;\nSELECT id FROM customers", SCOPE)
    assert [(one.line, bool(one.unproven), one.tables) for one in found] == [
        (1, True, frozenset()), (2, False, {ORDERS}), (3, False, {CUSTOMERS}),
    ]  # fmt: skip


def test_a_dump_with_data_and_commands_of_psql() -> None:
    text = (
        "\\connect shop\nSET search_path = '';\n"
        "SELECT pg_catalog.set_config('search_path', 'crm', false);\n"
        "COPY public.orders (id, status) FROM stdin;\n1\t';\n2\tSELECT * FROM customers;\n\\.\n\n"
        "\\echo 'done';\n\\copy orders (memo) from 'x'\nSELECT memo FROM orders \\gset\n"
        "CREATE FUNCTION crm.f() RETURNS int BEGIN ATOMIC SELECT CASE WHEN true THEN 1 END;"
        " SELECT id FROM public.events; END;\nSELECT crm.f()"
    )
    found = read_statements(text, SCOPE)
    assert [(one.line, one.verb, one.tables) for one in found] == [
        (2, "other", frozenset()),
        (3, "select", frozenset()),
        (4, "copy", {ORDERS}),
        (10, "copy", {CRM_ORDERS}),
        (11, "select", {CRM_ORDERS}),
        (12, "ddl", {EVENTS}),
        (13, "select", {EVENTS}),
    ]
    assert not any(one.unproven for one in found)


def test_a_text_changes_what_its_later_names_mean() -> None:
    text = """
        SELECT id FROM orders; SET search_path TO crm, public; SELECT id FROM orders;
        BEGIN; SET LOCAL search_path = public; SELECT id FROM orders; COMMIT;
        SELECT id FROM orders; RESET search_path; SELECT id FROM orders;
        CREATE TEMP TABLE orders (id int); SELECT id FROM orders; SELECT id FROM public.orders;
        DROP TABLE orders; SELECT id FROM orders"""
    found = [one.tables for one in read_statements(text, SCOPE) if one.verb == "select"]
    crm, public, none = {CRM_ORDERS}, {ORDERS}, set[TableName]()
    assert found == [public, crm, public, crm, public, none, public, public]


def test_a_new_table_is_none_of_the_catalog_s() -> None:
    text = """
        CREATE TABLE crm.fresh (id int); INSERT INTO crm.fresh SELECT id FROM orders;
        CREATE TABLE other AS SELECT id FROM events; DELETE FROM other;
        SELECT id INTO third FROM customers; SELECT * FROM third; DROP TABLE third;
        CREATE TABLE orders (id int); SELECT id FROM orders; SELECT id FROM fourth"""
    found = read_statements(text, SCOPE)
    assert [one.tables for one in found] == [
        set(), {ORDERS}, {EVENTS}, set(), {CUSTOMERS}, set(), set(), set(), {ORDERS}, set(),
    ]  # fmt: skip
    assert [one.unproven for one in found[:-1]] == [()] * 9
    assert found[-1].unproven == ("there is no relation fourth",)


def test_prepared_statements_cursors_and_new_objects_of_the_same_text() -> None:
    text = """
        PREPARE p (int) AS UPDATE orders SET total = $1; EXECUTE p(3);
        DECLARE c CURSOR FOR SELECT id FROM events; FETCH c;
        CREATE VIEW v AS SELECT name FROM customers; SELECT * FROM v;
        CREATE FUNCTION f(a int DEFAULT 3) RETURNS int LANGUAGE sql AS 'DELETE FROM crm.orders';
        SELECT f(); SELECT f(1, 2)"""
    found = read_statements(text, SCOPE)
    assert [(one.verb, one.writes | one.reads) for one in found] == [
        ("update", {ORDERS}), ("update", {ORDERS}),
        ("select", {EVENTS}), ("other", frozenset()),
        ("ddl", {CUSTOMERS}), ("select", {CUSTOMERS}),
        ("ddl", {CRM_ORDERS}), ("select", {CRM_ORDERS}), ("select", frozenset()),
    ]  # fmt: skip
    assert found[5].touches == (
        Touch(CUSTOMERS, frozenset({"name"}), writes=False, via=("public.v",)),
    )


def test_the_way_to_a_table_is_told() -> None:
    log = Routine(
        schema="public", name="log", language="plpgsql",
        definition="CREATE FUNCTION public.log() RETURNS trigger LANGUAGE plpgsql AS $$"
        " BEGIN INSERT INTO public.events (id) VALUES (new.id); PERFORM public.far(); END $$",
    )  # fmt: skip
    far = Routine(schema="public", name="far", language="plperl")
    scope = scope_of(
        views=[
            View(TableName("public", "inner_view"), ("id",), "SELECT id FROM public.orders"),
            View(TableName("public", "outer_view"), ("id",), "SELECT id FROM public.inner_view"),
        ],
        routines=[log, far],
        triggers=[Trigger("t", CUSTOMERS, frozenset({"delete"}), log)],
    )
    read = only("SELECT * FROM outer_view", scope)
    assert [touch.via for touch in read.touches] == [("public.outer_view", "public.inner_view")]
    deleted = only("DELETE FROM customers", scope)
    assert {(touch.table, touch.via) for touch in deleted.touches} == {
        (CUSTOMERS, ()),
        (EVENTS, ("trigger t on public.customers",)),
        (ORDERS, ("foreign key orders_customer_fkey on public.orders",)),
    }
    assert deleted.unproven == ("public.far() is written in plperl",)
    assert only("INSERT INTO customers VALUES (1)", scope).tables == {CUSTOMERS}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("SELECT * FROM nowhere", "there is no relation nowhere"),
        ("SELECT * FROM crm.nowhere", "there is no relation crm.nowhere"),
        ("SELECT crm.nothing(1)", "there is no function crm.nothing(1 argument)"),
        ("EXECUTE unheard_of", "unheard_of is prepared elsewhere"),
        ("DO $$ BEGIN EXECUTE current_query(); END $$", "dynamic SQL in a DO block"),
        ("DO LANGUAGE plperl 'x'", "a DO block is written in plperl"),
        ("SELECT dblink('x', 'y')", "dblink() may read anything"),
        # The parser itself ends the process on these.
        ("SELECT 1" + "+1" * 100_000, "it can't be parsed: it is nested too deeply"),
        (
            "DO $$ BEGIN x := 1" + "+1" * 100_000 + "; END $$",
            "it can't be parsed: it is nested too deeply",
        ),
        ("SELECT " + "+1" * 900, "it can't be parsed: it is nested too deeply"),
    ],
    ids=lambda value: value[:40],
)
def test_what_cannot_be_known_is_said(text: str, reason: str) -> None:
    assert only(text).unproven == (reason,)


@pytest.mark.parametrize(
    "query",
    [
        "'SELECT id FROM crm.orders'",
        "'SELECT id FROM ' || 'crm.orders WHERE id = ' || quote_literal(x)",
        "format('SELECT id FROM %I.%s WHERE id = %L AND 1 %% 2 = 1', 'crm', 'orders', x)",
        "format('SELECT id FROM %2$I.%1$I', 'orders', 'crm')",
        "concat('SELECT id ', 'FROM crm.orders')",
    ],
)
def test_a_built_query_is_read_where_only_values_vary(query: str) -> None:
    statement = only(f"DO $$ DECLARE x text; BEGIN EXECUTE {query}; END $$")
    assert statement.reads == {CRM_ORDERS}
    assert not statement.unproven


def test_long_data_is_not_taken_for_a_deep_tree() -> None:
    text = "INSERT INTO customers (name) VALUES ('" + "a+b/" * 10_000 + "')"
    assert only(text).writes == {CUSTOMERS}


def test_joined_tables_come_in_pairs() -> None:
    statement = only(
        "SELECT * FROM orders o, customers c WHERE o.id IN (SELECT id FROM crm.orders)"
    )
    assert statement.joins == {
        (CRM_ORDERS, CUSTOMERS), (CRM_ORDERS, ORDERS), (CUSTOMERS, ORDERS),
    }  # fmt: skip


def test_functions_that_call_each_other_end() -> None:
    body = "CREATE FUNCTION public.{}() RETURNS int LANGUAGE sql AS 'SELECT public.{}() FROM {}'"
    ring = [("a", "b", "orders"), ("b", "c", "events"), ("c", "a", "customers")]
    routines = [
        Routine(schema="public", name=name, language="sql", definition=body.format(name, to, of))
        for name, to, of in ring
    ]
    scope = scope_of(routines=routines)
    for name, _, _ in ring:
        assert only(f"SELECT {name}()", scope).tables == {ORDERS, EVENTS, CUSTOMERS}


def test_the_search_path_of_a_setting() -> None:
    assert path_names("") == ()
    assert path_names('"$user", public') == ("public",)
    assert path_names('Crm , "My ""own"", schema",public') == ("crm", 'My "own", schema', "public")


WORDS = st.sampled_from([
    "SELECT", "*", "FROM", "orders", "customers", "o", "JOIN", "ON", "(", ")", ",", ";", "WITH",
    "AS", "INSERT INTO", "VALUES", "UPDATE", "SET", "DELETE", "=", "id", "1", "'", '"', "$$", "$1",
    "--", "/*", "*/", "\\", "\n", "?", "%s", ":x", "::", "DO", "BEGIN", "END", "ATOMIC", "COPY",
    "stdin", "CREATE FUNCTION f() RETURNS int", "LANGUAGE", "plpgsql", "sql", "EXECUTE", "LATERAL",
    "UNION", "MERGE", "USING", "TRUNCATE", "CALL", "\\.", "\0", "é", "\ud800", "[", "]", ".",
])  # fmt: skip


@given(st.one_of(st.text(), st.lists(WORDS, max_size=30).map(" ".join)))
@example("\\.")
@example("COPY x FROM stdin;\n")
@example("DO")
@example("CREATE FUNCTION f() RETURNS int LANGUAGE plpgsql AS ''")
@example("CREATE FUNCTION f() RETURNS int LANGUAGE sql")
@example("SELECT f.x.y.z.a FROM orders f")
@example("SELECT 1 FROM a.b.c.d")
def test_no_text_raises(text: str) -> None:
    found = read_statements(text, SCOPE)
    assert all(before.line <= after.line for before, after in pairwise(found))
    assert all(one.text for one in found)


@given(st.lists(st.sampled_from(["SELECT id FROM orders", "SELEC", "SELECT '", "x )", "DO '"])))
def test_whole_statements_survive_what_lies_between_them(texts: list[str]) -> None:
    text = ";\n".join([*texts, "DELETE FROM crm.orders"])
    assert CRM_ORDERS in {name for one in read_statements(text, SCOPE) for name in one.writes}
