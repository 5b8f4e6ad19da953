"""Loading a plan file: everything that is wrong with it is said at once, with its place."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from plans import coherence, conninfo, names
from plans.invalid import add_invalid
from plans.model import (
    DROP,
    CommandSwitch,
    CutForeignKey,
    Ddl,
    Limits,
    Listing,
    NoSwitch,
    PgbouncerSwitch,
    PlanFile,
    Sequences,
    Service,
    Slots,
    Source,
    TablePlan,
)
from plans.places import Path as PlanPath
from plans.places import Places
from plans.problems import PlanProblems, Problem, Problems
from plans.yaml_file import read_yaml


class Targets(Enum):
    """What a reader of the plan wants of the services' databases."""

    NEEDED = auto()  # every variable in their DSNs must have a value
    IF_SET = auto()  # a service whose variables have none is passed over: `Plan.unset`
    IGNORED = auto()  # they are of no concern, and their DSNs are not filled in


@dataclass(frozen=True, slots=True)
class Plan:
    """A plan that doesn't contradict itself, with its variables filled in."""

    path: Path
    content: PlanFile
    places: Places = field(repr=False)
    dsns_written: Mapping[str, str] = field(default_factory=dict, repr=False)
    """The services' DSNs as the file has them: variables are not filled in, no secret is there."""

    unset: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Services whose DSN is not known, with the variables that have no value (`Targets.IF_SET`)."""

    @property
    def split(self) -> str:
        """The split's name."""
        return self.content.split

    @property
    def slug(self) -> str:
        """The split's name as part of slot names, which have no hyphens."""
        return names.slug(self.content.split)

    @property
    def source(self) -> Source:
        """The shared database."""
        return self.content.source

    @property
    def services(self) -> Mapping[str, Service]:
        """The services by name, in the plan's order."""
        return self.content.services

    @property
    def tables(self) -> Mapping[str, TablePlan]:
        """What becomes of each table, by the name that the plan gives it."""
        return self.content.tables

    @property
    def foreign_keys(self) -> Mapping[str, CutForeignKey]:
        """The foreign keys that the split cuts, by name."""
        return self.content.foreign_keys

    @property
    def lists(self) -> Mapping[str, Listing]:
        """Queries whose rows somebody should see."""
        return self.content.lists

    @property
    def sequences(self) -> Sequences:
        """How sequences are set on a new leader."""
        return self.content.sequences

    @property
    def limits(self) -> Limits:
        """Bounds of the steps."""
        return self.content.limits

    @property
    def ddl(self) -> Ddl:
        """What happens when the source's schema changes."""
        return self.content.ddl

    @property
    def slots(self) -> Slots:
        """How the slots are made, and when they are given up."""
        return self.content.slots

    @property
    def switch(self) -> PgbouncerSwitch | CommandSwitch | NoSwitch:
        """Who switches the traffic."""
        return self.content.switch

    def said_unset(self, service: str) -> str:
        """That the DSN of a service is not known, and why: `DBSPLIT_CRM_DSN is not set`."""
        names = self.unset[service]
        return f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'} not set"

    @property
    def digest(self) -> str:
        """SHA-256 over what prepare depends on.

        DSNs, roles, limits, the switch, lists and masks may change while a split runs.
        """
        said = {
            "split": self.split,
            "schemas": self.source.schemas,
            "services": sorted(self.services),
            "tables": {
                name: table.model_dump(mode="json", exclude={"mask"})
                for name, table in self.tables.items()
            },
            "foreign_keys": {
                name: key.model_dump(mode="json") for name, key in self.foreign_keys.items()
            },
        }
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()

    def place(self, path: PlanPath) -> str:
        """Where in the file something stands: ``plan.yaml:12:5``."""
        return self.places.place(path)


