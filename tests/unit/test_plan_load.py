"""Bad plans: everything that is wrong is said at once, with place and remedy."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from plans.errors import PlanInvalid
from plans.load import Plan, load_plan
from plans.plan_schema import SCHEMA_FILE, schema_text
from plans.problems import PlanProblems

ENV = {"SOURCE": "postgresql://dba@db/shared", "CRM": "dbname=crm", "SHOP": "dbname=shop"}
HEAD = """\
split: crm-shop
source: {dsn: "${SOURCE}"}
services:
  crm: {dsn: "${CRM}", roles: [crm_api]}
  shop: {dsn: "${SHOP}"}
"""
HEAD_LINES = HEAD.count("\n")


def load(directory: Path, text: str, env: dict[str, str] | None = None) -> Plan:
    path = directory / "plan.yaml"
    path.write_text(text, encoding="utf-8")
    return load_plan(path, ENV if env is None else env)


def problems(directory: Path, text: str, env: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(PlanProblems) as raised:
        load(directory, text, env)
    assert isinstance(raised.value, PlanInvalid)
    assert raised.value.exit_code == 3
    said = [str(problem).removeprefix(f"{directory}/") for problem in raised.value.problems]
    assert all(str(problem) in str(raised.value) for problem in raised.value.problems)
    return said


def test_a_plan_in_short_and_long_form(tmp_path: Path) -> None:
    plan = load(
        tmp_path,
        HEAD
        + """\
tables:
  leads: crm
  old: drop
  products: {owner: shop, reference_in: [crm], drop: [legacy]}
  customers: {split_columns: {crm: [id, name], shop: [id, email]}}
  visits: {split_rows: {crm: "a = 1", drop: "a <> 1"}}
