"""Every crash point stands in the code once, and every one has a test that dies there."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import cdc
import toolkit
import validators
from cdc.crash import POINTS
from tests.crash.points import (
    BESIDE,
    BUDGET,
    COPY,
    MOVE,
    POSITION,
    PREPARE,
    REFRESH,
    REPAIR,
    STREAM,
    VALIDATE,
)

PACKAGES = (cdc, toolkit, validators)


def points_in_code() -> Counter[str]:
    found: Counter[str] = Counter()
    for package in PACKAGES:
        for path in Path(package.__path__[0]).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and _called(node) == "crash_point":
                    [argument] = node.args
                    assert isinstance(argument, ast.Constant), f"{path}:{node.lineno}"
                    found[str(argument.value)] += 1
    return found


def _called(node: ast.Call) -> str:
    return getattr(node.func, "id", "") or getattr(node.func, "attr", "")


def test_each_point_stands_in_the_code_exactly_once() -> None:
    assert points_in_code() == dict.fromkeys(POINTS, 1)


def test_each_point_is_one_that_a_test_dies_at() -> None:
    """The other files of this directory take their points from these lists."""
    every = (
        *PREPARE,
        *COPY,
        *STREAM,
        *BUDGET,
        *VALIDATE,
        *POSITION,
        *REPAIR,
        *REFRESH,
        *BESIDE,
        *MOVE,
    )
    assert sorted(every) == sorted(POINTS)
