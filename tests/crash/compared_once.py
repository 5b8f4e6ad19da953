"""One comparison, by several sessions, as a process that can be killed; its result as JSON."""

from __future__ import annotations

import json
import sys

from cdc.connect import connect
from tests.integration.test_compare import Bench
from toolkit.compared_units import ControlMemory
from toolkit.state import Direction
from validators.scans import Course
from validators.units import Sizes


def main() -> None:
    """Arguments: the DSNs of source and target, and a position."""
    source, target, since = sys.argv[1:]
    with connect(source) as control:
        memory = ControlMemory(control, "split", "crm", Direction.CUTOVER, since)
        course = Course(sizes=Sizes(rows_per_unit=1000), memory=memory, jobs=3)
        result = Bench(source, target).result(course=course)
        told = {
            "state": result.state,
            "rows": result.rows,
            "missing": result.missing,
            "extra": result.extra,
            "different": result.different,
            "fingerprint": result.fingerprint,
            "since": memory.since_of(result.route),
        }
    print(json.dumps(told))  # noqa: T201 -- the test reads it


main()
