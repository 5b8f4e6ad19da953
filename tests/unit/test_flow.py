# ruff: noqa: S608 -- all of the SQL is the tests' own
"""Flows in both directions, and the SQL that they become."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from psycopg import sql

from cdc.compiled import CompiledFlow
from cdc.flow import Flow, back, forward
from cdc.flow_sql import FlowSQL
from plans.catalog import Column, Table, TableName
from plans.routes import Kind, Route, RouteColumn

STAGE = sql.Identifier("stage")
PRESENT = "\"_dbsplit_op\" IN ('u', 'n')"


def column(name: str, type_: str = "integer", **more: object) -> Column:
    return Column(name=name, type=type_, is_portable=True, **more)  # type: ignore[arg-type]


SOURCE = Table(
    name=TableName("public", "orders"),
    kind="r",
    columns=(
        column("id"),
        column("state", "text", toastable=True),
        column("note", "text", toastable=True),
        column("twice", generated="id * 2", generated_kind="s"),
    ),
    primary_key=("id",),
)


def plain(name: str, source: str | None = None, type_: str = "integer") -> RouteColumn:
    read = source or name
    return RouteColumn(
        name, sql.Identifier(read).as_string(), frozenset({read}), type_, read, binary=True
    )


def computed(name: str, expression: str, *reads: str) -> RouteColumn:
    return RouteColumn(name, expression, frozenset(reads), "text", None, binary=False)


WHOLE = Route(
    id="shop:public.orders",
    service="shop",
    owner="shop",
    kind=Kind.WHOLE,
    source=SOURCE,
    target=SOURCE.name,
    columns=(plain("id"), plain("state", type_="text"), plain("note", type_="text")),
    key=("id",),
)
ROWS = replace(WHOLE, kind=Kind.ROWS, where="state = 'web'", where_reads=frozenset({"state"}))
COLUMNS = replace(WHOLE, kind=Kind.COLUMNS, columns=WHOLE.columns[:2])
DERIVED = replace(
    WHOLE,
    kind=Kind.DERIVED,
    target=TableName("public", "claim"),
    columns=(
        plain("order_id", "id"), computed("via", "'it''s'"),
        computed("up", "upper(state)", "state"),
    ),
    key=("order_id", "via"),
    fixed=(("via", "'it''s'"),),
)  # fmt: skip
CLAIM = Table(
    name=DERIVED.target, kind="r", columns=(column("order_id"), column("via"), column("up")),
    primary_key=("order_id", "via"),
)  # fmt: skip
PART = replace(SOURCE, columns=SOURCE.columns[:2])


def text(statement: sql.Composable | None) -> str:
    assert statement is not None
    return re.sub(r"\s+", " ", statement.as_string())


def compiled(flow: Flow) -> FlowSQL:
    return FlowSQL(flow, STAGE)


# ------------------------------------------------------------------------- flows


def test_whole_rows_go_forward_and_back_alike() -> None:
    there, here = forward(WHOLE, SOURCE), back(WHOLE, SOURCE)
    for flow in (there, here):
        assert flow.key == ("id",)
        assert flow.whole_rows
        assert flow.identifies
        assert flow.takes_updates
        assert flow.needs_complete_rows == frozenset()
        assert flow.follower_columns == ("id", "state", "note")  # none that is generated


def test_rows_that_are_the_leaders_value_for_value() -> None:
    """What is written straight into the follower: anything that is not so must not be."""
    assert forward(WHOLE, SOURCE).is_plain
    assert back(WHOLE, SOURCE).is_plain
    renamed = replace(WHOLE, columns=(plain("key", "id"), *WHOLE.columns[1:]), key=("key",))
    target = replace(SOURCE, columns=(column("key"), *SOURCE.columns[1:]), primary_key=("key",))
    assert forward(renamed, target).is_plain
    other_form = replace(WHOLE.columns[1], binary=False)
    as_text = replace(WHOLE, columns=(WHOLE.columns[0], other_form, WHOLE.columns[2]))
    assert forward(as_text, SOURCE).is_plain
    assert CompiledFlow(forward(as_text, SOURCE), STAGE).direct is None
    assert CompiledFlow(forward(as_text, SOURCE), STAGE, binary=False).direct is not None
    more = replace(SOURCE, columns=(*SOURCE.columns, column("more")))
    deferrable = replace(SOURCE, key_deferrable=True)
    always = replace(SOURCE, columns=(*SOURCE.columns[:2], column("note", identity="a")))
    for flow in (
        forward(ROWS, SOURCE),
        forward(COLUMNS, PART),  # the leader sends a column that does not flow
        back(COLUMNS, PART),  # the follower has one that does not flow
        forward(DERIVED, CLAIM),
        forward(WHOLE, more),
        forward(WHOLE, always),
        forward(replace(WHOLE, key=()), SOURCE),
        forward(replace(WHOLE, source=replace(SOURCE, primary_key=("state",))), SOURCE),
        forward(replace(WHOLE, source=deferrable), SOURCE),
    ):
        assert not flow.is_plain


def test_a_predicate_is_no_condition_on_the_way_back_but_bounds_a_truncate() -> None:
    there, here = forward(ROWS, SOURCE), back(ROWS, SOURCE)
    assert (there.where, there.extent) == ("state = 'web'", ())
    assert there.needs_complete_rows == {"state"}
    assert (here.where, here.extent) == (None, ("(state = 'web')",))
    assert text(compiled(there).empty) == 'DELETE FROM "public"."orders" WHERE true'
    expected = """DELETE FROM "public"."orders" WHERE (state = 'web')"""
    assert text(compiled(here).empty) == expected


def test_a_part_of_the_columns_is_whole_in_the_target_and_not_in_the_source() -> None:
    assert forward(COLUMNS, PART).whole_rows
    assert not back(COLUMNS, PART).whole_rows


def test_a_renamed_column_finds_its_way_back() -> None:
    renamed = replace(WHOLE, columns=(plain("key", "id"), plain("state")), key=("key",))
    target = replace(SOURCE, columns=(column("key"), column("state")), primary_key=("key",))
    flow = back(renamed, target)
    assert flow.key == ("id",)
    assert [(c.name, c.expression, c.plain) for c in flow.columns] == [
        ("id", '"key"', "key"),
        ("state", '"state"', "state"),
    ]


@pytest.mark.parametrize("kind", [Kind.DERIVED, Kind.REFERENCE])
def test_what_is_not_owned_does_not_flow_back(kind: Kind) -> None:
    with pytest.raises(ValueError, match="nothing flows back"):
        back(replace(WHOLE, kind=kind), SOURCE)


def test_a_computed_column_has_no_way_back() -> None:
    with pytest.raises(ValueError, match=r"column up of route .* has no inverse"):
        back(replace(WHOLE, columns=(plain("id"), computed("up", "upper(state)", "state"))), SOURCE)


def test_a_key_that_is_not_the_leaders_does_not_identify() -> None:
    two = replace(SOURCE, primary_key=("id", "state"))
    cases = {
        "the leader's key": (WHOLE, True),
        "another column": (replace(WHOLE, key=("state",)), False),
        "more than the leader's key": (replace(WHOLE, key=("id", "state")), False),
        "a part of the leader's key": (replace(WHOLE, source=two), False),
        "no leader's key": (replace(WHOLE, source=replace(SOURCE, primary_key=())), False),
        "with a constant": (DERIVED, True),
    }
    for name, (route, identifies) in cases.items():
        assert forward(route, SOURCE).identifies is identifies, name
        assert route.needs_full_identity is not identifies, name
    deferrable = replace(SOURCE, key_deferrable=True)
    assert not forward(replace(WHOLE, source=deferrable), SOURCE).identifies


def test_a_replica_identity_index_is_never_deferrable() -> None:
    table = replace(SOURCE, key_deferrable=True)
    assert table.has_deferrable_key
    chosen = replace(table, replica_identity="i", identity_index_columns=("note",))
    assert not chosen.has_deferrable_key


# --------------------------------------------------------------------------- SQL


def test_whole_rows_are_upserted() -> None:
    assert text(compiled(forward(WHOLE, SOURCE)).upsert) == (
        'INSERT INTO "public"."orders" ("id", "state", "note") OVERRIDING SYSTEM VALUE'
        ' SELECT ("id")::integer, ("state")::text, ("note")::text FROM "stage"'
        f' WHERE {PRESENT} AND "_dbsplit_unchanged" IS NULL AND true'
        ' ON CONFLICT ("id") DO UPDATE SET "state" = excluded."state", "note" = excluded."note"'
    )


def test_nothing_but_a_key_is_only_inserted() -> None:
    only_key = compiled(forward(replace(WHOLE, columns=(plain("id"),)), SOURCE))
    assert text(only_key.upsert).endswith('ON CONFLICT ("id") DO NOTHING')
    assert only_key.update is None
    assert only_key.update_partial is None


def test_values_that_were_not_sent_stay() -> None:
    update = text(compiled(forward(DERIVED, CLAIM)).update)
    assert '"up" = s."up"' in update  # computed from complete rows
    update = text(compiled(forward(WHOLE, SOURCE)).update_partial)
    kept = """"note" = CASE WHEN 'note' = ANY (s."_dbsplit_unchanged") THEN "f"."note" ELSE"""
    assert kept in update
    assert 'AND NOT ("_dbsplit_unchanged" IS NULL)) AS s' in update


def test_rows_that_left_the_predicate_are_deleted_by_key() -> None:
    flow = compiled(forward(ROWS, SOURCE))
    assert text(flow.delete_left) == (
        'DELETE FROM "public"."orders" AS f USING (SELECT ("id")::integer AS "id" FROM "stage"'
        f""" WHERE {PRESENT} AND (state = 'web') IS NOT TRUE) AS s WHERE "f"."id" = "s"."id\""""
    )
    # Of one that is gone only the key is known.
    assert "state = 'web'" not in text(flow.delete_gone)


