"""What `dbsplit plan render` writes is an Alembic environment that makes the services' schemas."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import psycopg
import pytest

import plans.crm_shop
from plans.crm_shop.generate import create
from plans.schema.ddl import LeftOut
from tests.conftest import fresh_database
from tests.schema_compare import SchemaDifference, schema_differences
from tests.schema_facts import read_facts
from tests.small_shop import PASSWORD, catalogs, with_password
from tests.verbs import Verbs
from toolkit.opened import open_split
from toolkit.servers import Server

ALEMBIC = Path(sys.executable).with_name("alembic")
BUNDLED = Path(str(plans.crm_shop.__file__)).with_name("plan.yaml")
NASTY = Path(__file__).parent / "schemas" / "nasty.yaml"
NOWHERE = "host=127.0.0.1 port=1 dbname=50%of_it"
MADE = ("relations", "columns", "functions", "constraints", "types", "schemas", "sequences")


@dataclass
class Rendered:
    """A plan's databases, and its environment in `directory`."""

    verbs: Verbs
    dsns: Mapping[str, str]
    directory: Path
    result: dict[str, Any] = field(default_factory=dict)

    def render(self, *options: str) -> dict[str, Any]:
        self.result = self.verbs.json("plan", "render", "-o", str(self.directory), *options)
        return self.result

    def files(self) -> dict[str, bytes]:
        return {
            str(path.relative_to(self.directory)): path.read_bytes()
            for path in self.directory.rglob("*")
            if path.is_file()
        }

    def alembic(self, service: str, *words: str, fails: bool = False) -> str:
        """Run Alembic from another directory; it is told nothing but the DSNs."""
        done = subprocess.run(
            [str(ALEMBIC), "-c", str(self.directory / "alembic.ini"), "-n", service, *words],
            env={**self.verbs.environment, "PYTHONDONTWRITEBYTECODE": "1"},
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
        )
        assert bool(done.returncode) is fails, done.stderr
        return done.stderr if fails else done.stdout

    def made(self, service: str) -> dict[str, object]:
        """What a database has, but for Alembic's own table."""
        found = catalogs(self.dsns[service])
        return {
            place: [row for row in found[place] if "alembic_version" not in str(row)]
            for place in MADE
        }

    def differences(self, service: str) -> list[SchemaDifference]:
        """What of the service's share is not as in the source, and is said nowhere."""
        with mock.patch.dict(os.environ, self.verbs.environment):
            split = open_split(self.verbs.plan, with_targets=False, prepared=False)
        facts = []
        for place in ("source", service):
            with psycopg.connect(self.dsns[place], autocommit=True) as connection:
                facts.append(read_facts(connection, split.plan.services[service].roles))
        left_out = [LeftOut(**one) for one in self.result["services"][service]["left_out"]]
        assert len(facts[1]) > 20
        return schema_differences(facts[0], facts[1], service, split.routes, left_out)


@contextmanager
def rendered(server: Server, plan: Path, directory: Path, *services: str) -> Iterator[Rendered]:
    """An empty source and targets for a plan."""
    with ExitStack() as stack:
        places = ("source", *services)
        dsns = {place: stack.enter_context(fresh_database(server)) for place in places}
        environment = {
            f"DBSPLIT_{place.upper()}_DSN": with_password(dsn) for place, dsn in dsns.items()
        }
        one = Rendered(Verbs(plan, environment), dsns, directory)
        yield one
        texts = [*one.verbs.said, *(text.decode() for text in one.files().values())]
        assert not [text for text in texts if PASSWORD in text]


@pytest.fixture
def bundled(source_server: Server, tmp_path: Path) -> Iterator[Rendered]:
    services = ("crm", "shop", "orchestrator")
    with rendered(source_server, BUNDLED, tmp_path / "schemas", *services) as one:
        create(one.dsns["source"])
        one.render()
        yield one


@pytest.fixture
def nasty(source_server: Server, tmp_path: Path) -> Iterator[Rendered]:
    """Names that have to be quoted, and texts that several languages would take for their own."""
    plan = tmp_path / "plan.yaml"
    plan.write_text(NASTY.read_text())
    with rendered(source_server, plan, tmp_path / "schemas", "crm", "shop") as one:
        with psycopg.connect(one.dsns["source"]) as source:
            source.execute(NASTY.with_suffix(".sql").read_text())
            source.execute(
                "ALTER TABLE no_key ADD odd text DEFAULT E'a\\tb  %s :x \\\\: %%' NOT NULL;"
                "CREATE FUNCTION of_tabs() RETURNS trigger LANGUAGE plpgsql AS"
                " E'begin\\n\\t-- %s :name ::text;\\n\\treturn new;\\nend';"
                "CREATE TRIGGER tabs BEFORE INSERT ON no_key"
                " FOR EACH ROW EXECUTE FUNCTION of_tabs()"
            )
        yield one


