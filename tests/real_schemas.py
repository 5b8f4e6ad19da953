"""Schemas that none of us wrote, and the whole line on one of them, under writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psycopg
from click.testing import CliRunner
from ruamel.yaml import YAML

import tests.crash.switch
from plans.crm_shop.workload.routing import Routing, write_routing
from tests.conftest import fresh_database
from tests.history import setup_ledger
from tests.integration.test_render import Rendered
from tests.invented_rows import RowInventor
from tests.invented_traffic import InventedTraffic
from tests.real_fetch import camunda_sql, lemmy_sql, medusa_sql, oscar_python
from tests.verbs import Verbs
from toolkit.cli.main import cli
from toolkit.servers import Server

ROWS: Final = 20  # invented for each table
MIGRATE_S_MAX: Final = 300.0
# By a fence, a unique key, and a row that two writers changed; not by what a target lacks.
REFUSALS: Final = {"25006", "23505", "40001"}
LEDGER: Final = ("ledger", "account")
MORE_OF_THE_PLAN: Final = """
switch: {{kind: command, command: {command}, timeout_s: 10}}
limits: {{lag_bytes_max: 67108864, write_pause_s_max: 20}}
"""


@dataclass(frozen=True)
class RealSchema:
    """A published schema, and who is to own its tables."""

    name: str
    make: Callable[[str], None]
    owners: Mapping[str, str]  # the longest beginning of a table's name decides
    says: frozenset[str] = frozenset()  # what else than orphans `plan check` has to say
    refuses: frozenset[str] = frozenset()  # what else its own rules refuse of invented rows
    contrib: bool = False  # needs modules that the embedded servers lack
    aborted: bool = False  # it ends where it began

    @property
    def services(self) -> tuple[str, ...]:
        return tuple(sorted(set(self.owners.values())))

    def owner(self, table: str) -> str:
        """The service that somebody who knows the schema would name."""
        if table in LEDGER:
            return self.services[0]
        return self.owners[max(filter(table.startswith, self.owners), key=len)]


class RealLine:
    """A real schema with rows, its targets, its plan, and the verbs on it."""

    def __init__(self, real: RealSchema, dsns: Mapping[str, str], directory: Path) -> None:
        self.real = real
        self.source = dsns["source"]
        self.dsns = dsns
        self.directory = directory
        environment = {f"DBSPLIT_{place.upper()}_DSN": dsn for place, dsn in dsns.items()}
        self.verbs = Verbs(directory / "plan.yaml", environment)
        self.routing = directory / "routing.json"
        self.tables = self._fill()

    def _fill(self) -> dict[str, list[str]]:
        """Make the tables with their rows; each service's own."""
        self.real.make(self.source)
        setup_ledger(self.source)
        tables: dict[str, list[str]] = {service: [] for service in self.real.services}
        with psycopg.connect(self.source) as connection:
            inventor = RowInventor(connection, self.real.name)
            assert inventor.fill(connection, ROWS) == []
            for name in inventor.tables.keys() - set(LEDGER):
                tables[self.real.owner(name)].append(name)
        return {service: sorted(names) for service, names in tables.items()}

    def propose(self, *words: str) -> tuple[int, dict[str, Any]]:
        """Have a plan proposed; its exit code and its result."""
        services = ",".join(self.real.services)
        plan = str(self.verbs.plan)
        options = ("--services", services, "-o", plan, "--force", "--json", *words)
        run = CliRunner().invoke(cli, ["plan", "propose", "--source", self.source, *options])
        assert run.exception is None or isinstance(run.exception, SystemExit), run.output
        assert run.exit_code in (0, 3), run.output
        return run.exit_code, json.loads(run.stdout.splitlines()[-1])

    def write_owners(self) -> Path:
        """The owners file that somebody who knows the schema would write."""
        path = self.directory / "owners.yaml"
        names = [*LEDGER, *(name for names in self.tables.values() for name in names)]
        with path.open("w") as file:
            YAML(typ="safe").dump({name: self.real.owner(name) for name in names}, file)
        return path

    def add_switch(self) -> None:
        """Have the plan switch these writers."""
        program = str(tests.crash.switch.__file__)
        steps = str(self.directory / "switch.log")
        command = [sys.executable, "-P", program, str(self.routing), steps]
        with self.verbs.plan.open("a") as plan:
            plan.write(MORE_OF_THE_PLAN.format(command=json.dumps(command)))
        write_routing(self.routing, dict.fromkeys(self.real.services, self.source))

    def render(self) -> None:
        """The rendered environment makes the services' schemas, and removes them."""
        rendered = Rendered(self.verbs, self.dsns, self.directory / "schemas")
        rendered.render()
        for service in self.real.services:
            empty = rendered.made(service)
            rendered.alembic(service, "upgrade", "head")
            assert rendered.differences(service) == []
            rendered.alembic(service, "downgrade", "base")
            assert rendered.made(service) == empty

    def traffic(self) -> InventedTraffic:
        """The services' writers, which are not at work yet."""
        return InventedTraffic(
            self.source,
            self.tables,
            ledger=self.real.services[0],
            routing=self.routing,
            history_dir=self.directory / "history",
        )

    def places(self) -> dict[str, str]:
        """Where each service's traffic goes."""
        routing = Routing(self.routing)
        return {service: routing.place(service, service) for service in self.real.services}

    def prove(self, traffic: InventedTraffic, *, compare: bool = True) -> None:
        """What was acknowledged is there once, and both sides are equal."""
        traffic.flows()
        traffic.pause()
        if compare:
            validated = self.verbs.json("validate")
            assert validated["consistent"] is True
            assert all(table["state"] == "equal" for table in validated["tables"])
        report = traffic.check(self.places())
        assert report.whole, report
        for name, tally in traffic.tallies().items():
            assert tally.crashed == tally.given_up == 0, (name, tally)
            assert not tally.errors.keys() - REFUSALS - self.real.refuses, (name, tally)
        assert traffic.issued_twice() == []
        traffic.resume()

    def move(self, verb: str, outcome: str) -> None:
        """Give the right to write to the other side."""
        moved = self.verbs.json(verb, "--yes", "--certificates", str(self.directory))
        assert moved["outcome"] == outcome
        there = outcome == "moved"
        for service, place in self.places().items():
            assert place == (self.dsns[service] if there else self.source)


