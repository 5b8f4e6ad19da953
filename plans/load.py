"""Loading a plan file: everything that is wrong with it is said at once, with its place."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from plans import coherence, conninfo, names
from plans.invalid import add_invalid
from plans.model import (
    CommandSwitch,
    CutForeignKey,
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
from plans.problems import PlanProblems, Problems
from plans.yaml_file import read_yaml


@dataclass(frozen=True, slots=True)
class Plan:
    """A plan that doesn't contradict itself, with its variables filled in."""

    path: Path
    content: PlanFile
    places: Places = field(repr=False)
    dsns_written: Mapping[str, str] = field(default_factory=dict, repr=False)
    """The services' DSNs as the file has them: variables are not filled in, no secret is there."""

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
    def slots(self) -> Slots:
        """How the slots are made, and when they are given up."""
        return self.content.slots

    @property
    def switch(self) -> PgbouncerSwitch | CommandSwitch | NoSwitch:
        """Who switches the traffic."""
        return self.content.switch

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


def load_plan(path: Path, env: Mapping[str, str], *, targets: bool = True) -> Plan:
    """Read and check a plan file.

    Without `targets` the services' databases are of no concern: variables in their DSNs
    need no value, and are not filled in.

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
    _expand(data, env, problems, targets=targets)
    try:
        content = PlanFile.model_validate(data, context={"directory": path.parent})
    except ValidationError as invalid:
        add_invalid(problems, invalid, data)
        coherence.check_readable(data, problems)
        raise PlanProblems(places.file, problems.all) from None
    coherence.check(content, problems)
    problems.raise_if_any()
    return Plan(path, content, places, written)


def _expand(
    data: Any,  # noqa: ANN401
    env: Mapping[str, str],
    problems: Problems,
    *,
    targets: bool,
) -> None:
    for holder, key, path in _dsns(data):
        if path[0] == "services" and not targets:
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
