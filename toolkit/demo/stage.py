"""Where the demo plays: four servers, the bundled database, its plan and its applications."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo
from ruamel.yaml import YAML

import plans.crm_shop
from plans.crm_shop import generate
from plans.errors import NotReady
from toolkit.servers import Server, start_server

SPLIT: Final = "crm-shop"  # the bundled plan's name for it
SOURCE: Final = "source"
SWITCH_S_MAX: Final = 20  # it only writes a file, but Python may start slowly on a busy machine
SERVICES: Final = ("crm", "shop", "orchestrator")
ROLES: Final = ("crm_api", "shop_api", "mes_api", "orchestrator")
_DATABASES: Final = {SOURCE: "shared", **{service: service for service in SERVICES}}
_CASE: Final = Path(plans.crm_shop.__file__).parent
_SCHEMA: Final = _CASE.parent / "plan.schema.json"


@dataclass(frozen=True, slots=True)
class Stage:
    """The running servers, by the names that the plan gives them."""

    servers: Mapping[str, Server]

    def dsn(self, name: str, *, role: str | None = None) -> str:
        """Where the source or a service is, for the superuser or a role."""
        dsn = self.servers[name].dsn(_DATABASES[name])
        return dsn if role is None else make_conninfo(dsn, user=role)

    @property
    def environment(self) -> dict[str, str]:
        """The variables that the plan takes its DSNs from."""
        return {f"DBSPLIT_{name.upper()}_DSN": self.dsn(name) for name in self.servers}

    def write_environment(self, path: Path) -> Path:
        """A file for the shell that sets the variables; passwords are in it."""
        path.touch(mode=0o600)
        lines = [f"export {name}='{value}'\n" for name, value in self.environment.items()]
        path.write_text("".join(lines), encoding="utf-8")
        return path

    def leave_running(self) -> list[str]:
        """Let the servers outlive this process; returns the commands that end them."""
        return [
            f"{server.leave_running()}; sleep 1; rm -r {server.root}"
            for server in self.servers.values()
        ]


@contextmanager
def running_stage(version: str | None, said: Callable[[str], None]) -> Iterator[Stage]:
    """Four servers with empty databases and the applications' roles; gone afterwards.

    They are separate servers because their system identifiers are what a cutover tells
    the sides apart by.  Raises NotReady if there are no programs of this version.
    """
    with ExitStack() as stack:
        servers = {}
        for name in _DATABASES:
            said(name)
            # Not "trust": with that, whoever is on this machine is superuser of them.
            server = servers[name] = start_server(version=version, auth="scram")
            stack.callback(server.discard)
            _furnish(server, _DATABASES[name])
        yield Stage(servers)


def _furnish(server: Server, database: str) -> None:
    with psycopg.connect(server.dsn(), autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(database)))
        for role in ROLES:
            # One password for a server, so that a DSN serves each role with its name put in.
            admin.execute(
                sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(
                    sql.Identifier(role), sql.Literal(server.password)
                )
            )


def load(stage: Stage, scale: float) -> int:
    """Fill the shared database; returns the number of its rows."""
    generate.create(stage.dsn(SOURCE))
    return sum(generate.load(stage.dsn(SOURCE), scale=scale).values())


def write_plan(path: Path, switch: list[str]) -> None:
    """The bundled plan with a traffic switch, and otherwise as it is, comments included."""
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096  # no line is broken anew
    yaml.indent(mapping=2, sequence=4, offset=2)
    plan = yaml.load((_CASE / "plan.yaml").read_text(encoding="utf-8"))
    orchestrator = plan["services"]["orchestrator"]
    orchestrator["revisions"] = str(_CASE / orchestrator["revisions"])
    plan["switch"].update(kind="command", command=switch, timeout_s=SWITCH_S_MAX)
    with path.open("w", encoding="utf-8") as file:
        yaml.dump(plan, file)
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("$schema=../plan.schema.json", f"$schema={_SCHEMA}"), "utf-8")


def make_directory(directory: Path) -> None:
    """A directory for what stays; NotReady if an earlier run or somebody else has filled it."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        filled = any(directory.iterdir())
    except OSError as error:
        raise NotReady(
            f"{directory} cannot be made: {error.strerror}", hint="name another one by --dir"
        ) from None
    if filled:
        raise NotReady(
            f"{directory} is not empty",
            hint="name a new directory by --dir: the histories of two runs must not mix",
        )
