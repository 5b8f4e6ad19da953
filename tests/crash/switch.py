"""The traffic switch of these tests: it writes down each step, and kills whom it is told to.

``DBSPLIT_TEST_KILL=prepare:123`` kills process 123 in the step prepare, ``prepare:parent``
the process that called.  The step's work is done by then, but nobody has been told.
"""

from __future__ import annotations

import json
import os
import signal
import sys
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
    when, _, whom = os.environ.get("DBSPLIT_TEST_KILL", "").partition(":")
    if when == step:
        os.kill(os.getppid() if whom == "parent" else int(whom), signal.SIGKILL)


if __name__ == "__main__":
    main()