def load_plan(path: Path, env: Mapping[str, str], *, targets: Targets = Targets.NEEDED) -> Plan:
    """Read and check a plan file.

    Raises PlanInvalid with all problems, each with file, line, column, path and
    suggestion; OSError if the file cannot be read.
    """
    data, places = read_yaml(path)
    problems = Problems(places)
    for entry in places.repeated:
        problems.add_at(
            entry.key, entry.path, f"{entry.path[-1]!r} stands here twice", "keep one of them"
        )
    written = {
        str(path[1]): holder[key] for holder, key, path in _dsns(data) if path[0] == "services"
    }
    unset = dict(_unset(written, env)) if targets is Targets.IF_SET else {}
    unknown = written if targets is Targets.IGNORED else unset
    _expand(data, env, problems, unknown=unknown)
    try:
        content = PlanFile.model_validate(data, context={"directory": path.parent})
    except ValidationError as invalid:
        add_invalid(problems, invalid, data)
        coherence.check_readable(data, problems)
        raise PlanProblems(places.file, problems.all) from None
    coherence.check(content, problems)
    problems.raise_if_any()
    return Plan(path, content, places, written, unset)


def without_wrong(path: Path, env: Mapping[str, str], wrong: Iterable[Problem]) -> Plan | None:
    """The plan without the entries that are wrong, by which to say what else is.

    Such a table is as if it were dropped, and the services' databases are unknown.  None if
    so little is left that it would tell nothing.
    """
    wrong = tuple(wrong)
    if not all(problem.at for problem in wrong):
        return None  # it isn't readable at all
    data, places = read_yaml(path)
    if not all(_take_out(data, problem.at) for problem in wrong):
        return None
    _expand(data, env, Problems(places), unknown=data["services"])
    try:
        content = PlanFile.model_validate(data, context={"directory": path.parent})
    except ValidationError:
        return None
    return Plan(path, content, places)


def _take_out(data: Any, at: PlanPath) -> bool:  # noqa: ANN401
    """Take the entry out that something is wrong with; False if all others hang on it."""
    match at:
        case ("tables", name, *_):
            data["tables"][name] = DROP
        case ("foreign_keys" | "lists" as section, name, *_):
            data[section].pop(name, None)
        case ("limits" | "sequences" | "slots" | "ddl" | "switch" as section, *_):
            data.pop(section, None)
        case ("services", _, "dsn"):
            pass
        case _:
            return False
    return True


def _unset(
    written: Mapping[str, str], env: Mapping[str, str]
) -> Iterator[tuple[str, tuple[str, ...]]]:
    for service, dsn in written.items():
        if names := conninfo.unset(dsn, env):
            yield service, names


def _expand(
    data: Any,  # noqa: ANN401
    env: Mapping[str, str],
    problems: Problems,
    *,
    unknown: Collection[str],
) -> None:
    """Fill in all DSNs but those of the services that are `unknown`."""
    for holder, key, path in _dsns(data):
        if path[0] == "services" and path[1] in unknown:
            continue
        expanded = conninfo.expand(holder[key], env)
        for message, remedy in expanded.problems:
            problems.add(path, message, remedy)
        # What is wrong is said once; the model should only see that there is one.
        holder[key] = holder[key] if expanded.problems else expanded.dsn


def _dsns(data: Any) -> Iterator[tuple[dict[str, str], str, PlanPath]]:  # noqa: ANN401
    """Every DSN's holder and key, as far as the file has the expected shape."""
    if not isinstance(data, dict):
        return
    yield from _dsn(data, "source", "dsn")
    yield from _dsn(data, "switch", "admin_dsn")
    services = data.get("services")
    if isinstance(services, dict):
        for name in services:
            for holder, key, path in _dsn(services, name, "dsn"):
                yield holder, key, ("services", *path)


def _dsn(
    data: dict[str, Any], name: str, key: str
) -> Iterator[tuple[dict[str, str], str, PlanPath]]:
    holder = data.get(name)
    if isinstance(holder, dict) and isinstance(holder.get(key), str):
        yield holder, key, (name, key)
