"""The traffic switch: telling whatever routes the applications where to go."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping

from psycopg.conninfo import conninfo_to_dict

from plans.errors import NotReady
from plans.model import CommandSwitch, NoSwitch, PgbouncerSwitch

Switch = PgbouncerSwitch | CommandSwitch | NoSwitch

SAID_MAX = 500


class SwitchFailed(NotReady):
    """The switch command did not do its work."""


def run_switch(switch: Switch, step: str, routes: Mapping[str, str]) -> None:
    """Carry out a step: prepare, switch or back.

    `routes` maps each service to the DSN that is to take its traffic.  Raises
    SwitchFailed if the command fails, cannot be started or takes too long.
    """
    match switch:
        case NoSwitch():
            return
        case PgbouncerSwitch():
            raise SwitchFailed(
                "switch: {kind: pgbouncer} is not supported by this version",
                hint="use {kind: command} with a command that talks to the pooler",
            )
        case CommandSwitch():
            _run(switch, step, routes)


def _run(switch: CommandSwitch, step: str, routes: Mapping[str, str]) -> None:
    environment = os.environ | {
        "DBSPLIT_STEP": step,
        "DBSPLIT_ROUTES": json.dumps(dict(routes), sort_keys=True),
    }
    try:
        done = subprocess.run(
            list(switch.command),
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=switch.timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise SwitchFailed(
            f"the switch command took longer than {switch.timeout_s:g} s in step {step}",
            hint="see switch.command and switch.timeout_s in the plan",
        ) from None
    except OSError as error:
        raise SwitchFailed(
            f"the switch command could not be started: {error}", hint="see switch.command"
        ) from None
    if done.returncode != 0:
        said = _without_secrets(done.stderr.decode(errors="replace").strip(), routes)[-SAID_MAX:]
        raise SwitchFailed(
            f"the switch command failed with exit code {done.returncode} in step {step}: {said}",
            hint="see switch.command in the plan",
        )


def _without_secrets(text: str, routes: Mapping[str, str]) -> str:
    """What the command said, without the passwords that it was given."""
    for dsn in routes.values():
        if password := conninfo_to_dict(dsn).get("password"):
            text = text.replace(str(password), "********")
    return text
