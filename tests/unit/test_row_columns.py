"""Which columns of the row a trigger sets, read from its function."""

from __future__ import annotations

from dataclasses import replace

from plans.catalog import TableName
from plans.statements.parts import Routine, Trigger
from plans.statements.row_columns import columns_set

BODY = """
CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE n int; other record;
BEGIN
    IF TG_OP = 'UPDATE' AND OLD.read IS NOT NULL THEN
        NEW."Changed At" := now();
        SELECT 1, 2 INTO n, NEW.seen;
        other.nothing := 3;
    END IF;
    n := NEW.read;
    RETURN NEW;
END $$
"""
ROUTINE = Routine(schema="public", name="f", language="plpgsql", definition=BODY)
TRIGGER = Trigger(
    "t", TableName("public", "orders"), frozenset({"update"}), ROUTINE, before_row=True
)


def test_what_is_assigned_to_new_is_set() -> None:
    assert columns_set(TRIGGER) == {"Changed At", "seen"}


def test_a_trigger_after_the_row_or_for_a_statement_sets_nothing() -> None:
    assert columns_set(replace(TRIGGER, before_row=False)) == frozenset()


def test_the_server_s_own_module_is_told_the_column() -> None:
    spi = Routine(schema="public", name="moddatetime", language="c", of_extension=True)
    by_argument = replace(TRIGGER, routine=spi, arguments=("changed_at",))
    assert columns_set(by_argument) == {"changed_at"}


def test_what_cannot_be_read_sets_nothing_that_is_known() -> None:
    odd = replace(ROUTINE, definition="CREATE FUNCTION f() RETURNS trigger AS $$ BEGIN ( $$")
    assert columns_set(replace(TRIGGER, routine=odd)) == frozenset()
