"""Each kind of finding is provoked on a real server; what `test_check_hazards` finds counts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import LiteralString

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from cdc.connect import connect
from plans.check import check_split
from plans.finding_codes import CODES
from plans.findings import Finding
from plans.load import Targets, load_plan
from tests.conftest import fresh_database, require_version
from tests.integration.test_check_hazards import FOUND
from toolkit.servers import Server, running_server

SERVICES = """\
split: every
source: {dsn: "${SOURCE}"}
services:
  crm: {dsn: "${CRM}"}
  shop: {dsn: "${SHOP}"}
tables:
"""


POOR = "every_poor"  # a role that is made where a case names it


@dataclass(frozen=True)
class Case:
    """A source, a plan for it, and what the check has to find: code, and in what object."""

    name: str
    schema: LiteralString
    plan: str  # from `tables:` on
    finds: frozenset[tuple[str, str]]
    services: str = SERVICES
    database: LiteralString = ""  # how the source is created, if not as usual
    target: LiteralString = ""  # how crm's database is
    settings: LiteralString = ""  # set for crm's database
    by_poor: bool = False  # who checks is no superuser
    contrib: bool = False  # the source is Debian's server, which has modules and ICU
    newest: bool = False  # the source is PostgreSQL 18, whatever the tests run on
    quiet: frozenset[str] = frozenset()  # what it must not find
    silent: frozenset[str] = frozenset()  # services whose database doesn't answer
    unset: frozenset[str] = frozenset()  # services whose variable has no value


CASES = (
    Case(
        "keys",
        """
        CREATE TABLE a (id int PRIMARY KEY);
        CREATE TABLE b (id int PRIMARY KEY, a int CONSTRAINT b_a REFERENCES a,
                        own int CONSTRAINT b_own REFERENCES b,
                        c int CONSTRAINT b_c REFERENCES a);
        CREATE TABLE gone (id int PRIMARY KEY);
        CREATE TABLE left_over (id int PRIMARY KEY, gone int CONSTRAINT to_gone REFERENCES gone);
        INSERT INTO gone VALUES (1);
        INSERT INTO left_over VALUES (1, 1);
        GRANT INSERT ON b TO every_poor;
        """,
        """
  a: shop
  b: crm
  gone: drop
  left_over: crm
foreign_keys:
  b_a: {replace_with: reference}
  b_c: {replace_with: none}
  b_own: {replace_with: none}
  to_gone: {replace_with: none}
  b_x: {replace_with: none}
""",
        frozenset({
            ("foreign-key-reference", "b_a"), ("foreign-key-kept", "b_own"),
            ("foreign-key-unknown", "b_x"), ("orphans", "public.left_over.to_gone"),
            ("orphans-none", "every"), ("writers-unnamed", "services"),
        }),
    ),
    Case(
        "rows",
        """
        CREATE TABLE unowned (id int PRIMARY KEY, n int);
        CREATE TABLE shared (id serial PRIMARY KEY, n int);
        CREATE TABLE odd (id int PRIMARY KEY, n int);
        INSERT INTO unowned VALUES (1, NULL);
        INSERT INTO shared VALUES (1, 5);
        INSERT INTO odd VALUES (1, 0);
        CREATE TYPE tint AS ENUM ('light', 'dark');
        CREATE TABLE tints (id int PRIMARY KEY, t tint);
        """,
        """
  unowned: {split_rows: {crm: "n > 1", shop: "n <= 1"}}
  shared: {split_rows: {crm: "n > 1", shop: "n > 2"}}
  odd: {split_rows: {crm: "1 / n = 1", shop: "1 / n <> 1"}}
  tints: {split_rows: {crm: "t::text IN ('pale', 'dark')", shop: "t::text = 'light'"}}
