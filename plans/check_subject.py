"""What a check looks at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from plans.boundary import Boundary
from plans.catalog import Catalog, TableName
from plans.findings import Finding, Severity
from plans.load import Plan
from plans.places import Path
from plans.routes import Route


@dataclass(frozen=True, slots=True)
class Subject:
    """A plan, the source's catalog and the routes that the plan means."""

    plan: Plan
    catalog: Catalog
    routes: Sequence[Route]
    boundary: Boundary
    paths: dict[TableName, Path] = field(default_factory=dict)  # of the plan's entries

    @classmethod
    def of(cls, plan: Plan, catalog: Catalog, routes: Sequence[Route]) -> Subject:
        """The subject, with its boundary and the places of its tables."""
        found = {name: catalog.find(name) for name in plan.tables}
        paths: dict[TableName, Path] = {
            table.name: ("tables", name) for name, table in found.items() if table
        }
        return cls(plan, catalog, routes, Boundary.of(routes), paths)

    def finding(  # noqa: PLR0913 - a finding's own parts
        self,
        severity: Severity,
        code: str,
        about: object,
        path: Path | TableName,
        message: str,
        *,
        why: str = "",
        remedy: str = "",
    ) -> Finding:
        """A finding at a path of the plan, or at a table's entry."""
        if isinstance(path, TableName):
            path = self.paths.get(path, ("tables",))
        place = self.plan.place(path)
        return Finding(severity, code, str(about), place, message, why, remedy)
