"""A `dbsplit` with a bug in it, which the tests that plant it must find.

``DBSPLIT_TEST_PLANT=unfenced:TABLE`` leaves the source's fence of one table out.
"""

from __future__ import annotations

import os
from typing import Any

from toolkit import sides
from toolkit.cli.main import main as dbsplit
from toolkit.fence import Fence


def unfenced(table: str) -> None:
    fences = sides.source_fences

    def all_but_one(*args: Any) -> list[Fence]:
        return [fence for fence in fences(*args) if fence.table.name.name != table]

    vars(sides)["source_fences"] = all_but_one


def main() -> None:
    what, _, where = os.environ["DBSPLIT_TEST_PLANT"].partition(":")
    {"unfenced": unfenced}[what](where)
    dbsplit()