@pytest.mark.long
@pytest.mark.release
def test_the_bundled_services_get_what_they_had_in_the_source(bundled: Rendered) -> None:
    empty = {service: bundled.made(service) for service in ("crm", "shop")}
    with psycopg.connect(bundled.dsns["crm"], autocommit=True) as connection:
        written = bundled.alembic("crm", "upgrade", "head", "--sql")
        assert written.count("BEGIN;") == 2  # each revision in a transaction of its own
        connection.execute(written)
    bundled.alembic("shop", "upgrade", "head")
    for service in ("crm", "shop"):
        assert bundled.differences(service) == []

    _has_the_hand_written_between(bundled)

    said = bundled.verbs.refused("prepare", code=4, says="has what `dbsplit plan render` wrote")
    assert "alembic -n shop downgrade base" in said.err
    for service in ("crm", "shop"):
        bundled.alembic(service, "downgrade", "base")
        assert bundled.made(service) == empty[service]
    bundled.verbs("prepare")
    refused = bundled.alembic("crm", "upgrade", "head", fails=True)
    assert "dbsplit is moving crm into this database" in refused


def _has_the_hand_written_between(bundled: Rendered) -> None:
    """A service with revisions of its own has one line with them, up and down."""
    empty = bundled.made("orchestrator")
    assert bundled.result["services"]["orchestrator"]["handwritten"] == ["0005"]
    history = bundled.alembic("orchestrator", "history")
    before, after = bundled.result["services"]["orchestrator"]["revisions"]
    ids = [line.partition(" -> ")[2].partition(",")[0] for line in history.splitlines()]
    assert ids == [f"{after} (head)", "0005", "0004", "0003", "0002", "0001", before]
    bundled.alembic("orchestrator", "upgrade", "head")
    with psycopg.connect(bundled.dsns["orchestrator"]) as connection:
        assert connection.execute("SELECT count(*) FROM state").fetchone() == (11,)
    bundled.alembic("orchestrator", "downgrade", "base")
    assert bundled.made("orchestrator") == empty


def test_odd_names_and_texts_arrive_as_they_were(nasty: Rendered) -> None:
    nasty.render()
    nasty.alembic("crm", "upgrade", "head")
    with psycopg.connect(nasty.dsns["shop"], autocommit=True) as connection:
        connection.execute(nasty.alembic("shop", "upgrade", "head", "--sql"))
    for service in ("crm", "shop"):
        assert nasty.differences(service) == []
    first, _ = nasty.result["services"]["shop"]["revisions"]
    nasty.alembic("shop", "downgrade", first)
    with psycopg.connect(nasty.dsns["shop"]) as connection:
        assert connection.execute("SELECT FROM pg_trigger WHERE NOT tgisinternal").rowcount == 0
        assert connection.execute("SELECT to_regclass('no_key') IS NULL").fetchone() == (False,)


def test_the_same_plan_gives_the_same_files_and_nothing_else_is_touched(nasty: Rendered) -> None:
    nasty.render()
    first = nasty.files()
    assert sorted(nasty.result["files"]) == sorted(first)
    nasty.render()
    assert nasty.files() == first

    own = nasty.directory / "shop" / "versions" / "own.py"
    own.write_text("mine")
    readme = nasty.directory / "README.md"
    readme.write_text("changed")
    output = ("plan", "render", "-o", str(nasty.directory))
    said = nasty.verbs.refused(*output, code=4, says="2 files that dbsplit did not write")
    assert "README.md, shop/versions/own.py" in said.err
    assert readme.read_text() == "changed"
    nasty.render("--force")
    assert nasty.files() == {**first, "shop/versions/own.py": b"mine"}

    own.unlink()
    nasty.verbs.plan.write_text(NASTY.read_text().replace("no_key: shop", "no_key: crm"))
    nasty.render()
    assert len(nasty.files()) == len(first)  # revisions of the earlier plan are gone
    assert set(nasty.files()) != set(first)
    elsewhere = ("plan", "render", "-o", str(nasty.verbs.plan.parent))
    nasty.verbs.refused(*elsewhere, code=4, says="did not write", hint="--force")


def test_a_target_that_does_not_answer_is_taken_to_be_like_the_source(nasty: Rendered) -> None:
    nasty.render()
    asked = nasty.files()
    nasty.verbs.plan.write_text(NASTY.read_text().replace("${DBSPLIT_SHOP_DSN}", NOWHERE))
    said = nasty.render()["services"]
    assert (said["crm"]["assumed"], said["shop"]["assumed"]) == (False, True)
    assert said["shop"]["version"] == said["crm"]["version"]
    now = nasty.files()
    assert "(assumed: the target did not answer)" in now["README.md"].decode()
    versions = {path for path in asked if path.startswith("shop/versions/")}
    assert len(versions) == 2
    assert all(asked[path] == now[path] for path in versions)
    # Alembic reads what the plan holds, percent sign and all.
    assert "port 1 failed" in nasty.alembic("shop", "current", fails=True)


def test_a_plan_whose_keys_cannot_be_made_is_not_rendered(nasty: Rendered) -> None:
    plan = NASTY.read_text().replace(
        "products: {owner: crm, reference_in: [shop]}", "products: crm"
    )
    nasty.verbs.plan.write_text(plan + "foreign_keys: {to_product: {replace_with: reference}}\n")
    says = "shop has no read-only copy of public.products"
    nasty.verbs.refused("plan", "render", "-o", str(nasty.directory), code=3, says=says)
    assert not nasty.directory.exists()
