"""A plan proposed from a source: the file's text, and whether it would pass the check."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import psycopg

from plans.boundary import Boundary
from plans.check import check_source
from plans.coherence import SLOT_NAME_LENGTH_MAX
from plans.compile import compile_all
from plans.findings import Finding, Severity, has_blocker
from plans.load import Plan, load_plan
from plans.names import back_slot
from plans.propose.cost import cost, with_copies_suggested
from plans.propose.draft import Draft, propose
from plans.propose.evidence import Evidence
from plans.propose.text import dsn_variable, plan_text

# Of plans.model.NAME_PATTERN.
_NAME_LENGTH_MAX: Final = 31


@dataclass(frozen=True, slots=True)
class Proposal:
    """A draft as text, with what `plan check` says of it."""

    draft: Draft
    text: str
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing blocks the plan."""
        return not has_blocker(self.findings)

    def as_dict(self, path: str) -> dict[str, Any]:
        """For JSON."""
        draft = self.draft
        return {
            "plan": path,
            "ok": self.ok,
            "tables": [table.as_dict() for table in draft.tables],
            "roles": {role.name: {"service": role.service, "why": role.why}
                      for role in draft.roles.all},
            "groups": [list(group) for group in draft.groups],
            "cut": {
                "foreign_keys": [asdict(key) for key in draft.cost.keys],
                "statements": [asdict(one) for one in draft.cost.statements],
                "calls_per_day": sum(one.per_day for one in draft.cost.statements),
            },
            "decide": [{"about": about, "what": what} for about, what in draft.decide],
            "warnings": [f"{table}: {what}" for table, what in draft.contradictions],
            "notes": list(draft.notes),
            "findings": [asdict(one) for one in self.findings],
        }  # fmt: skip


def make_proposal(
    conn: psycopg.Connection[Any],
    evidence: Evidence,
    *,
    source: str,
    path: str,
    notes: Iterable[str] = (),
) -> Proposal:
    """Propose a plan for the database of `conn`, and check it there.

    `source` is that database's DSN; `path`, where the plan will be, is what places in
    the findings begin with.  The services' databases need not exist.
    """
    draft = propose(split_name(evidence.catalog.database, evidence.services), evidence, notes)
    env = _environment(source, evidence.services)
    with tempfile.TemporaryDirectory(prefix="dbsplit-propose-") as directory:
        file = Path(directory, "plan.yaml")
        plan = _loaded(file, plan_text(draft), env)
        routes = compile_all(plan, evidence.catalog).routes
        boundary = Boundary.of(routes)
        draft = with_copies_suggested(replace(draft, cost=cost(draft, boundary)), boundary)
        text = plan_text(draft)
        found = check_source(_loaded(file, text, env), conn)
        findings = tuple(
            replace(one, place=path + one.place.removeprefix(str(file))) for one in found
        )
    blockers = [one for one in findings if one.severity is Severity.BLOCKER]
    return Proposal(draft, plan_text(draft, blockers) if blockers else text, findings)


def split_name(database: str, services: Sequence[str]) -> str:
    """A name for the split, after its database and short enough for every slot's name."""
    longest = max((len(back_slot("", service)) for service in services), default=0)
    room = min(_NAME_LENGTH_MAX, SLOT_NAME_LENGTH_MAX - longest)
    slug = re.sub(r"[^a-z0-9_-]+", "-", database.lower()).lstrip("-_0123456789")[:room].rstrip("-")
    return slug or "split"


def _loaded(file: Path, text: str, env: Mapping[str, str]) -> Plan:
    file.write_text(text, encoding="utf-8")
    return load_plan(file, env)


def _environment(source: str, services: Sequence[str]) -> dict[str, str]:
    """DSNs for the check, which looks at the source only: the services' lead nowhere."""
    return {
        "DBSPLIT_SOURCE_DSN": source,
        **{
            dsn_variable(service): f"host=127.0.0.1 port=1 dbname={service}" for service in services
        },
    }
