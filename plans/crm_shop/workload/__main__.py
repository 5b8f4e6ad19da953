"""Run the writers of the bundled case for a while, or under the control of standard input.

With ``--controlled`` each line of standard input is a command (pause, resume, stats, stop),
answered by one line of JSON; the end of standard input means stop, so the writers never
outlive the process that holds the other end.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path

from plans.crm_shop.workload.check import check_history
from plans.crm_shop.workload.crew import Crew, WritersStuck
from plans.crm_shop.workload.routing import Routing
from plans.crm_shop.workload.service import RATE, SERVICE_OF_ROLE, WRITERS, make_crew
from plans.crm_shop.workload.writer import RETRY_S_MAX


def main(arguments: list[str] | None = None) -> int:
    """Run, and return the exit code: 0, or 1 if the history is not whole."""
    options = _options(arguments)
    crew = make_crew(
        options.routing,
        options.history,
        writers=options.writers,
        rate=options.rate,
        retry_s_max=options.retry_seconds,
        as_roles=options.as_roles,
    )
    if options.controlled:
        return _obey(crew)
    stop = threading.Event()
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, lambda *_: stop.set())
    with crew:
        stop.wait(options.seconds)
    _say(_state(crew))
    return _check(options.routing, options.history) if options.check else 0


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="workload", description=__doc__)
    parser.add_argument("--routing", type=Path, required=True, help='{"crm": DSN, "shop": DSN}')
    parser.add_argument("--history", type=Path, required=True, help="directory of the histories")
    parser.add_argument("--writers", type=int, default=WRITERS)
    parser.add_argument("--rate", type=float, default=RATE, help="transactions a second, in all")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--retry-seconds", type=float, default=RETRY_S_MAX)
    parser.add_argument("--as-roles", action="store_true", help="log in as each writer's role")
    parser.add_argument("--check", action="store_true", help="check the histories at the end")
    parser.add_argument("--controlled", action="store_true", help="obey standard input")
    return parser.parse_args(arguments)


def _obey(crew: Crew) -> int:
    # Ctrl-C reaches the whole group of processes; this one ends when its parent does.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    crew.start()
    _say(_state(crew))
    for line in sys.stdin:
        command = line.strip()
        try:
            _carry_out(crew, command)
        except WritersStuck as error:
            _say({"error": str(error)})
            continue
        _say(_state(crew))
        if command == "stop":
            return 0
    # The parent is gone.  What is open is of unknown outcome, as in a crash.
    os._exit(1)


def _carry_out(crew: Crew, command: str) -> None:
    match command:
        case "pause":
            crew.pause()
        case "resume":
            crew.resume()
        case "stop":
            crew.stop()
        case _:
            pass  # the answer to everything is the state


def _state(crew: Crew) -> dict[str, object]:
    tally = crew.tally()  # not asdict: it cannot copy a Counter
    return {field.name: getattr(tally, field.name) for field in fields(tally)} | {
        "alive": crew.alive
    }


def _check(routing_file: Path, history_dir: Path) -> int:
    routing = Routing(routing_file)
    places = {service: routing.place(service, service) for service in SERVICE_OF_ROLE.values()}
    report = check_history(history_dir, places)
    _say(asdict(report))
    return 0 if report.whole else 1


def _say(answer: Mapping[str, object]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main())