""",
        frozenset({
            ("rows-unowned", "public.unowned"), ("rows-shared", "public.shared"),
            ("rows-unverified", "odd"), ("label-unknown", "crm:public.tints"),
            ("sequence-shared", "public.shared_id_seq"),
        }),
    ),
    Case(
        "tables",
        """
        CREATE UNLOGGED TABLE scratch (id int PRIMARY KEY);
        CREATE TABLE log (line text);
        CREATE TABLE later (id int PRIMARY KEY DEFERRABLE);
        CREATE TABLE years (y int) PARTITION BY LIST (y);
        CREATE TABLE parts (id int PRIMARY KEY, ours text NOT NULL, theirs text NOT NULL);
        CREATE FUNCTION odd(text) RETURNS text LANGUAGE sql VOLATILE AS 'SELECT $1';
        CREATE TABLE states (id int PRIMARY KEY, state text, at int);
        """,
        """
  scratch: crm
  log: crm
  later: crm
  years: crm
  parts: {split_columns: {crm: [id, ours], shop: [id, theirs]}}
  states:
    owner: shop
    derive:
      - {into: crm.one, key: {id: id}, columns: {s: "state + 1"}}
      - {into: crm.two, key: {id: id}, columns: {s: "odd(state)"}}
      - {into: crm.three, key: {id: id}, columns: {s: "to_char(at, '999')"}}
switch: {kind: pgbouncer, admin_dsn: dbname=b, databases: {crm: crm}}
lists:
  some: {on: source, query: "SELECT 1"}
  broken: {on: source, query: "SELECT nothing"}
""",
        frozenset({
            ("table-unlogged", "public.scratch"), ("table-keyless", "public.log"),
            ("partition-later", "public.years"),
            ("table-identity", "public.later"), ("insert-incomplete", "crm:public.parts"),
            ("expression-refused", "crm:public.states>public.one"),
            ("function-volatile", "crm:public.states>public.two"),
            ("function-stable", "crm:public.states>public.three"),
            ("route-derived", "crm:public.states>public.one"), ("switch-unsupported", "switch"),
            ("list", "some"), ("list-failed", "broken"), ("role-unknown", "nobody_here"),
            ("role-absent", "nobody_here"), ("target-silent", "shop"),
        }),
        services=SERVICES.replace('"${CRM}"', '"${CRM}", roles: [nobody_here]'),
        silent=frozenset({"shop"}),
    ),
    Case(
        "code",
        """
        CREATE TABLE ours (id int PRIMARY KEY, a int, b int, UNIQUE (a, b));
        CREATE TABLE theirs (id int PRIMARY KEY);
        CREATE FUNCTION amount() RETURNS int LANGUAGE sql AS 'SELECT count(*)::int FROM theirs';
        CREATE TABLE mine (
            id int PRIMARY KEY, n int DEFAULT amount(), m int CONSTRAINT few CHECK (m < amount())
        );
        ALTER TABLE mine ENABLE ROW LEVEL SECURITY;
        ALTER TABLE mine FORCE ROW LEVEL SECURITY;
        CREATE POLICY own ON mine USING (id < amount());
        CREATE RULE doubles AS ON INSERT TO mine DO ALSO INSERT INTO theirs VALUES (NEW.id);
        CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN INSERT INTO theirs VALUES (NEW.id); RETURN NEW; END';
        CREATE TRIGGER tells BEFORE INSERT ON mine FOR EACH ROW EXECUTE FUNCTION tell();
        CREATE FUNCTION known() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN RETURN NEW; END';
        CREATE VIEW across AS SELECT mine.id FROM mine JOIN theirs USING (id);
        CREATE INDEX both_of_them ON ours (a, b) WHERE a > 0;
        CREATE TRIGGER said BEFORE UPDATE OF a, b ON ours FOR EACH ROW EXECUTE FUNCTION known();
        CREATE FUNCTION "keep b"() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN IF TG_OP <> ''INSERT'' THEN SELECT 1 INTO NEW.b; END IF; RETURN NEW; END';
        CREATE TRIGGER keeps BEFORE INSERT OR UPDATE ON ours
            FOR EACH ROW EXECUTE FUNCTION "keep b"();
        CREATE TRIGGER keeps_own BEFORE UPDATE OF b ON ours
            FOR EACH ROW EXECUTE FUNCTION "keep b"();
        CREATE TRIGGER keeps_late AFTER UPDATE ON ours FOR EACH ROW EXECUTE FUNCTION "keep b"();
        """,
        """
  ours: {split_columns: {crm: [id, a], shop: [id, b]}}
  theirs: shop
  mine: crm