@contextmanager
def real_line(
    real: RealSchema, source_server: Server, target_server: Server, directory: Path
) -> Iterator[RealLine]:
    """A line on which nothing has been run yet."""
    with ExitStack() as stack:
        dsns = {"source": stack.enter_context(fresh_database(source_server))}
        for service in real.services:
            dsns[service] = stack.enter_context(fresh_database(target_server))
        yield RealLine(real, dsns, directory)


def _execute_all(dsn: str, statements: list[str]) -> None:
    """Each text in a transaction of its own, as its migrations would be run."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        for text in statements:
            with connection.transaction():
                connection.execute(text)


def make_oscar(dsn: str) -> None:
    """Have Django run the migrations of a stock django-oscar shop."""
    environment = {
        "DATABASE_URL": dsn,
        "DJANGO_SETTINGS_MODULE": "oscar_settings",
        "PYTHONPATH": str(Path(__file__).parent / "oscar"),
    }
    words = ("-W", "ignore", "-m", "django", "migrate", "--skip-checks", "-v", "0")
    done = subprocess.run(
        [str(oscar_python()), *words],
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=MIGRATE_S_MAX,
        check=False,
    )
    assert done.returncode == 0, done.stderr


CAMUNDA = RealSchema(
    "camunda",
    lambda dsn: _execute_all(dsn, camunda_sql()),
    {"act_": "engine", "act_hi_": "history", "act_id_": "identity"},
)
LEMMY = RealSchema(
    "lemmy",
    lambda dsn: _execute_all(dsn, lemmy_sql()),
    {
        "": "content",
        **dict.fromkeys(
            ("person", "local_user", "login", "password", "email", "registration"), "people"
        ),
        **dict.fromkeys(("private_message", "captcha", "mod_ban", "mod_add"), "people"),
        **dict.fromkeys(("instance", "federation", "sent_", "received_", "site"), "federation"),
        "local_site": "federation",
    },
    says=frozenset({"trigger-across", "function-across", "foreign-key-action"}),
    contrib=True,
    aborted=True,
)
OSCAR = RealSchema(
    "oscar",
    make_oscar,
    {
        "": "shop",
        **dict.fromkeys(("order_", "payment_", "shipping_"), "fulfilment"),
        **dict.fromkeys(("auth_", "address_", "customer_", "communication_"), "customers"),
        **dict.fromkeys(("wishlists_", "reviews_", "analytics_"), "customers"),
    },
)
MEDUSA = RealSchema(
    "medusa",
    lambda dsn: _execute_all(dsn, medusa_sql()),
    {
        "": "shop",
        **dict.fromkeys(("address", "customer", "user", "invite"), "crm"),
        **dict.fromkeys(("note", "notification"), "crm"),
        **dict.fromkeys(("claim_", "fulfillment", "order_edit", "order_item_change"), "payments"),
        **dict.fromkeys(("payment", "refund", "return", "swap", "tracking_link"), "payments"),
    },
    says=frozenset({"table-keyless", "foreign-key-action"}),
    refuses=frozenset({"23514"}),  # amounts, of which some are more than others
    contrib=True,
)
REAL_SCHEMAS: Final = (CAMUNDA, LEMMY, MEDUSA, OSCAR)
