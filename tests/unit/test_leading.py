"""What of a table is on one side alone, while a service leads it, and how both agree again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from plans.catalog import Column, Table, TableName
from plans.load import Plan, load_plan
from toolkit.leading import disagreements

NAME = TableName("public", "t")
BEFORE = {
    "columns": {"id": ["integer", True, None], "v": ["text", False, None]},
    "key": ["id"],
}
PLAN = """\
split: x
source: {dsn: "dbname=x"}
services:
  a: {dsn: "dbname=a"}
  b: {dsn: "dbname=b"}
tables:
  t: TABLE
"""


def column(name: str, type_: str = "text", *, not_null: bool = False) -> Column:
    return Column(name=name, type=type_, is_portable=True, not_null=not_null)


ID, V, MORE = column("id", "integer", not_null=True), column("v"), column("more")


def table(*columns: Column, key: tuple[str, ...] = ("id",)) -> Table:
    return Table(name=NAME, kind="r", columns=columns, primary_key=key)


def plan(directory: Path, entry: str = "a", more: str = "") -> Plan:
    path = directory / "plan.yaml"
    path.write_text(PLAN.replace("TABLE", entry) + more)
    return load_plan(path, {})


@pytest.mark.parametrize(
    ("source", "service", "remedy"),
    [
        (table(ID, V), table(ID, V), ""),
        (table(ID, V, MORE), table(ID, V), 'or in the database of a: ALTER TABLE "public"."t" ADD'),
        (table(ID, V), table(ID, V, MORE), 'on the source, nullable: ALTER TABLE "public"."t"'),
        (table(ID, V, MORE), table(ID, V, MORE), ""),
        (table(ID), table(ID, V), 'ADD COLUMN "v" text'),
        (table(ID), table(ID), ""),
        (table(ID, column("v", "integer")), table(ID, V), 'ALTER COLUMN "v" TYPE text'),
        (table(ID, V), table(ID, column("v", "integer")), ""),  # so it was before the cutover
        (table(ID, column("v", not_null=True)), table(ID, V), 'ALTER COLUMN "v" DROP NOT NULL'),
        (table(ID, V, key=("v",)), table(ID, V), "one primary key on both sides"),
    ],
)  # fmt: skip
def test_each_disagreement_has_a_way_out(
    source: Table, service: Table, remedy: str, tmp_path: Path
) -> None:
    found = list(disagreements(plan(tmp_path), "a", source, service, BEFORE))
    assert [remedy in one.remedy for one in found] == ([True] if remedy else []), found


def test_a_column_of_the_source_is_offered_with_its_default(tmp_path: Path) -> None:
    """Or the literal remedy would leave NULLs there, and ask for another one."""
    prio = replace(column("prio", "integer", not_null=True), default="3")
    (found,) = disagreements(plan(tmp_path), "a", table(ID, V, prio), table(ID, V), BEFORE)
    assert found.remedy.endswith('ADD COLUMN "prio" integer DEFAULT 3 NOT NULL')
    bare = replace(prio, default=None)
    (found,) = disagreements(plan(tmp_path), "a", table(ID, V, bare), table(ID, V), BEFORE)
    assert found.remedy.endswith('ADD COLUMN "prio" integer')


def test_the_other_services_columns_are_none_of_its_business(tmp_path: Path) -> None:
    split = plan(tmp_path, "{split_columns: {a: [id, v], b: [id, more]}}")
    source = table(ID, V, MORE, column("new"))
    assert list(disagreements(split, "a", source, table(ID, V), BEFORE)) == []


def test_what_the_plan_ignores_may_stay_behind(tmp_path: Path) -> None:
    split = plan(tmp_path, more="ddl: {added_columns: ignore}\n")
    needed = column("needed", not_null=True)
    source = table(ID, V, MORE, needed)
    (one,) = disagreements(split, "a", source, table(ID, V), BEFORE)
    assert "needed" in one.said