""",
        frozenset({
            ("check-left-out", "crm: check few on public.mine"),
            ("default-left-out", "crm: default for public.mine.n"),
            ("policy-left-out", "crm: policy own on public.mine"),
            ("rule-left-out", "crm: rule doubles on public.mine"),
            ("key-left-out", "crm: constraint ours_a_b_key on public.ours"),
            ("trigger-across", "tells on public.mine"), ("view-across", "public.across"),
            ("left-out", "crm: index public.both_of_them"),
            ("trigger-left-out", "crm: trigger said on public.ours"),
            ("trigger-part", "keeps on public.ours"),
        }),
    ),
    Case(
        "names in quotes, each told once",
        """
        CREATE SCHEMA "An App";
        CREATE TABLE "An App"."Users" ("Id" int PRIMARY KEY);
        CREATE TABLE jobs (id int PRIMARY KEY);
        CREATE FUNCTION "An App".tell() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN INSERT INTO jobs VALUES (NEW."Id"); RETURN NEW; END';
        CREATE TRIGGER "tellIt" AFTER INSERT ON "An App"."Users"
            FOR EACH ROW EXECUTE FUNCTION "An App".tell();
        CREATE VIEW "An App"."Both" AS SELECT "Id" FROM "An App"."Users" JOIN jobs ON true;
        """,
        "  Users: crm\n  jobs: shop\n",
        frozenset({("trigger-across", "tellIt on An App.Users"), ("view-across", "An App.Both")}),
        services=SERVICES.replace('"${SOURCE}"', '"${SOURCE}", schemas: [public, "An App"]'),
        quiet=frozenset({"trigger-left-out", "left-out"}),
    ),
    Case(
        "forced row security",
        """
        CREATE TABLE mine (id int PRIMARY KEY);
        ALTER TABLE mine ENABLE ROW LEVEL SECURITY;
        ALTER TABLE mine FORCE ROW LEVEL SECURITY;
        CREATE TABLE parent (id int PRIMARY KEY);
        CREATE TABLE child (id int PRIMARY KEY, parent int CONSTRAINT of_parent REFERENCES parent);
        INSERT INTO child VALUES (1, NULL);
        GRANT SELECT ON mine, child TO every_poor;
        """,
        "  mine: crm\n  parent: shop\n  child: crm\n",
        frozenset({
            ("row-security", "public.mine"), ("row-security-forced", "public.mine"),
            ("orphans-uncounted", "public.child.of_parent"),
        }),
        by_poor=True,
    ),
    Case(
        "generated columns",
        """
        CREATE TABLE keyless (n int, twice int GENERATED ALWAYS AS (n * 2) STORED);
        CREATE TABLE shown (n int, twice int GENERATED ALWAYS AS (n * 2) VIRTUAL);
        CREATE TABLE later (id int PRIMARY KEY DEFERRABLE,
                            twice int GENERATED ALWAYS AS (id * 2) STORED);
        CREATE TABLE years (id int, y int, PRIMARY KEY (id, y),
                            twice int GENERATED ALWAYS AS (id * 2) STORED) PARTITION BY LIST (y);
        CREATE TABLE years_1 PARTITION OF years FOR VALUES IN (1);
        ALTER TABLE years_1 REPLICA IDENTITY FULL;
        CREATE TABLE widened (id int PRIMARY KEY, n int NOT NULL,
                              twice int GENERATED ALWAYS AS (n * 2) STORED);
        CREATE TEXT SEARCH CONFIGURATION own (COPY = simple);
        CREATE TABLE notes (id int PRIMARY KEY, note text, words tsvector
                            GENERATED ALWAYS AS (to_tsvector('public.own', note)) STORED);
        CREATE TABLE staged (id int PRIMARY KEY, _dbsplit_op text);
        """,
        """
  keyless: crm
  shown: crm
  later: crm
  years: crm
  widened: {owner: crm, derive: [{into: shop.by_n, key: {id: id, n: n}}]}
  notes: {owner: shop, reference_in: [crm]}
  staged: crm
