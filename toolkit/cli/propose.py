"""What ``dbsplit plan propose`` is given, and what it says."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from plans.model import DROP, NAME_PATTERN
from plans.names import slug
from toolkit.cli.options import writing
from toolkit.cli.talk import Talk

if TYPE_CHECKING:
    from plans.propose.proposal import Proposal

# More would push what else is said off the screen.
SHOWN_MAX: Final = 20

STDOUT: Final = "-"


def service_names(text: str) -> tuple[str, ...]:
    """The services of ``--services a,b``.  Raises UsageError."""
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if not names:
        raise click.UsageError("--services names no service; write --services crm,shop")
    for name in names:
        if not re.fullmatch(NAME_PATTERN, name):
            raise click.UsageError(
                f"--services: {name!r} cannot name slots; write a lower-case letter, then up to"
                " 30 of a-z, 0-9, _ and -"
            )
        if name in (DROP, "source"):
            raise click.UsageError(f"--services: {name!r} has a meaning of its own")
    if len({slug(name) for name in names}) < len(names):
        raise click.UsageError("--services: two of the names are the same to a slot")
    return names


def role_services(given: Sequence[str], services: Sequence[str]) -> dict[str, str]:
    """Role to service, of ``--roles service=role,role``.  Raises UsageError."""
    found: dict[str, str] = {}
    for text in given:
        service, _, listed = text.partition("=")
        roles = [role for role in (one.strip() for one in listed.split(",")) if role]
        if not roles or service not in services:
            raise click.UsageError(
                f"--roles {text}: write SERVICE=ROLE,ROLE, with one of {', '.join(services)}"
            )
        for role in roles:
            if found.setdefault(role, service) != service:
                raise click.UsageError(f"--roles: {role} is {found[role]}'s and {service}'s")
    return found


def usage_paths(given: Sequence[str], services: Sequence[str]) -> list[tuple[Path, str | None]]:
    """Paths with their services, of ``--usage [service=]path``.  Raises UsageError."""
    found = []
    for text in given:
        service, sign, path = text.partition("=")
        told = service if sign and service in services else None
        place = Path(path if told else text)
        if not place.exists():
            raise click.UsageError(f"--usage: there is no file or directory {str(place)!r}")
        found.append((place, told))
    return found


def check_output(output: str, *, as_json: bool, force: bool) -> None:
    """Raise UsageError if the plan cannot or must not be written there."""
    if output == STDOUT:
        if as_json:
            raise click.UsageError("-o - and --json both want standard output")
        return
    path = Path(output)
    if path.is_dir():
        raise click.UsageError(f"{output} is a directory")
    if path.exists() and not force:
        raise click.UsageError(f"{output} exists; --force overwrites it")
    if not path.parent.is_dir():
        raise click.UsageError(f"there is no directory {str(path.parent)!r}")


def propose_plan(  # noqa: PLR0913 - the verb's options
    talk: Talk,
    source: str,
    services: tuple[str, ...],
    output: str,
    *,
    owners: Path | None,
    schemas: Sequence[str],
    usage: Sequence[tuple[Path, str | None]],
    roles: dict[str, str],
) -> bool:
    """Propose, write and tell; whether the plan passes the check."""
    from cdc.connect import connect
    from plans.propose.gather import gather
    from plans.propose.proposal import make_proposal
    from plans.usage.paths import Given

    with connect(source, name="dbsplit plan propose") as conn:
        evidence, notes = gather(
            conn,
            services,
            schemas=schemas,
            owners=owners,
            roles=roles,
            usage=[Given(path, service) for path, service in usage],
        )
        proposal = make_proposal(conn, evidence, source=source, path=_shown(output), notes=notes)
    if output == STDOUT:
        sys.stdout.write(proposal.text)
    else:
        with writing(Path(output)):
            Path(output).write_text(proposal.text, encoding="utf-8")
    if not talk.as_json:
        _tell(talk, proposal)
    told = "" if output == STDOUT else _summary(proposal, output)
    talk.result(proposal.as_dict(_shown(output)), told)
    return proposal.ok


def _shown(output: str) -> str:
    return "plan.yaml" if output == STDOUT else output


def _tell(talk: Talk, proposal: Proposal) -> None:
    from plans.findings import Severity

    for note in proposal.draft.notes:
        talk.line("evidence", note)
    for table, what in proposal.draft.contradictions:
        talk.line("warning", f"{table}: {what}")
    decide = proposal.draft.decide
    for about, what in decide[:SHOWN_MAX]:
        talk.line("decide", f"{about}: {what}")
    if len(decide) > SHOWN_MAX:
        talk.line("decide", f"{len(decide) - SHOWN_MAX} more; --json has them all")
    for one in proposal.findings:
        if one.severity is Severity.BLOCKER:
            said = f"{one.place}: {one.object}: {one.message}; {one.remedy}"
            talk.line("blocker", said)


def _summary(proposal: Proposal, output: str) -> str:
    draft = proposal.draft
    owned = Counter(name for table in draft.tables for name in table.shape.services)
    shares = ", ".join(f"{name} {owned[name]}" for name in draft.evidence.services)
    state = "passes plan check" if proposal.ok else "doesn't pass plan check"
    return (
        f"{output}: {len(draft.tables)} tables ({shares}), {len(draft.cost.keys)} foreign keys cut,"
        f" {len(draft.cost.statements)} statements cut, {len(draft.decide)} to decide; {state}"
    )