""",
    )
    assert (plan.split, plan.slug) == ("crm-shop", "crm_shop")
    assert plan.source.dsn == ENV["SOURCE"]
    assert plan.source.schemas == ("public",)
    assert plan.services["crm"].roles == ("crm_api",)
    assert plan.tables["leads"].owner == "crm"
    assert plan.tables["old"].dropped
    assert plan.tables["products"].drop == ("legacy",)
    assert plan.limits.lag_bytes_max == 1_048_576
    assert plan.limits.dirty_keys_max == 100_000
    assert plan.sequences.gap == 1000
    assert plan.switch.kind == "none"
    assert plan.place(("tables", "leads")).endswith(f"plan.yaml:{HEAD_LINES + 2}:10")


def test_revisions_lie_beside_the_plan(tmp_path: Path) -> None:
    (tmp_path / "revisions").mkdir()
    text = HEAD.replace('shop: {dsn: "${SHOP}"', 'shop: {dsn: "${SHOP}", revisions: revisions')
    assert load(tmp_path, text).services["shop"].revisions == tmp_path / "revisions"
    assert problems(tmp_path, text.replace("revisions: revisions", "revisions: revision")) == [
        "plan.yaml:5:37: services.shop.revisions: there is no directory"
        f" '{tmp_path}/revision'; the path is relative to the plan file"
    ]


def test_the_digest_is_of_what_prepare_depends_on(tmp_path: Path) -> None:
    digest = load(tmp_path, HEAD + "tables: {leads: crm}\n").digest
    assert load(tmp_path, HEAD + "# why\ntables: {leads: {owner: crm}}\n").digest == digest
    assert load(tmp_path, HEAD + "tables: {leads: crm}\nlimits: {lock_timeout_ms: 9}\n").digest == (
        digest
    )
    assert load(tmp_path, HEAD + "tables: {leads: crm}\n", ENV | {"CRM": "dbname=n"}).digest == (
        digest
    )
    assert load(tmp_path, HEAD + "tables: {leads: shop}\n").digest != digest


def test_an_expanded_dsn_is_not_shown(tmp_path: Path) -> None:
    plan = load(tmp_path, HEAD, ENV | {"CRM": "postgresql://u:s3cret@h/crm"})
    assert "s3cret" in plan.services["crm"].dsn
    assert "s3cret" not in repr(plan)


SHAPES = [
    ("table: {leads: crm}", "6:1: table: unknown key 'table'; did you mean 'tables'?"),
    (
        "tables: {leads: {ownr: crm}}",
        "6:18: tables.leads.ownr: unknown key 'ownr'; did you mean 'owner'?",
    ),
    (
        "tables: {leads: crmm}",
        "6:17: tables.leads.owner: there is no service 'crmm'; did you mean 'crm'?",
    ),
    (
        "tables: {leads: 5}",
        "6:17: tables.leads: found 5; expected a mapping (key: value)",
    ),
    (
        "tables: {leads: {owner: crm, derive: [{into: shop.x, key: {a: 1}}]}}",
        "6:63: tables.leads.derive[0].key.a: found 1; input should be a valid string",
    ),
    (
        "tables: {leads: {owner: crm, derive: [{into: shop, key: {a: b}}]}}",
        "6:46: tables.leads.derive[0].into: found 'shop'; write service.table or"
        " service.schema.table",
    ),
    (
        "tables: {leads: {owner: crm, derive: [{into: shp.x, key: {a: b}}]}}",
        "6:46: tables.leads.derive[0].into: there is no service 'shp'; did you mean 'shop'?",
    ),
    (
        "tables: {leads: {owner: crm, derive: [{key: {a: b}}]}}",
        "6:39: tables.leads.derive[0].into: is missing",
    ),
    (
        "tables: {leads: {owner: crm, derive: [{into: shop.x, key: {a: b}, columns: {a: c}}]}}",
        "6:80: tables.leads.derive[0].columns.a: 'a' is in the key too; take it out of one of them",
    ),
    (
        "tables: {leads: {owner: crm, split_rows: {crm: a, shop: b}}}",
        "6:17: tables.leads: has owner and split_rows; every row and column has one owner",
    ),
    (
        "tables: {leads: {drop: [a]}}",
        "6:17: tables.leads: has no owner; name one (owner: service, split_columns, split_rows)"
        " or leave it behind (owner: drop)",
    ),
    (
        "tables: {leads: {split_columns: {crm: [id], shp: [id]}}}",
        "6:50: tables.leads.split_columns.shp: there is no service 'shp'; did you mean 'shop'?",
    ),
    (
        "tables: {leads: {split_columns: {crm: [id, a, a], shop: [id]}}}",
        "6:47: tables.leads.split_columns.crm[2]: 'a' stands here twice; keep one of them",
    ),
    (
        "tables: {leads: {owner: crm, reference_in: [crm]}}",
        "6:44: tables.leads.reference_in: crm owns the table; name others",
    ),
    (
        "tables: {leads: {owner: drop, reference_in: [crm]}}",
        "6:45: tables.leads.reference_in: a read-only copy needs a table with one owner;"
        " name it (owner: SERVICE), or take reference_in out",
    ),
    (
        "tables: {leads: crm, leads: shop}",
        "6:22: tables.leads: 'leads' stands here twice; keep one of them",
    ),
    (
        "foreign_keys: {f: {replace_with: nothing}}",
        "6:34: foreign_keys.f.replace_with: found 'nothing'; one of: none, orphan_check, reference",
    ),
    (
        "limits: {lag_bytes_max: 0}",
        "6:25: limits.lag_bytes_max: found 0; input should be greater than 0",
    ),
    (
        "limits: {lag_byte_max: 1}",
        "6:10: limits.lag_byte_max: unknown key 'lag_byte_max'; did you mean 'lag_bytes_max'?",
    ),
    (
        "switch: {kind: comand}",
        "6:9: switch: unknown kind 'comand'; did you mean 'command'?",
    ),
    ("switch: {timeout_s: 1}", "6:9: switch: 'kind' is missing; one of: command, none, pgbouncer"),
    (
        "switch: {kind: command, comand: [a]}",
        "6:25: switch.comand: unknown key 'comand'; did you mean 'command'?",
    ),
    (
        "switch: {kind: pgbouncer, admin_dsn: dbname=pgbouncer, databases: {crmm: x}}",
        "6:74: switch.databases.crmm: there is no service 'crmm'; did you mean 'crm'?",
    ),
    (
        "lists: {odd: {on: sorce, query: SELECT 1}}",
        "6:19: lists.odd.on: there is no service 'sorce'; did you mean 'source'?",
    ),
    ("tables: []", "6:9: tables: found a list; expected a mapping (key: value)"),
    ("tables:", "6:1: tables: found nothing; expected a mapping (key: value)"),
]


@pytest.mark.parametrize(("line", "message"), SHAPES, ids=[line for line, _ in SHAPES])
def test_what_is_wrong_where(tmp_path: Path, line: str, message: str) -> None:
    assert f"plan.yaml:{message}" in problems(tmp_path, f"{HEAD}{line}\n")


def test_everything_is_said_at_once(tmp_path: Path) -> None:
    text = """\