""",
        frozenset({
            *(("identity-generated", f"public.{name}")
              for name in ("keyless", "shown", "later", "years", "widened")),
            ("generated-left-out", "shop: generated column public.notes.words"),
            ("generated-left-out", "crm: generated column public.notes.words"),
            ("column-reserved", "public.staged._dbsplit_op"),
        }),
        newest=True,
        quiet=frozenset({"default-left-out", "key-generated"}),
    ),
    Case(
        "a type that is another's row",
        """
        CREATE TABLE theirs (id int PRIMARY KEY);
        CREATE TABLE mine (id int PRIMARY KEY, one theirs);
        """,
        "  theirs: shop\n  mine: crm\n",
        frozenset({("schema-impossible", "crm")}),
    ),
    Case(
        "invalid",
        "CREATE TABLE forgotten (id int PRIMARY KEY); CREATE TABLE known (id int PRIMARY KEY);",
        "  known: crm\n",
        frozenset({("plan-invalid", "tables")}),
    ),
    Case(
        "another server's text",
        """
        CREATE TABLE prices (id text PRIMARY KEY, price money, others money[]);
        CREATE TABLE names (name text PRIMARY KEY);
        """,
        """
  prices: crm
  names: {split_rows: {crm: "lower(name) = name", shop: "lower(name) <> name"}}