def test_a_key_that_does_not_identify_is_deleted_by_the_old_row() -> None:
    route = replace(ROWS, key=("note",))
    flow = compiled(forward(route, SOURCE))
    assert flow.delete_left is None
    gone = text(flow.delete_gone)
    assert """"_dbsplit_op" IN ('g', 'b', 'k') AND (state = 'web') EXCEPT SELECT""" in gone
    assert f"{PRESENT} AND (state = 'web')) AS g" in gone


def test_truncating_derived_rows_leaves_those_of_other_routes() -> None:
    flow = compiled(forward(DERIVED, CLAIM))
    assert text(flow.empty) == """DELETE FROM "public"."claim" WHERE "via" = ('it''s')"""


def test_partitions_can_be_emptied_by_themselves_unless_derived() -> None:
    leaf = TableName("public", "orders_2024")
    parted = replace(SOURCE, kind="p", leaves=(leaf,))
    flow = CompiledFlow(forward(WHOLE, parted), STAGE)
    assert flow.empty_leaf(leaf) == (b'DELETE FROM "public"."orders_2024" WHERE true',)
    assert flow.flow.follower_leaves == {leaf}
    assert forward(DERIVED, parted).follower_leaves == frozenset()


def test_no_key_is_a_multiset() -> None:
    route = replace(ROWS, source=replace(SOURCE, primary_key=()), key=())
    flow = compiled(forward(route, SOURCE))
    assert text(flow.add_rows).endswith(
        'FROM "stage" CROSS JOIN LATERAL generate_series(1, "_dbsplit_count")'
        """ AS _dbsplit (_dbsplit_nth) WHERE "_dbsplit_count" > 0 AND (state = 'web')"""
    )
    removed = text(flow.remove_rows)
    assert 'ROW(t."id", t."state", t."note")::text COLLATE "C"' in removed
    assert "o.nth <= o.count" in removed
    assert "'[]'::jsonb" in text(flow.remember_dirty)