split: Crm
source: {dsn: "${NOWHERE}"}
services:
  crm: {dsn: "${CRM}", rolls: [a]}
  shop: {dsn: "host=db password=hunter2"}
tables:
  leads: crmm
  leads: shop
  orders: {owner: shop, reference: [crm]}
limits: {lag_bytes_max: much}
"""
    said = problems(tmp_path, text)
    assert [one.split(": ")[0] for one in said] == [
        "plan.yaml:1:8", "plan.yaml:2:15", "plan.yaml:4:24", "plan.yaml:5:15",
        "plan.yaml:7:10", "plan.yaml:8:3", "plan.yaml:9:25", "plan.yaml:10:25",
    ]  # fmt: skip
    assert "hunter2" not in "\n".join(said)


def test_a_missing_variable_is_named_with_the_remedy(tmp_path: Path) -> None:
    assert problems(tmp_path, HEAD, {"SOURCE": "dbname=a", "CRM": " "}) == [
        "plan.yaml:4:14: services.crm.dsn: the environment variable CRM is empty;"
        " export CRM='postgresql://user@host/database'",
        "plan.yaml:5:15: services.shop.dsn: the environment variable SHOP is not set;"
        " export SHOP='postgresql://user@host/database'",
    ]


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://u:hunter2@h/db", "postgresql://u@h/db?password=hunter2",
        "host=h password=hunter2", "host=h password='${SHOP}hunter2'", "sslpassword=hunter2",
    ],
)  # fmt: skip
def test_a_literal_password_is_refused_and_not_repeated(tmp_path: Path, dsn: str) -> None:
    (said,) = problems(tmp_path, HEAD.replace("${SHOP}", dsn))
    assert "secrets belong in the environment" in said
    assert "hunter2" not in said


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://u@h/db", "postgresql://u:${PW}@h:${PORT}/db", "host=h password=${PW}",
        "service=shop", "${SHOP}",
    ],
)  # fmt: skip
def test_a_dsn_without_secret_is_accepted(tmp_path: Path, dsn: str) -> None:
    plan = load(tmp_path, HEAD.replace("${SHOP}", dsn), ENV | {"PW": "hunter2", "PORT": "5433"})
    assert "${" not in plan.services["shop"].dsn


def test_a_malformed_dsn_from_the_environment_is_not_repeated(tmp_path: Path) -> None:
    (said,) = problems(tmp_path, HEAD, ENV | {"SHOP": "hunter2"})
    assert "isn't a connection string (with SHOP filled in)" in said
    assert "hunter2" not in said


@pytest.mark.parametrize(
    ("crm", "shop", "is_same"),
    [
        ("dbname=a", "postgresql:///a", True),
        ("host=h dbname=a", "postgresql://other@h:5432/a", True),
        ("host=h dbname=a", "host=h port=5433 dbname=a", False),
        ("service=a", "service=b", False),
        ("postgresql://dba@db/shared", "dbname=b", True),  # the source's
    ],
)
def test_each_database_is_named_once(tmp_path: Path, crm: str, shop: str, is_same: bool) -> None:  # noqa: FBT001
    env = ENV | {"CRM": crm, "SHOP": shop}
    if is_same:
        (said,) = problems(tmp_path, HEAD, env)
        assert "the same database as" in said
    else:
        load(tmp_path, HEAD, env)


@pytest.mark.parametrize("name", ["Crm", "1crm", "c" * 32, "crm shop", "crm.shop", "'crm;drop'"])
def test_names_that_cannot_be_part_of_a_slots_name(tmp_path: Path, name: str) -> None:
    (said,) = problems(tmp_path, HEAD.replace("crm-shop", name))
    assert "which cannot be part of a slot's name" in said


def test_names_that_are_too_long_together(tmp_path: Path) -> None:
    text = HEAD.replace("crm-shop", "s" * 31).replace("  shop:", f"  {'t' * 31}:")
    (said,) = problems(tmp_path, text)
    assert "13 characters too long" in said


@pytest.mark.parametrize(
    ("crm", "shop", "what"),
    [
        ("a-b", "a_b", "slot"),
        ("a", "a_back", "replication origin"),
        ("a_repair", "a", "replication origin"),
        ("a", "a-refresh", "replication origin"),
        ("a-b", "a_b_back_repair", "replication origin"),
        ("a_back", "a_back_repair", "replication origin"),
        ("a", "a_b", None),
        ("back", "refresh", None),
    ],
)
def test_no_two_services_name_the_same(
    tmp_path: Path, crm: str, shop: str, what: str | None
) -> None:
    text = HEAD.replace("crm:", f"{crm}:").replace("  shop:", f"  {shop}:")
    text = text.replace(": crm", f": {crm}").replace(": shop", f": {shop}")
    if what is None:
        load(tmp_path, text, ENV)
    else:
        (said,) = problems(tmp_path, text)
        assert f"'{shop}' and '{crm}' would name the same {what}" in said


@pytest.mark.parametrize("name", ["drop", "source"])
def test_names_with_a_meaning(tmp_path: Path, name: str) -> None:
    (said,) = problems(tmp_path, HEAD.replace("  shop:", f"  {name}:"))
    assert "has a meaning of its own" in said


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"split: [a\nsource: b\n", "isn't readable YAML"),
        (b"split: \xff\n", "isn't UTF-8: byte 7"),
        (b"", "found nothing; expected a mapping"),
        (b"- a\n", "found a list; expected a mapping"),
        (b"split: *nowhere\n", "isn't readable YAML"),
        (b"split: !!python/object:os.system a\n", "isn't readable YAML"),
        (b"split: &a [*a]\n", "found a list"),
    ],
)
def test_files_that_are_no_plan(tmp_path: Path, raw: bytes, said: str) -> None:
    path = tmp_path / "plan.yaml"
    path.write_bytes(raw)
    with pytest.raises(PlanInvalid, match=said):
        load_plan(path, ENV)


def test_aliases_of_aliases_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("plans.places.ENTRIES_MAX", 10_000)
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    with pytest.raises(PlanInvalid, match="more than 10000 entries"):
        load(tmp_path, "\n".join(lines))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_plan(tmp_path / "plan.yaml", ENV)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text("ab${}':-. ", max_size=8)
    | st.sampled_from(["crm", "drop", "owner", "split_rows", "${CRM}", "a.b"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            ["split", "source", "services", "tables", "dsn", "owner", "split_columns", "crm",
             "split_rows", "derive", "into", "key", "switch", "kind", "lists", "limits", "x"]
        )
        | st.integers(0, 3),
        inner,
        max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip


@given(value=VALUES)
def test_no_file_is_a_bug(tmp_path_factory: pytest.TempPathFactory, value: object) -> None:
    path = tmp_path_factory.mktemp("plan") / "plan.yaml"
    with path.open("w", encoding="utf-8") as file:
        YAML(typ="safe", pure=True).dump(value, file)
    with pytest.raises(PlanInvalid, match=r"plan\.yaml:\d+:\d+: "):
        load_plan(path, ENV)


def test_the_shipped_schema_is_the_models() -> None:
    assert SCHEMA_FILE.read_text(encoding="utf-8") == schema_text(), (
        "run python -m plans.plan_schema"
    )
