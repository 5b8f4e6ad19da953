"""Reading a YAML file with the place of everything in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from plans.places import Places, TooManyEntries, entries
from plans.problems import PlanProblems, Problem


def read_yaml(path: Path) -> tuple[Any, Places]:
    """The data of a file and the places of its entries; keys that stand twice are in these.

    Raises PlanInvalid for what is no YAML, OSError if the file cannot be read.
    """
    raw = path.read_bytes()
    try:
        text = raw.decode("utf-8-sig")
        found = entries(YAML(typ="rt", pure=True).compose(text))
        reader = YAML(typ="safe", pure=True)
        reader.allow_duplicate_keys = True  # reported by us, all of them
        data = reader.load(text)
    except UnicodeDecodeError as error:
        raise _unreadable(path, f"isn't UTF-8: byte {error.start}") from None
    except MarkedYAMLError as error:
        raise _broken(path, error) from None
    except (YAMLError, TooManyEntries, RecursionError, ValueError) as error:
        raise _unreadable(path, f"isn't readable YAML: {error}") from None
    repeated = tuple(entry for entry in found if entry.is_repeated)
    first = {entry.path: entry for entry in reversed(found) if not entry.is_repeated}
    return data, Places(str(path), first, repeated)


def _broken(path: Path, error: MarkedYAMLError) -> PlanProblems:
    mark = error.problem_mark or error.context_mark
    place = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
    what = ", ".join(part for part in (error.context, error.problem) if part)
    return PlanProblems(str(path), [Problem(place, "", f"isn't readable YAML: {what}")])


def _unreadable(path: Path, message: str) -> PlanProblems:
    return PlanProblems(str(path), [Problem(f"{path}:1:1", "", message)])
