"""What the verbs of the command line have in common."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any

import click

from toolkit.cli.talk import AS_JSON, say_failed

if TYPE_CHECKING:
    from toolkit.opened import Split

PLAN = click.argument("plan", type=click.Path(exists=True, dir_okay=False, path_type=Path))
JSON = click.option("--json", "as_json", is_flag=True, help="JSON lines; the last is the result.")
SERVICE = click.option(
    "--service", "services", multiple=True, help="Only this service; may be repeated."
)
JOBS = click.option(
    "--jobs",
    default=2,
    show_default=True,
    type=click.IntRange(1, 64),
    help="Tables that are copied, and indexes that are built, at the same time.",
)
READERS = click.option(
    "--jobs",
    type=click.IntRange(1, 32),
    default=2,
    show_default=True,
    help="Sessions on each side: tables at a time, and parts of a large one.",
)
YES = click.option("--yes", is_flag=True, help="Do not ask.")
FORMAT = click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json", "github", "sarif"]),
    default="text",
    show_default=True,
    help="For people, programs, GitHub's annotations, or code scanning.",
)
DRY_RUN = click.option("--dry-run", is_flag=True, help="Say what would be done; change nothing.")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Have it a usage error that what the user named cannot be written."""
    try:
        yield
    except OSError as error:
        raise click.UsageError(f"cannot write {path}: {error.strerror or error}") from error


def require_directory(path: Path) -> None:
    """Have it a usage error that no file can be made there; makes the directory."""
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=path):
            pass


def require_dsn(dsn: str, name: str) -> None:
    """Have it a usage error to be no connection string; not shown, as a password may be in it."""
    from plans.conninfo import database_of

    if database_of(dsn) is None:
        raise click.UsageError(
            f"{name} isn't a connection string; write postgresql://user@host:port/database,"
            " or host=… dbname=…, or service=NAME"
        )


def require_services(split: Split, services: Sequence[str]) -> None:
    """Have it a usage error that the plan has no such service."""
    from plans.problems import one_of

    for service in services:
        if service not in split.plan.services:
            known = one_of(service, split.plan.services)
            raise click.BadParameter(
                f"the plan has no service {service!r}; {known}", param_hint="--service"
            )


class InOrder(click.Group):
    """Lists the verbs in the order of their use, and tells programs of usage errors."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of their definition."""
        return list(self.commands)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Note whether JSON is wanted, before anything of it is refused."""
        ctx.meta[AS_JSON] = ctx.meta.get(AS_JSON) or "--json" in args
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - as click has it
        """With --json, the last line of standard output is one object, whatever is wrong."""
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            if ctx.parent is None and ctx.meta[AS_JSON]:
                say_failed(error.format_message(), "see --help", error.exit_code)
            raise


def name_variables(command: click.Command, prefix: str) -> None:
    """Let each option stand in the environment by its own name: DBSPLIT_STATUS_JSON."""
    if isinstance(command, click.Group):
        for name, one in command.commands.items():
            name_variables(one, f"{prefix}_{name}".upper())
        return
    for option in command.params:
        if isinstance(option, click.Option) and option.envvar is None:
            longest = max(option.opts, key=len).lstrip("-")
            option.envvar = f"{prefix}_{longest}".upper().replace("-", "_")
