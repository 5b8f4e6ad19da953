"""The traffic switch as a command, for a plan's ``switch: {kind: command, command: […]}``.

``python -m plans.crm_shop.workload.switch ROUTING`` puts the places of DBSPLIT_ROUTES into
the routing file when DBSPLIT_STEP is switch or back, and leaves the other services alone.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from plans.crm_shop.workload.routing import write_routing

STEPS = ("prepare", "switch", "back")


def main(arguments: list[str] | None = None) -> int:
    """Switch, and return the exit code."""
    parser = argparse.ArgumentParser(prog="switch", description=__doc__)
    parser.add_argument("routing", type=Path, help="the JSON file that the workload follows")
    path: Path = parser.parse_args(arguments).routing
    step = os.environ.get("DBSPLIT_STEP", "")
    if step not in STEPS:
        parser.error(f"DBSPLIT_STEP is {step!r}, not one of {', '.join(STEPS)}")
    places = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if step != "prepare":
        write_routing(path, {**places, **json.loads(os.environ["DBSPLIT_ROUTES"])})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
