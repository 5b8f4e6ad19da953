"""What the verbs say: data on stdout, talk on stderr, secrets nowhere."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import click

from plans.errors import SplitError

REPORT_S = 2.0


class Talk:
    """One verb's voice; `as_json` makes it JSON lines, the last of which is the result."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self._said_at: dict[str, float] = {}

    def say(self, step: str, details: Mapping[str, Any]) -> None:
        """Tell of progress."""
        if self.as_json:
            click.echo(json.dumps({"event": step, **details}, default=str))
        else:
            self.line(step, _in_words(details))

    def say_step(self, step: str, details: Mapping[str, Any]) -> None:
        """Tell of a step of a move; the tables compared on the way are for programs."""
        if step == "comparing":
            if self.as_json:
                self.seldom(step, str(details["route"]), details)
        elif self.as_json or step != "compared":
            self.say(step, details)

    def seldom(self, step: str, key: str, details: Mapping[str, Any]) -> None:
        """Tell of progress that comes often: at most every two seconds for each key."""
        now = time.monotonic()
        if now - self._said_at.get(key, 0.0) >= REPORT_S:
            self._said_at[key] = now
            self.say(step, details)

    def line(self, head: str, text: str) -> None:
        """A line of talk for a person."""
        click.echo(f"{click.style(head, bold=True)}  {text}".rstrip(), err=True)

    def result(self, result: Mapping[str, Any], text: str) -> None:
        """The verb's outcome."""
        if self.as_json:
            click.echo(json.dumps(result, default=str))
        elif text:
            click.echo(text)


@contextmanager
def told(*, as_json: bool) -> Iterator[Talk]:
    """Run a verb: errors that a user can act on end it with their message and exit code."""
    try:
        yield Talk(as_json=as_json)
    except SplitError as error:
        _fail(error, as_json=as_json)
        sys.exit(error.exit_code)
    except click.UsageError as error:
        if as_json:
            _say_failed({"error": error.format_message(), "hint": "", "exit_code": error.exit_code})
        raise
    except KeyboardInterrupt:
        click.echo("interrupted; run the same command again to go on", err=True)
        sys.exit(130)
    except BrokenPipeError:
        # Nobody reads any more; keep the interpreter from flushing into the void.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(130)
    except Exception as error:
        if (friendly := _of_the_server(error)) is None:
            raise
        _fail(friendly, as_json=as_json)
        sys.exit(friendly.exit_code)


def _of_the_server(error: Exception) -> SplitError | None:
    """A server that went away in the middle of something is no bug of ours."""
    import psycopg

    from plans.errors import NotReady

    if isinstance(error, psycopg.OperationalError | psycopg.errors.InsufficientPrivilege):
        return NotReady(
            f"a server refused or went away: {str(error).strip().splitlines()[0]}",
            hint="see to the server, then run the same command again",
        )
    return None


def _fail(error: SplitError, *, as_json: bool) -> None:
    if as_json:
        _say_failed(
            {
                **error.result,
                "error": str(error),
                "hint": error.hint,
                "exit_code": error.exit_code,
            }
        )
    click.echo(f"{click.style('Error:', fg='red', bold=True)} {error}", err=True)
    if error.hint:
        click.echo(f"{click.style('Hint:', fg='yellow')} {error.hint}", err=True)


def _say_failed(told: Mapping[str, Any]) -> None:
    click.echo(json.dumps(told, default=str))


def _in_words(details: Mapping[str, Any]) -> str:
    words = []
    for name, value in details.items():
        if value in (None, "", [], {}, ()):
            continue
        if isinstance(value, dict | list | tuple) and len(str(value)) > 120:
            words.append(f"{name} {len(value)}")
        else:
            words.append(f"{name} {value}")
    return ", ".join(words)
