"""From a plan and the catalogs to routes: what copy, stream and comparison work from."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from plans.assignment import Placed, assign
from plans.catalog import Catalog, TableName
from plans.load import Plan
from plans.problems import PlanProblems, Problem, Problems
from plans.routes import Route
from plans.routes_derived import derived_routes
from plans.routes_owned import owned_routes


@dataclass(frozen=True, slots=True)
class Compiled:
    """The routes that could be made, and what stands against the others."""

    routes: tuple[Route, ...]
    problems: tuple[Problem, ...]


def compile_routes(
    plan: Plan, catalog: Catalog, targets: Mapping[str, Catalog] | None = None
) -> tuple[Route, ...]:
    """The plan's routes, in the order of the plan.

    `targets` are the catalogs of the services' databases after prepare.
    Without them the target columns of derived routes have the type ''.

    Raises PlanInvalid with all problems, each with its place in the plan.
    """
    compiled = compile_all(plan, catalog, targets)
    if compiled.problems:
        raise PlanProblems(plan.places.file, compiled.problems)
    return compiled.routes


def compile_all(
    plan: Plan, catalog: Catalog, targets: Mapping[str, Catalog] | None = None
) -> Compiled:
    """The routes and all problems, for a report on both."""
    problems = Problems(plan.places)
    placed: list[Placed] = []
    for assignment in assign(plan, catalog, problems):
        placed += owned_routes(assignment, targets, problems)
        placed += derived_routes(assignment, targets, problems)
    _check_shared_targets(placed, problems)
    return Compiled(tuple(one.route for one in placed), problems.all)


def _check_shared_targets(placed: list[Placed], problems: Problems) -> None:
    """Routes into one table are told apart by constants of their keys."""
    by_target: dict[tuple[str, TableName], list[Placed]] = defaultdict(list)
    for one in placed:
        by_target[one.route.service, one.route.target].append(one)
    for (service, target), sharing in by_target.items():
        if _are_told_apart([one.route for one in sharing]):
            continue
        others = ", ".join(one.route.id for one in sharing)
        for one in sharing:
            problems.add(
                one.path,
                f"several routes fill {service}.{target} ({others}) and nothing tells their"
                " rows apart",
                "give each key a column with a constant of its own, such as system: \"'crm'\"",
            )


def _are_told_apart(routes: list[Route]) -> bool:
    if len(routes) == 1:
        return True
    constants = {route.fixed for route in routes}
    columns = {tuple(name for name, _ in route.fixed) for route in routes}
    return len(constants) == len(routes) and len(columns) == 1 and () not in columns
