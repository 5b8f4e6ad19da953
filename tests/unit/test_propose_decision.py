"""Owners, parts and copies decided from evidence, without a server."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from plans.catalog import Catalog, Column, ForeignKey, Table, TableName
from plans.errors import PlanInvalid
from plans.model import TablePlan
from plans.propose.draft import Draft, TableDraft, propose
from plans.propose.evidence import Evidence, Told
from plans.propose.naming import service_named, service_prefixed
from plans.propose.owners_file import read_owners
from plans.propose.proposal import split_name
from plans.propose.text import plan_text
from plans.propose.yaml_text import block, comment, scalar
from plans.statements.model import Statement, Touch, Verb
from plans.usage.model import (
    Actor,
    ColumnValues,
    Origin,
    Privileges,
    Statistics,
    Touched,
    Usage,
    Used,
    Values,
    Volume,
)

SERVICES = ("crm", "shop")
CRM, SHOP = Actor("crm_api"), Actor("shop_api")
WEEK = Origin(
    name="pg_stat_statements",
    since=datetime(2026, 1, 1, tzinfo=UTC),
    until=datetime(2026, 1, 8, tzinfo=UTC),
)


def named(name: str) -> TableName:
    schema, _, rest = name.rpartition(".")
    return TableName(schema or "public", rest)


def table(name: str, *columns: str, **more: Any) -> Table:
    """A table with an id; "x!" is NOT NULL."""
    held = [
        Column(name=one.rstrip("!"), type="text", is_portable=True, not_null=one.endswith("!"))
        for one in ("id!", *columns)
    ]
    return Table(
        name=named(name), kind="r", columns=tuple(held), **{"primary_key": ("id",), **more}
    )


def key(child: str, column: str, parent: str, on_delete: str = "a") -> ForeignKey:
    return ForeignKey(
        name=f"{child}_{column}_fkey", table=named(child), columns=(column,),
        references=named(parent), referenced_columns=("id",), definition="", on_update="a",
        on_delete=on_delete,
    )  # fmt: skip


def used(
    actor: Actor, verb: Verb, name: str, columns: Iterable[str] = (), calls: float = 70
) -> Used:
    touch = Touch(named(name), frozenset(columns), writes=verb != "select")
    statement = Statement(f"{verb} {name}", 1, verb, (touch,))
    return Used(statement=statement, actor=actor, origin=WEEK.name, place="x", calls=calls)


def evidence(
    tables: Iterable[Table],
    *uses: Used,
    keys: Iterable[ForeignKey] = (),
    together: Iterable[tuple[str, str]] = (),
    inserted: Any = None,
    **more: Any,
) -> Evidence:
    held = {one.name: one for one in tables}
    catalog = Catalog(
        server_version=180000, database="shared",
        schemas=tuple(sorted({"public", *(name.schema for name in held)})),
        tables=dict(sorted(held.items())), foreign_keys=tuple(keys),
    )  # fmt: skip
    usage = Usage(
        origins=(WEEK,) if uses else (), used=uses, inserted=inserted or {},
        together={(named(one), named(other)): 3 for one, other in together},
    )  # fmt: skip
    return Evidence(**{"services": SERVICES, "catalog": catalog, "usage": usage, **more})


def drafted(found: Evidence) -> dict[str, TableDraft]:
    return {one.written: one for one in propose("shared", found).tables}


def owners(found: Evidence) -> dict[str, str]:
    return {name: one.owned.owner for name, one in drafted(found).items()}


def entry(found: Evidence, name: str) -> dict[str, Any]:
    return dict(drafted(found)[name].shape.entry)


@pytest.mark.parametrize(
    ("name", "service"),
    [("shop_api", "shop"), ("ShopAPI", "shop"), ("appshop", "shop"), ("crm-shop", None),
     ("mes_api", None), ("shop_admin_api", "shop-admin"), ("workshopper", "shop")],
)  # fmt: skip
def test_a_role_is_the_service_s_that_it_is_named_after(name: str, service: str | None) -> None:
    assert service_named(name, ("crm", "shop", "shop-admin")) == service


def test_a_table_begins_with_a_service_s_name_or_does_not() -> None:
    assert service_prefixed("crm_orders", SERVICES) == "crm"
    assert service_prefixed("order_crm", SERVICES) is None


def test_who_writes_owns_and_others_who_read_get_a_copy() -> None:
    found = evidence(
        [table("rates")], used(SHOP, "update", "rates", ["x"]), used(CRM, "select", "rates")
    )
    draft = drafted(found)["rates"]
    assert dict(draft.shape.entry) == {"owner": "shop", "reference_in": ["crm"]}
    assert draft.confidence > 0.8
    assert "shop_api 10 writes/day" in draft.reasons


def test_whoever_writes_seldom_is_told_to_a_person() -> None:
    found = evidence(
        [table("rates", "x")], used(SHOP, "update", "rates", ["x"], 700),
        used(CRM, "update", "rates", ["x"], 7),
    )  # fmt: skip
    draft = drafted(found)["rates"]
    assert dict(draft.shape.entry) == {"owner": "shop"}
    assert draft.decide == ("crm writes it too, seldom",)


def test_large_tables_that_are_often_written_are_not_copied() -> None:
    large = table("events", size_bytes=2**40)
    found = evidence([large], used(SHOP, "insert", "events"), used(CRM, "select", "events"))
    assert entry(found, "events") == {"owner": "shop"}


def test_children_follow_their_parents() -> None:
    tables = [table("orders"), table("items", "order_id!"), table("notes", "item_id!")]
    keys = [key("items", "order_id", "orders", "c"), key("notes", "item_id", "items", "c")]
    found = evidence(tables, used(SHOP, "insert", "orders"), keys=keys)
    drafts = drafted(found)
    assert owners(found) == {"orders": "shop", "items": "shop", "notes": "shop"}
    assert drafts["orders"].confidence > drafts["items"].confidence > drafts["notes"].confidence


def test_without_any_evidence_the_first_service_has_all_and_a_person_decides() -> None:
    draft = propose("shared", evidence([table("a"), table("b")]))
    assert {one.owned.owner for one in draft.tables} == {"crm"}
    assert {about for about, _ in draft.decide} == {"a", "b"}
    assert any("--owners" in note for note in draft.notes)


def test_grants_tell_owners_where_they_differ() -> None:
    tables = [table("a"), table("b"), table("c")]
    writers = {"a": {"crm_api"}, "b": {"shop_api"}, "c": {"crm_api", "shop_api"}}
    rights = Privileges(writers={named(name): frozenset(roles) for name, roles in writers.items()})
    found = evidence(tables, statistics=Statistics(privileges=rights))
    drafts = drafted(found)
    assert (drafts["a"].owned.owner, drafts["b"].owned.owner) == ("crm", "shop")
    assert [one for one in drafts if drafts[one].decide] == ["c"]


def test_names_of_schemas_and_tables_tell_owners() -> None:
    found = evidence([table("shop.x"), table("crm_notes"), table("y")])
    assert owners(found)["x"] == "shop"
    assert owners(found)["crm_notes"] == "crm"


def test_a_role_of_no_name_works_for_the_service_whose_tables_it_shares() -> None:
    tables = [table("jobs", "order_id!"), table("orders"), table("leads")]
    mes = Actor("mes_api")
    found = evidence(
        tables, used(SHOP, "insert", "orders"), used(CRM, "insert", "leads"),
        used(mes, "insert", "jobs"), keys=[key("jobs", "order_id", "orders")],
    )  # fmt: skip
    draft = propose("shared", found)
    assert draft.roles.by_name["mes_api"] == "shop"
    assert [role.name for role in draft.unsure_roles] == ["mes_api"]
    told = Evidence(**{**fields(found), "roles": {"mes_api": "crm"}})
    assert owners(told)["jobs"] == "crm"
    assert not propose("shared", told).unsure_roles


def fields(found: Evidence) -> dict[str, Any]:
    return {name: getattr(found, name) for name in Evidence.__dataclass_fields__}


def test_one_role_for_everything_tells_nothing() -> None:
    found = evidence([table("a"), table("b")], used(Actor("app"), "insert", "a"))
    draft = propose("shared", found)
    assert draft.roles.by_name == {}
    assert ("role app") in {about for about, _ in draft.decide}
    assert all(one.decide for one in draft.tables)


def test_tables_that_one_transaction_writes_stay_together_or_that_is_said() -> None:
    tables = [table("orders"), table("log"), table("leads")]
    uses = [used(SHOP, "insert", "orders"), used(CRM, "insert", "leads")]
    found = evidence(tables, *uses, together=[("log", "orders"), ("leads", "orders")])
    draft = propose("shared", found)
    assert owners(found)["log"] == "shop"
    assert draft.groups == (("leads", "log", "orders"),)
    assert draft.parted == (("leads", "orders", 3),)


CUSTOMER_USES = (
    used(SHOP, "insert", "customers", ["email"]),
    used(SHOP, "update", "customers", ["email", "login"], 700),
    used(CRM, "update", "customers", ["phone"], 7),
)


def test_columns_are_split_by_who_writes_them() -> None:
    customers = table("customers", "email", "login", "phone", "crm_notes", "fax", "read_at")
    found = evidence(
        [customers], *CUSTOMER_USES, used(CRM, "select", "customers", ["read_at"]),
        statistics=Statistics(touched=(Touched(named("customers"), frozenset({"phone", "fax"})),)),
    )  # fmt: skip
    assert entry(found, "customers") == {
        "split_columns": {
            "shop": ["id", "email", "login"],
            "crm": ["id", "phone", "crm_notes", "fax", "read_at"],
        }
    }


def test_generated_columns_go_where_all_is_that_they_read() -> None:
    def generated(name: str, text: str) -> Column:
        return Column(name=name, type="text", is_portable=True, generated=text, generated_kind="s")

    plain = table("customers", "email", "login", "phone")
    whole = Table(**{**slots(plain), "columns": (*plain.columns, generated("tel", "phone || 'x'"))})
    parts = entry(evidence([whole], *CUSTOMER_USES), "customers")["split_columns"]
    assert parts["crm"] == ["id", "phone", "tel"]
    across = Table(
        **{**slots(plain), "columns": (*plain.columns, generated("g", "phone || email"))}
    )
    draft = drafted(evidence([across], *CUSTOMER_USES))["customers"]
    assert dict(draft.shape.entry) == {"owner": "shop"}
    assert "generated" in draft.decide[0]


def slots(one: Table) -> dict[str, Any]:
    return {name: getattr(one, name) for name in Table.__dataclass_fields__}


@pytest.mark.parametrize(
    ("customers", "more", "why"),
    [
        (table("customers", "email", "login", "phone", primary_key=()), [], "no key"),
        (
            table("customers", "email", "login", "phone"),
            [used(CRM, "insert", "customers")],
            "insert",
        ),
        (
            table("customers", "email", "login", "phone"),
            [used(CRM, "update", "customers", ["login"], 700)],
            "login",
        ),
    ],
)
def test_columns_that_cannot_be_split_are_for_a_person(
    customers: Table, more: list[Used], why: str
) -> None:
    draft = drafted(evidence([customers], *CUSTOMER_USES, *more))["customers"]
    assert dict(draft.shape.entry) == {"owner": "shop"}
    assert why in draft.decide[0]


CALL_USES = (
    used(SHOP, "insert", "calls", ["channel"]),
    used(CRM, "insert", "calls", ["channel"], 700),
)


def inserted(crm: Values, shop: Values) -> dict[tuple[TableName, str, Actor], Values]:
    return {(named("calls"), "channel", CRM): crm, (named("calls"), "channel", SHOP): shop}


def test_rows_are_split_where_every_insert_was_seen_and_values_differ() -> None:
    values = inserted(Values(frozenset({"fax", "it's"})), Values(frozenset({"web"})))
    found = evidence([table("calls", "channel!")], *CALL_USES, inserted=values)
    assert entry(found, "calls") == {
        "split_rows": {"shop": "channel = 'web'", "crm": "channel <> 'web'"}
    }


@pytest.mark.parametrize(
    ("column", "values", "suggested"),
    [
        ("channel!", inserted(Values(frozenset({"fax"}), others=True), Values(frozenset({"web"}))),
         "split_rows: {shop: \"channel = 'web'\", crm: \"channel <> 'web'\"}"),
        ("channel!", inserted(Values(frozenset({"web"})), Values(frozenset({"web"}))),
         'split_rows: {shop: "channel IN (…)", crm: "channel IN (…)"}  # of \'fax\', \'web\''),
        ("channel", inserted(Values(frozenset({"fax"})), Values(frozenset({"web"}))), None),
    ],
)  # fmt: skip
def test_rows_that_are_not_known_to_differ_are_only_suggested(
    column: str, values: Any, suggested: str | None
) -> None:
    statistics = Statistics(columns={(named("calls"), "channel"): ColumnValues(2, ("fax", "web"))})
    found = evidence([table("calls", column)], *CALL_USES, inserted=values, statistics=statistics)
    draft = drafted(found)["calls"]
    assert dict(draft.shape.entry) == {"owner": "crm"}
    assert draft.decide
    assert (draft.shape.candidates[:1] == ()) is (suggested is None)
    assert all(one.startswith(suggested or "") for one in draft.shape.candidates[:1])


def test_what_the_server_counted_is_told_once_it_speaks_of_days() -> None:
    volumes = {named("a"): Volume(300, 70), named("b"): Volume(0, 7)}
    said = []
    for days in (0.5, 7):
        statistics = Statistics(volumes=volumes, counted_days=days)
        drafts = drafted(evidence([table("a"), table("b")], statistics=statistics))
        said += [drafts["a"].counted, drafts["b"].counted]
    assert said == [
        "", "", "43 rows written and 10 read a day", "no row written in 7 days, 1 read a day",
    ]  # fmt: skip


def test_what_is_told_holds_against_all_evidence_which_is_said() -> None:
    told = {named("rates"): Told(TablePlan(owner="crm"), "owners.yaml:1:8")}
    found = evidence([table("rates")], used(SHOP, "insert", "rates"), told=told)
    draft = propose("shared", found)
    assert owners(found) == {"rates": "crm"}
    assert draft.contradictions == (("rates", "told to be crm's, but shop_api 10 writes/day"),)
    assert "against it: shop_api" in plan_text(draft)


def test_a_partial_owners_file_leads_to_the_tables_around() -> None:
    tables = [table("orders"), table("items", "order_id!"), table("leads")]
    told = {named("orders"): Told(TablePlan(owner="shop"), "o:1:1")}
    found = evidence(tables, keys=[key("items", "order_id", "orders", "c")], told=told)
    assert owners(found)["items"] == "shop"


def test_the_same_evidence_gives_the_same_plan_in_whatever_order_it_came() -> None:
    tables = [table(f"t{n}", "a", "b") for n in range(9)]
    keys = [key(f"t{n}", "a", f"t{n // 2}") for n in range(1, 9)]
    uses = [used(actor, "update", f"t{n}", ["a"], n) for n in range(5) for actor in (CRM, SHOP)]
    first = plan_text(propose("shared", evidence(tables, *uses, keys=keys)))
    other = plan_text(propose("shared", evidence(tables[::-1], *uses[::-1], keys=keys)))
    assert first == other


def test_a_plan_with_odd_names_reads_back_as_it_was_meant() -> None:
    odd = ["null", "yes", 'say "hi"', "new\nline", "Öl: #1", "1e5", "a-b", "Order", "x y"]
    draft: Draft = propose("shared", evidence([table(name) for name in odd]))
    data = YAML(typ="safe").load(plan_text(draft))
    assert set(data["tables"]) == set(odd)
    assert set(data["tables"].values()) == {"crm"}
    assert data["services"]["shop"] == {"dsn": "${DBSPLIT_SHOP_DSN}"}


@pytest.mark.parametrize(
    "text", ["", "~", "true", "0x1", "a: b", "# c", "\u2028", "\x85", "'", "-"]
)
def test_scalars_are_quoted_where_they_could_be_something_else(text: str) -> None:
    assert YAML(typ="safe").load(f"x: {scalar(text)}")["x"] == text


def test_long_values_take_several_lines_and_comments_are_wrapped() -> None:
    value = {"a": ["column_name"] * 12, "b": "x" * 90}
    text = "\n".join(block("key", value, 0))
    assert YAML(typ="safe").load(text) == {"key": value}
    assert all(len(line) <= 100 for line in comment("word " * 80, 2, 2))


@pytest.mark.parametrize(
    ("database", "name"),
    [
        ("CRM Shop", "crm-shop"),
        ("1x", "x"),
        ("größe", "gr-e"),
        ("___", "split"),
        ("a" * 80, "a" * 31),
    ],
)
def test_a_split_s_name_comes_from_the_database_s(database: str, name: str) -> None:
    assert split_name(database, SERVICES) == name


CATALOG = evidence([table("orders"), table("leads"), table('"odd"')]).catalog


@pytest.mark.parametrize(
    "text",
    ["orders: shop\npublic.leads: crm\n", "case: x\ntables:\n  public.orders: shop\n  leads: crm\n",
     'tables: {\'public."orders"\': {owner: shop}, leads: crm}\ninfra: [orders]\n'],
)  # fmt: skip
def test_an_owners_file_may_be_written_in_two_ways(tmp_path: Path, text: str) -> None:
    (tmp_path / "o.yaml").write_text(text)
    found = read_owners(tmp_path / "o.yaml", CATALOG, SERVICES)
    assert {name.name: told.services for name, told in found.told.items()} == {
        "orders": ("shop",), "leads": ("crm",),
    }  # fmt: skip


def test_all_that_is_wrong_in_an_owners_file_is_said_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "o.yaml").write_text(
        "orders: shpo\nledas: crm\npublic.orders: shop\n"
        "leads: {split_columns: {crm: [id], orchestrator: [id]}, owner: crm}\n"
        "reference: [nothing]\n"
    )
    with pytest.raises(PlanInvalid) as error:
        read_owners(tmp_path / "o.yaml", CATALOG, SERVICES)
    said = str(error.value)
    for one in (
        "o.yaml:1:9: tables.orders.owner: 'shpo' isn't among --services (crm, shop);"
        " did you mean 'shop'?",
        "o.yaml:2:1: tables.ledas: there is no table 'ledas'",
        "did you mean 'leads'?",
        "o.yaml:3:1: tables.public.orders: public.orders stands here twice",
        "'orchestrator' isn't among --services",
        "has owner and split_columns",
        "o.yaml:5:13: reference[0]: there is no table 'nothing'",
    ):
        assert one in said