""",
        frozenset({
            ("money-locale", "public.prices.price"), ("money-locale", "public.prices.others"),
            ("collation-differs", "crm"), ("expression-collation", "crm:public.names: name"),
        }),
        target="LC_COLLATE 'POSIX' LC_CTYPE 'POSIX'",
        settings="ALTER DATABASE {} SET lc_monetary = 'C'",
    ),
    Case(
        "bytes of no encoding",
        """
        CREATE TABLE notes (id int PRIMARY KEY, note text);
        INSERT INTO notes VALUES (1, 'a'), (7, convert_from('\\xdf', 'SQL_ASCII'));
        """,
        "  notes: crm\n",
        frozenset({("encoding-unchecked", ""), ("encoding-invalid", "public.notes")}),
        database="ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C'",
        target="ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C'",
        services=SERVICES.replace('"${CRM}"', '"${CRM}", roles: [postgres]'),
        quiet=frozenset({"role-absent", "role-unknown", "money-locale"}),
    ),
    Case(
        "a smaller encoding",
        "CREATE TABLE notes (id int PRIMARY KEY, note text); INSERT INTO notes VALUES (1, 'ß');",
        "  notes: crm\n",
        frozenset({("encoding-narrow", "")}),
        database="ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'",
        quiet=frozenset({"encoding-invalid"}),
    ),
    Case(
        "no targets",
        "CREATE TABLE notes (id int PRIMARY KEY);",
        "  notes: crm\n",
        frozenset({("target-unset", "crm"), ("target-unset", "shop")}),
        quiet=frozenset({"target-silent", "plan-invalid"}),
        unset=frozenset({"crm", "shop"}),
    ),
    Case(
        "an old collation",
        """
        CREATE TABLE notes (id text PRIMARY KEY);
        UPDATE pg_database SET datcollversion = '0.1' WHERE datname = current_database();
        """,
        "  notes: crm\n",
        frozenset({("collation-stale", "")}),
    ),
    Case(
        "rows elsewhere",
        """
        CREATE FOREIGN DATA WRAPPER far;
        CREATE SERVER far FOREIGN DATA WRAPPER far;
        CREATE TABLE years (id int, y int) PARTITION BY LIST (y);
        CREATE TABLE years_1 PARTITION OF years FOR VALUES IN (1);
        CREATE FOREIGN TABLE years_0 PARTITION OF years FOR VALUES IN (0) SERVER far;
        CREATE SUBSCRIPTION every_sub CONNECTION 'host=127.0.0.1 port=1' PUBLICATION p
            WITH (connect = false, slot_name = NONE);
        """,
        "  years: crm\n",
        frozenset({("partition-foreign", "public.years_0"), ("subscription", "every_sub")}),
    ),
    Case(
        "what the targets' server lacks",
        """
        CREATE EXTENSION pg_trgm;
        CREATE EXTENSION citext VERSION '1.5';
        CREATE COLLATION german (provider = icu, locale = 'de-u-ks-level2');
        CREATE TABLE names (id int PRIMARY KEY, name text COLLATE german);
        CREATE TABLE sorted (id int PRIMARY KEY, name text COLLATE "de-x-icu", page xml);
        """,
        "  names: crm\n  sorted: crm\n",
        frozenset({
            ("collation-absent", "public.names.name"), ("collation-absent", "public.sorted.name"),
            ("extension-absent", "pg_trgm"), ("extension-version", "citext"),
            ("xml-absent", "public.sorted.page"),
        }),
        contrib=True,
    ),
)  # fmt: skip


def test_every_code_has_a_case() -> None:
    of_cases = {code for case in CASES for code, _ in case.finds}
    assert {one.code for one in FOUND} | of_cases == set(CODES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_it_is_found(
    case: Case, source_server: Server, target_server: Server, tmp_path: Path
) -> None:
    with source_of(case, source_server) as server, ExitStack() as stack:
        for one in {server, target_server} if POOR in case.schema else ():
            stack.enter_context(_role(one, POOR))
        source = stack.enter_context(_database(server, case.database))
        crm = stack.enter_context(_database(target_server, case.target))
        # The second target may be on a server like the source's.
        shop = stack.enter_context(fresh_database(server if case.contrib else target_server))
        with psycopg.connect(source, autocommit=True) as admin:
            admin.execute(case.schema)
            stack.callback(_end_subscriptions, source)
        if case.settings:
            with psycopg.connect(crm, autocommit=True) as admin:
                name = sql.Identifier(admin.info.dbname)
                admin.execute(sql.SQL(case.settings).format(name))
        findings = _check(case, {"source": source, "crm": crm, "shop": shop}, tmp_path)
    found = {(one.code, one.object) for one in findings}
    assert case.quiet & {code for code, _ in found} == set(), findings
    whose = {(one.code, "") for one in findings}  # the database, whose name is invented
    assert case.finds - found - whose == set(), sorted(found)


def _check(case: Case, dsns: dict[str, str], directory: Path) -> list[Finding]:
    """What the check finds."""
    path = directory / "plan.yaml"
    path.write_text(case.services + case.plan, encoding="utf-8")
    if case.by_poor:
        dsns = {place: make_conninfo(dsn, user=POOR) for place, dsn in dsns.items()}
    nowhere = make_conninfo(host="127.0.0.1", port=1, dbname="nowhere")
    dsns |= dict.fromkeys(case.silent, nowhere)
    known = {place.upper(): dsn for place, dsn in dsns.items() if place not in case.unset}
    plan = load_plan(path, known, targets=Targets.IF_SET)
    with connect(plan.source.dsn) as source:  # as the verb does
        return check_split(plan, source)


@contextmanager
def source_of(case: Case, source_server: Server) -> Iterator[Server]:
    """The server on which the case's source is."""
    if not case.contrib and not case.newest:
        yield source_server
        return
    version = "15" if case.contrib else "18"
    require_version(version)
    with running_server(version=version) as server:
        yield server


@contextmanager
def _database(server: Server, how: LiteralString) -> Iterator[str]:
    """A fresh database, created as it is told."""
    with fresh_database(server) as dsn:
        if how:
            with psycopg.connect(server.dsn(), autocommit=True) as admin:
                name = sql.Identifier(str(conninfo_to_dict(dsn)["dbname"]))
                admin.execute(sql.SQL("DROP DATABASE {}").format(name))
                create = sql.SQL("CREATE DATABASE {} TEMPLATE template0 ").format(name)
                admin.execute(create + sql.SQL(how))
        yield dsn


@contextmanager
def _role(server: Server, name: str) -> Iterator[None]:
    with psycopg.connect(server.dsn(), autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(name)))
        yield
        admin.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))


def _end_subscriptions(dsn: str) -> None:
    """A database with a subscription can't be dropped."""
    with psycopg.connect(dsn, autocommit=True) as admin:
        for (name,) in admin.execute(
            "SELECT subname FROM pg_subscription WHERE subdbid ="
            " (SELECT oid FROM pg_database WHERE datname = current_database())"
        ).fetchall():
            admin.execute(sql.SQL("DROP SUBSCRIPTION {}").format(sql.Identifier(name)))
