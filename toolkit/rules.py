"""Which rules are asked where: suites from the constraints, from the plan and from files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cdc.connect import Connection, connect
from plans.catalog import TableName
from plans.errors import NotReady, PlanInvalid
from plans.routes import Route
from toolkit.opened import Split
from toolkit.orphans import checked_cuts
from toolkit.say import Say
from toolkit.state import Direction, Phase, direction_of, phases
from validators.orphans import OrphanResult
from validators.rules.constraints import Constraint, read_constraints
from validators.rules.data_docs import is_ours
from validators.rules.generated import ORPHANS, generated_rules, orphan_rule, row_part_rules
from validators.rules.job import Run
from validators.rules.process import RULE_S_MAX, require_library, run_rules
from validators.rules.rows import ServiceTable, tables_of
from validators.rules.rule import SIDES, Outcome, Rule, RuleResult, Side
from validators.rules.suite_files import read_suites

SUITES = "rules"
"""The directory beside the plan in which suites are looked for, if there is one."""

Tables = Mapping[str, Mapping[TableName, ServiceTable]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """Which rules are wanted, and what is to become of their results."""

    services: Sequence[str] = ()  # all without any
    tables: Sequence[str] = ()
    suites: Path | None = None  # the directory; without it, the one beside the plan
    docs: Path | None = None  # where Data Docs are written
    rule_s_max: float = RULE_S_MAX

    def wants(self, rule: Rule) -> bool:
        """Whether the rule is about a service and a table that were chosen."""
        names = (rule.table, rule.table.partition(".")[2])
        return (not self.services or rule.service in self.services) and (
            not self.tables or any(name in self.tables for name in names)
        )


def wanted_rules(split: Split, chosen: Chosen, source: Connection) -> list[Rule]:
    """The rules that were chosen.

    Raises NotReady without Great Expectations, PlanInvalid with all that is wrong in suites,
    and for a directory of documents that holds something else.
    """
    require_library()
    if chosen.docs is not None:
        _make_directory(chosen.docs)
    return [rule for rule in rules_of(split, chosen.suites, source) if chosen.wants(rule)]


def check_rules(
    split: Split,
    rules: Sequence[Rule],
    chosen: Chosen,
    source: Connection,
    orphans: Iterable[OrphanResult],
    say: Say,
) -> list[RuleResult]:
    """Ask every rule on each side where it is to hold.

    `orphans` are what was found across databases; they become results as well.
    """
    now = phases(source, split.name)
    runs = [
        Run(
            service=service,
            side=side,
            dsn=split.plan.source.dsn if side == "source" else split.dsn(service),
            search_path=_schemas(split, service if side == "target" else None),
            rules=asked,
            follows=follows(side, [r for r in split.routes if r.service == service], now),
        )
        for service in split.plan.services
        for side in SIDES
        if (asked := tuple(r for r in rules if r.service == service and side in r.queries))
    ]
    results = run_rules(
        runs,
        docs=chosen.docs,
        rule_s_max=chosen.rule_s_max,
        report=lambda run, found: say("rules", _progress(run, found)),
    )
    across = [_of_orphans(one) for one in orphans]
    return results + [one for one in across if not chosen.tables or _is_about(one, chosen)]


def follows(side: Side, routes: Iterable[Route], now: Mapping[str, Phase]) -> bool:
    """Whether a stream writes what a service's rules read on a side.

    So it is with copies of what others own, too, whoever leads the service itself.
    """
    if side == "target":
        return any(direction_of(route, now) is Direction.CUTOVER for route in routes)
    return any(now.get(route.owner) is Phase.MOVED for route in routes)


def rules_of(split: Split, suites: Path | None, source: Connection) -> list[Rule]:
    """All rules of the split: generated ones, then those of files."""
    tables = {
        service: _in_order(split, tables_of(service, split.routes, split.targets[service]))
        for service in split.plan.services
    }
    rules: list[Rule] = []
    there = read_constraints(source, list(split.plan.source.schemas))
    parts = _row_parts(split)
    for service, own in tables.items():
        rules += generated_rules(own, there, _target_constraints(split, service))
        rules += row_part_rules(own, parts)
    for cut in checked_cuts(split):
        rules.append(orphan_rule(cut, tables[cut.service][split.catalog.root(cut.key.table)]))
    directory = suites or _beside(split.plan.path)
    if directory is not None:
        rules += _written(directory, tables)
    return rules


def _make_directory(docs: Path) -> None:
    """The directory of the documents, before anything is asked in vain."""
    if not is_ours(docs):
        raise PlanInvalid(
            f"{docs} holds something else than documents of rules", hint="name a new directory"
        )
    try:
        docs.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise NotReady(
            f"{docs} cannot be made: {error.strerror}", hint="name another directory by --docs"
        ) from None


def _written(directory: Path, tables: Tables) -> Iterable[Rule]:
    if not directory.is_dir():
        raise PlanInvalid(
            f"there is no directory {directory}", hint="name the directory that holds the suites"
        )
    return read_suites(directory, {name: tuple(own.values()) for name, own in tables.items()})


def _beside(plan: Path) -> Path | None:
    directory = plan.parent / SUITES
    return directory if directory.is_dir() else None


def _in_order(
    split: Split, tables: Mapping[TableName, ServiceTable]
) -> Mapping[TableName, ServiceTable]:
    """Those of the plan's first schema first: a bare name means one of these."""
    order = {schema: number for number, schema in enumerate(split.plan.source.schemas)}
    names = sorted(tables, key=lambda name: (order.get(name.schema, len(order)), name))
    return {name: tables[name] for name in names}


def _target_constraints(split: Split, service: str) -> tuple[Constraint, ...]:
    schemas = sorted({name.schema for name in split.targets[service].tables})
    with connect(split.dsn(service), name="dbsplit rules") as connection:
        return read_constraints(connection, schemas)


def _row_parts(split: Split) -> Mapping[TableName, Mapping[str, str]]:
    """The predicates of each table that is split by rows."""
    found: dict[TableName, Mapping[str, str]] = {}
    for name, entry in split.plan.tables.items():
        table = split.catalog.find(name)
        if table is not None and entry.split_rows:
            found[table.name] = entry.split_rows
    return found


def _schemas(split: Split, service: str | None) -> tuple[str, ...]:
    """Where names are looked up: in the source, or in a service's database."""
    own = tuple(split.plan.source.schemas)
    if service is None:
        return own
    there = {name.schema for name in split.targets[service].tables}
    return (*own, *sorted(there - set(own)))


def _of_orphans(found: OrphanResult) -> RuleResult:
    """What the check across databases found, as a rule on the target's side."""
    table, _, name = found.foreign_key.rpartition(".")
    outcome: Outcome = "failed" if found.orphans else "passed"
    return RuleResult(
        rule=f"{ORPHANS} {table.rpartition('.')[2]}.{name}",
        service=found.service,
        table=table,
        side="target",
        outcome="unverified" if found.state == "unverified" else outcome,
        unexpected=found.orphans,
        examples=tuple({"refers to": ", ".join(map(str, key))} for key in found.sample),
        reason=found.reason,
        meaning=f"refers to a row of {found.references} that its service has",
    )


def _is_about(found: RuleResult, chosen: Chosen) -> bool:
    return any(n in chosen.tables for n in (found.table, found.table.partition(".")[2]))


def _progress(run: Run, found: Sequence[RuleResult]) -> dict[str, Any]:
    broken = sum(result.outcome == "failed" for result in found)
    return {"service": run.service, "side": run.side, "rules": len(found), "broken": broken}
