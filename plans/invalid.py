"""pydantic's errors in the words of the plan file."""

from __future__ import annotations

import typing
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from plans.model import NAME_PATTERN, PlanFile
from plans.places import Path
from plans.problems import Problems, one_of


def add_invalid(
    problems: Problems,
    invalid: ValidationError,
    data: Any,  # noqa: ANN401
    model: type[BaseModel] = PlanFile,
) -> None:
    """Add everything that pydantic found wrong in `data`, which should be a `model`."""
    for error in invalid.errors(include_url=False):
        path = _path(error["loc"], data)
        message, remedy = _said(error, path, model)
        problems.add(path, message, remedy, at_key=_is_about_key(error))


def _path(loc: tuple[int | str, ...], data: Any) -> Path:  # noqa: ANN401
    """The error's path in the file; pydantic's names of union members aren't in it."""
    path: list[int | str] = []
    for index, part in enumerate(loc):
        is_last = index == len(loc) - 1
        below = _below(data, part)
        if below is not None:
            (data,) = below
        elif not is_last or part == "[key]" or not isinstance(data, dict):
            continue
        path.append(part)
    return tuple(path)


def _below(data: Any, part: int | str) -> tuple[Any] | None:  # noqa: ANN401
    if isinstance(data, dict) and part in data:
        return (data[part],)
    if isinstance(data, list) and isinstance(part, int) and part < len(data):
        return (data[part],)
    return None


def _is_about_key(error: ErrorDetails) -> bool:
    return error["type"] == "extra_forbidden" or error["loc"][-1:] == ("[key]",)


def _said(error: ErrorDetails, path: Path, model: type[BaseModel]) -> tuple[str, str]:
    context = error.get("ctx", {})
    found = _shown(error["input"], path)
    match error["type"]:
        case "extra_forbidden":
            return f"unknown key {path[-1]!r}", one_of(str(path[-1]), _fields(error["loc"], model))
        case "missing":
            return "is missing", ""
        case "literal_error":
            expected = str(context["expected"])
            known = [word.strip("' ") for word in expected.replace(" or ", ",").split(",")]
            return f"found {found}", one_of(str(error["input"]), known)
        case "union_tag_invalid":
            known = [tag.strip("' ") for tag in str(context["expected_tags"]).split(",")]
            return f"unknown kind {context['tag']!r}", one_of(str(context["tag"]), known)
        case "union_tag_not_found":
            return "'kind' is missing", "one of: command, none, pgbouncer"
        case "string_pattern_mismatch":
            return _pattern(str(context["pattern"]), found)
        case "model_type" | "model_attributes_type" | "dict_type":
            return f"found {found}", "expected a mapping (key: value)"
        case _:
            return f"found {found}", f"{error['msg'][:1].lower()}{error['msg'][1:]}"


def _pattern(pattern: str, found: str) -> tuple[str, str]:
    if pattern == NAME_PATTERN:
        return (
            f"found {found}, which cannot be part of a slot's name",
            "a lower-case letter, then up to 30 of a-z, 0-9, _ and -",
        )
    if pattern == r"\S":
        return f"found {found}, expected a text that isn't empty", ""
    return f"found {found}", "write service.table or service.schema.table"


def _shown(value: Any, path: Path) -> str:  # noqa: ANN401
    if path and str(path[-1]).endswith("dsn"):
        return "something else than a text" if not isinstance(value, str) else "a text"
    if value is None:
        return "nothing"
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    return repr(value)


def _fields(loc: tuple[int | str, ...], model: type[BaseModel]) -> set[str]:
    """The keys that may stand where the unknown one stands."""
    models: set[type[BaseModel]] = {model}
    for part in loc[:-1]:
        below = {
            model
            for holder in models
            if part in holder.model_fields
            for model in _models(holder.model_fields[str(part)].annotation)
        }
        models = below or models  # a table's name, an index: one step down in the same type
    return {name for model in models for name in model.model_fields}


def _models(annotation: Any) -> set[type[BaseModel]]:  # noqa: ANN401
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return {annotation}
    return {model for part in typing.get_args(annotation) for model in _models(part)}
