"""What is wrong with a plan, and where: all of it at once, not only the first thing."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field

from plans.errors import PlanInvalid
from plans.places import Mark, Path, Places, dotted


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that has to be changed in the plan."""

    place: str  # "plan.yaml:12:5"
    path: str  # "tables.customers.split_columns.crm"
    message: str
    remedy: str = ""
    at: Path = ()  # the same as `path`, in parts

    def __str__(self) -> str:
        path = f"{self.path}: " if self.path else ""
        remedy = f"; {self.remedy}" if self.remedy else ""
        return f"{self.place}: {path}{self.message}{remedy}"


class PlanProblems(PlanInvalid):
    """A plan that is wrong, with everything that is wrong in it."""

    def __init__(self, file: str, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        count = len(self.problems)
        lines = [f"{file} has {count} problem{'' if count == 1 else 's'}"]
        super().__init__("\n  ".join([*lines, *map(str, self.problems)]))


@dataclass(slots=True)
class Problems:
    """Collects problems, in the order of the file."""

    places: Places
    # A dict for its order and its quick answer: a plan may have thousands.
    found: dict[tuple[Mark, Problem], None] = field(default_factory=dict)

    def add(self, path: Path, message: str, remedy: str = "", *, at_key: bool = False) -> None:
        """Note that something is wrong at `path`."""
        self.add_at(self.places.mark(path, at_key=at_key), path, message, remedy)

    def add_at(self, mark: Mark, path: Path, message: str, remedy: str = "") -> None:
        """Note that something is wrong at a mark."""
        problem = Problem(self.places.at(mark), dotted(path), message, remedy, path)
        self.found.setdefault((mark, problem))

    @property
    def all(self) -> tuple[Problem, ...]:
        """The problems, in the order of the file."""
        return tuple(problem for _, problem in sorted(self.found, key=lambda found: found[0]))

    def raise_if_any(self) -> None:
        """Raise PlanProblems if there is a problem."""
        if self.found:
            raise PlanProblems(self.places.file, self.all)


def suggestion(name: str, known: Iterable[str]) -> str:
    """``did you mean 'target'?``, or nothing if no known name is alike."""
    names = sorted(set(known))
    by_lower = {known_name.lower(): known_name for known_name in names}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.6)
    return f"did you mean {by_lower[close[0]]!r}?" if close else ""


def one_of(name: str, known: Iterable[str]) -> str:
    """A suggestion, or the list of what would be right."""
    names = sorted(set(known))
    return suggestion(name, names) or (f"one of: {', '.join(names)}" if names else "")
