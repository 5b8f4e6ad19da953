"""The statements to judge: from code, from scripts, from logs, from statistics."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from plans.errors import SplitError
from plans.load import Plan
from plans.queries.crossing import fingerprint
from plans.usage.files import Skipped, files_below, read_files
from plans.usage.logs import SUFFIXES, LogReader
from plans.usage.model import Executed
from plans.usage.search_paths import Paths, path_of


@dataclass(frozen=True, slots=True)
class Text:
    """SQL and where it stands."""

    text: str
    file: str
    line: int
    service: str | None = None  # whose it is, if that is known
    times: int = 1  # that it was executed, where that is known
    search_path: tuple[str, ...] | None = None  # under which it was; None is the plan's schemas


class NoSuchPath(SplitError):
    """A path of the command line that cannot be read."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class Spec:
    """A path, and the service whose code or log it is, if that was said."""

    path: Path
    service: str | None = None

    @classmethod
    def of(cls, argument: str, services: Iterable[str]) -> Spec:
        """``shop=src/shop``, or a path alone; raises NoSuchPath."""
        name, equals, rest = argument.partition("=")
        service = name if equals and name in set(services) else None
        path = Path(rest if service else argument)
        if not path.exists():
            known = ", ".join(services)
            raise NoSuchPath(
                f"there is no file or directory {path}",
                hint=f"name a path, or SERVICE=PATH with one of: {known}",
            )
        return cls(path, service)


@dataclass(slots=True)
class Collector:
    """Reads texts; what was executed often comes once."""

    plan: Plan
    database: str
    log_prefix: str | None = None
    paths: Paths = field(default_factory=dict)  # the search paths of roles
    skipped: dict[str, str] = field(default_factory=dict)  # file to why

    def read(self, specs: Iterable[Spec]) -> Iterator[Text]:
        """All that stands in files and directories."""
        for spec in specs:
            logs = [file for file in files_below(spec.path) if _is_log(file)]
            yield from self._logs(logs, spec.service)
            if spec.path.is_dir() or spec.path not in logs:
                for found in read_files([spec.path], self._skip):
                    yield Text(found.text, found.file, found.line, spec.service)

    def executed(
        self, statements: Iterable[Executed], service: str | None = None
    ) -> Iterator[Text]:
        """Statements that were executed, each kind of one role once."""
        first: dict[tuple[str, str, tuple[str, ...] | None], Text] = {}
        by_role = self._services()
        for one in statements:
            path = path_of(one, self.paths, self.plan.source.schemas)
            key = (fingerprint(one.text) or one.text, one.actor.role, path)
            if key in first:
                before = first[key]
                first[key] = replace(before, times=before.times + round(one.calls))
                continue
            file, _, line = one.place.rpartition(":")
            whose = service or by_role.get(one.actor.role)
            where = (file, int(line)) if line.isdigit() else (one.place, 1)
            first[key] = Text(one.text, *where, whose, round(one.calls), path)
        yield from first.values()

    def _logs(self, files: Iterable[Path], service: str | None) -> Iterator[Text]:
        reader = LogReader(self.database, self.log_prefix)

        def statements() -> Iterator[Executed]:
            for file in files:
                try:
                    yield from reader.read(file)
                except OSError as error:
                    self._skip(str(file), error.strerror or str(error))

        yield from self.executed(statements(), service)
        if reader.broken:
            self._skip("logs", f"{reader.broken} records were cut off or could not be read")

    def _services(self) -> Mapping[str, str]:
        return {role: s for s, one in self.plan.services.items() for role in one.roles}

    @property
    def _skip(self) -> Skipped:
        return self.skipped.__setitem__


def _is_log(file: Path) -> bool:
    return any(suffix.lower() in SUFFIXES for suffix in file.suffixes)
