"""Whatever is split however: what the services get together is what the source was."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from plans.catalog_read import read_catalog
from plans.check_boundary import check_foreign_keys
from plans.check_subject import Subject
from plans.compile import compile_routes
from plans.errors import PlanInvalid
from plans.findings import has_blocker
from plans.load import load_plan
from plans.schema.ddl import LeftOut, Target
from plans.schema.target import target_schema
from tests.conftest import fresh_database
from tests.schema_compare import schema_differences
from tests.schema_facts import Fact, read_facts
from toolkit.servers import Server

SERVICES = ("crm", "shop")
ENVIRONMENT = {f"DBSPLIT_{name}_DSN": f"dbname={name}" for name in ("SOURCE", "CRM", "SHOP")}
NAMES = ("plain", "Mixed Case", "order", 'with "quotes"')  # each table another
TYPES = ("int", "text DEFAULT 'it''s: 50%'", "numeric(9, 2) NOT NULL DEFAULT 0", "mood", "int[]")
EXTRAS = (
    "CREATE INDEX ON {t} (c0)",
    "CREATE UNIQUE INDEX ON {t} (k, c0) WHERE c0 IS NOT NULL",
    "ALTER TABLE {t} ADD CHECK (k >= 0)",
    "ALTER TABLE {t} ADD UNIQUE (k, c0)",
    "ALTER TABLE {t} ADD sum int GENERATED ALWAYS AS (k + 1) STORED",
    "COMMENT ON TABLE {t} IS 'a :comment'",
    "CREATE STATISTICS {s} ON k, c0 FROM {t}",
    "ALTER TABLE {t} ENABLE ROW LEVEL SECURITY",
    "CREATE TRIGGER touch BEFORE UPDATE ON {t} FOR EACH ROW EXECUTE FUNCTION touch()",
    "CREATE VIEW {v} AS SELECT k FROM {t}",
)
BASE = """
DROP SCHEMA public CASCADE;
CREATE SCHEMA public;
CREATE TYPE mood AS ENUM ('so', 'it''s');
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$begin return new; end$$;
"""


@dataclass(frozen=True)
class Case:
    """Statements that make a schema, and the plan that splits it."""

    statements: tuple[str, ...]
    plan: str
    kept: frozenset[str]  # tables that somebody gets


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


@st.composite
def cases(draw: st.DrawFn) -> Case:
    names = draw(st.lists(st.sampled_from(NAMES), min_size=2, max_size=4, unique=True))
    statements, entries, keys, kept = [], [], [], set()
    for number, name in enumerate(names):
        types = draw(st.lists(st.sampled_from(TYPES), min_size=1, max_size=3))
        parents = draw(st.lists(st.sampled_from(names[:number]), max_size=2)) if number else []
        serial = draw(st.sampled_from(["int", "serial", "int GENERATED ALWAYS AS IDENTITY"]))
        columns = [f"k {serial} PRIMARY KEY", *(f"c{n} {type_}" for n, type_ in enumerate(types))]
        columns += [f"p{n} int" for n in range(len(parents))]
        statements.append(f"CREATE TABLE {quoted(name)} ({', '.join(columns)})")
        for n, parent in enumerate(parents):
            statements.append(
                f"ALTER TABLE {quoted(name)} ADD CONSTRAINT fk_{number}_{n}"
                f" FOREIGN KEY (p{n}) REFERENCES {quoted(parent)} ON DELETE CASCADE"
            )
            how = draw(st.sampled_from(["none", "orphan_check", "reference", None]))
            keys += [f"  fk_{number}_{n}: {{replace_with: {how}}}"] if how else []
        extras = draw(st.lists(st.sampled_from(EXTRAS), max_size=4, unique=True))
        statements += [
            e.format(t=quoted(name), v=quoted(f"view {number}"), s=f"s{number}") for e in extras
        ]
        own = [f"c{n}" for n in range(len(types))] + [f"p{n}" for n in range(len(parents))]
        own += ["sum"] if any("ADD sum" in extra for extra in extras) else []
        entry = draw(st.sampled_from(["whole", "whole", "copied", "columns", "rows", "drop"]))
        entries.append(f"  {name!r}: {_entry(draw, entry, own)}")
        if entry != "drop":
            kept.add(name)
    plan = (
        'split: any\nsource: {dsn: "${DBSPLIT_SOURCE_DSN}"}\nservices:\n'
        '  crm: {dsn: "${DBSPLIT_CRM_DSN}"}\n  shop: {dsn: "${DBSPLIT_SHOP_DSN}"}\n'
        "tables:\n" + "\n".join(entries) + "\n"
    )
    plan += "foreign_keys:\n" + "\n".join(keys) + "\n" if keys else ""
    return Case(tuple(statements), plan, frozenset(kept))


def _entry(draw: st.DrawFn, kind: str, columns: list[str]) -> str:
    owner, other = draw(st.permutations(SERVICES))
    match kind:
        case "columns":
            part = draw(st.sets(st.sampled_from(columns)))
            one, two = (
                ", ".join(["k", *(c for c in columns if (c in part) is inside)])
                for inside in (True, False)
            )
            return f"{{split_columns: {{{owner}: [{one}], {other}: [{two}]}}}}"
        case "rows":
            return f"{{split_rows: {{{owner}: 'k % 2 = 0', {other}: 'k % 2 <> 0'}}}}"
        case "copied":
            return f"{{owner: {owner}, reference_in: [{other}]}}"
        case "drop":
            return "drop"
        case _:
            return owner


@pytest.fixture(scope="module")
def databases(source_server: Server) -> Iterator[dict[str, psycopg.Connection]]:
    with (
        fresh_database(source_server) as source,
        fresh_database(source_server) as crm,
        fresh_database(source_server) as shop,
        psycopg.connect(source, autocommit=True) as one,
        psycopg.connect(crm, autocommit=True) as two,
        psycopg.connect(shop, autocommit=True) as three,
    ):
        for connection in (one, two, three):
            connection.execute("SET client_min_messages = error")
        yield {"source": one, "crm": two, "shop": three}


@given(case=cases())
@settings(
    max_examples=12,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
def test_the_services_have_together_what_the_source_had(
    databases: dict[str, psycopg.Connection], case: Case
) -> None:
    source = databases["source"]
    source.execute(BASE + ";".join(case.statements))
    catalog = read_catalog(source, ["public"])
    with TemporaryDirectory() as directory:
        path = Path(directory) / "plan.yaml"
        path.write_text(case.plan)
        plan = load_plan(path, ENVIRONMENT)
    try:
        routes = compile_routes(plan, catalog)
    except PlanInvalid:
        event("refused by the compiler")
        return
    if has_blocker(check_foreign_keys(Subject.of(plan, catalog, routes))):
        event("refused by the check")
        return
    event("made")
    named = {
        how: frozenset(n for n, key in plan.foreign_keys.items() if key.replace_with == how)
        for how in ("reference", "orphan_check")
    }
    there = read_facts(source)
    got: set[tuple[str, str]] = set()
    for service in SERVICES:
        target = Target(
            service=service,
            version=source.info.server_version,
            reference_keys=named["reference"],
            checked_keys=named["orphan_check"],
        )
        schema = target_schema(source, ["public"], routes, target)
        connection = databases[service]
        connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        for statement in (*schema.before_data, *schema.after_data):
            connection.execute(statement.create)
        here = read_facts(connection)
        assert schema_differences(there, here, service, routes, schema.left_out) == []
        got |= {(fact.kind, fact.identity) for fact in here}
        got |= {(f.kind, f.identity) for f in there if _is_told(f, schema.left_out)}
    kept = {f for f in there if f.table is not None and f.table.name in case.kept}
    assert {f.title for f in kept if (f.kind, f.identity) not in got} == set()


def _is_told(fact: Fact, left_out: tuple[LeftOut, ...]) -> bool:
    return fact.title in {one.object for one in left_out}
