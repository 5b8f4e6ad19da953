"""What the verbs of the command line have in common."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

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
    """Lists the verbs in the order of their use, not of the alphabet."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of their definition."""
        return list(self.commands)