def test_rows_are_written_anew_where_no_update_can() -> None:
    always = replace(SOURCE, columns=(*SOURCE.columns[:2], column("note", identity="a")))
    for flow in (
        forward(WHOLE, always),
        forward(replace(WHOLE, source=replace(SOURCE, key_deferrable=True)), SOURCE),
    ):
        assert not flow.takes_updates
        sent = CompiledFlow(flow, STAGE)
        assert sent.add == sent.add_partial == sent.rewrite
    by_default = replace(SOURCE, columns=(*SOURCE.columns[:2], column("note", identity="d")))
    assert forward(WHOLE, by_default).takes_updates
    of_the_key = replace(SOURCE, columns=(column("id", identity="a"), *SOURCE.columns[1:]))
    assert forward(WHOLE, of_the_key).takes_updates


def test_a_key_without_overlaps_is_looked_for_and_not_named_in_on_conflict() -> None:
    temporal = replace(SOURCE, temporal_keys=frozenset({("id",)}))
    assert temporal.has_temporal_key
    for flow in (
        forward(replace(WHOLE, source=temporal), SOURCE),
        forward(WHOLE, temporal),
        back(WHOLE, temporal),
    ):
        assert flow.is_plain
        sent = CompiledFlow(flow, STAGE)
        composed = compiled(flow)
        known = (text(composed.update), text(composed.add_missing))
        assert tuple(one.decode() for one in sent.add) == known
        assert sent.add_partial == sent.add
    chosen = replace(temporal, replica_identity="i", identity_index_columns=("note",))
    assert not chosen.has_temporal_key
    assert forward(replace(WHOLE, source=chosen), chosen).key_arbitrates


