"""The traffic switch of these tests: it writes down each step, and strikes whom it is told to.

``DBSPLIT_TEST_KILL=prepare:123`` kills process 123 in the step prepare, ``prepare:parent``
the process that called; ``DBSPLIT_TEST_STOP`` halts it in the same way.  The step's work
is done by then, but nobody has been told.  ``DBSPLIT_TEST_SLOW=2`` takes two seconds more.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path


def main() -> None:
    routing, log = map(Path, sys.argv[1:])
    step = os.environ["DBSPLIT_STEP"]
    with log.open("a") as steps:
        steps.write(step + "\n")
    if step != "prepare":
        new = routing.with_name(f"{routing.name}.{os.getpid()}")
        new.write_text(json.dumps(json.loads(os.environ["DBSPLIT_ROUTES"])))
        new.replace(routing)
    time.sleep(float(os.environ.get("DBSPLIT_TEST_SLOW", "0")))
    strike("DBSPLIT_TEST_STOP", signal.SIGSTOP, step)
    strike("DBSPLIT_TEST_KILL", signal.SIGKILL, step)


def strike(variable: str, signum: signal.Signals, step: str) -> None:
    when, _, whom = os.environ.get(variable, "").partition(":")
    if when == step:
        os.kill(os.getppid() if whom == "parent" else int(whom), signum)


if __name__ == "__main__":
    main()