def test_what_does_not_flow_is_kept_when_a_row_is_written_anew() -> None:
    flow = compiled(back(COLUMNS, PART))
    old, delete, _, insert, missing, _, drop = map(text, flow.rewrite())
    assert old.startswith("CREATE TEMPORARY TABLE dbsplit_old ON COMMIT DROP AS SELECT f.*")
    assert delete.endswith('USING dbsplit_old AS o WHERE "f"."id" = "o"."id"')
    assert '("id", "state", "note") OVERRIDING SYSTEM VALUE SELECT' in insert
    assert 'o."note" FROM (' in insert
    assert missing.startswith('INSERT INTO "public"."orders" ("id", "state") OVERRIDING')
    assert drop == "DROP TABLE dbsplit_old"


def test_only_owned_rows_are_noted_as_dirty() -> None:
    assert CompiledFlow(forward(DERIVED, CLAIM), STAGE).dirty == ()
    (dirty,) = CompiledFlow(forward(WHOLE, SOURCE), STAGE).dirty
    assert b"""SELECT DISTINCT 'shop:public.orders', jsonb_build_array(k."id"::text)""" in dirty


def test_names_and_expressions_are_never_templates() -> None:
    route = replace(
        ROWS,
        id="%s {} '",
        target=TableName("%s", '{} "'),
        columns=(plain("{id}%s", "id"), computed("up", "'%s {} ' || state", "state")),
        key=("{id}%s",),
        where="state LIKE '%{}%'",
    )
    flow = compiled(forward(route, SOURCE))
    every = [
        flow.delete_gone, flow.delete_left, flow.update, flow.add_missing, flow.upsert,
        flow.remember_dirty, flow.incomplete, flow.empty, *flow.rewrite(),
    ]  # fmt: skip
    said = " ".join(map(text, every))
    assert '"%s"."{} """' in said
    assert """('%s {} ' || state)::text""" in said
    assert "(state LIKE '%{}%')" in said
