"""What the verbs say: data on stdout, talk on stderr, secrets nowhere."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NoReturn

import click

from plans.errors import SplitError
from plans.printable import printable, printable_lines
from toolkit.cli.signals import interrupted_by

REPORT_S = 2.0
BUG, INTERRUPTED = 1, 130

AS_JSON = "dbsplit.as_json"
"""Of a click context: whether a usage error is to be told as JSON, too."""


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
        """A line of talk for a person; `head` is a word of ours."""
        said = printable_lines(printable(text))
        click.echo(f"{click.style(head, bold=True)}  {said}".rstrip(), err=True)

    def ask(self, *, yes: bool, question: str) -> None:
        """Ask a person, and end the verb at no; a script that calls it has decided already."""
        if yes or not sys.stdin.isatty() or click.confirm(printable(question), err=True):
            return
        click.echo("nothing was changed", err=True)
        if self.as_json:
            say_failed("nothing was changed", "", INTERRUPTED)
        sys.exit(INTERRUPTED)

    def result(self, result: Mapping[str, Any], text: str) -> None:
        """The verb's outcome."""
        if self.as_json:
            click.echo(json.dumps(result, default=str))
        else:
            self.show(text)

    def show(self, text: str) -> None:
        """Say the outcome, or more of it, to a person; nothing of it commands a terminal."""
        if text:
            click.echo(printable_lines(text))


@contextmanager
def told(*, as_json: bool) -> Iterator[Talk]:
    """Run a verb: errors that a user can act on end it with their message and exit code.

    However it ends, with `as_json` the last line of standard output is one JSON object;
    of a usage error the command line says it.
    """
    try:
        with _sigterm_interrupts():
            yield Talk(as_json=as_json)
    except SplitError as error:
        _fail(error, as_json=as_json)
        sys.exit(error.exit_code)
    except click.UsageError:
        click.get_current_context().meta[AS_JSON] = as_json
        raise
    except (KeyboardInterrupt, click.Abort):
        _interrupted(as_json=as_json, hint="run the same command again to go on")
    except BrokenPipeError:
        # Nobody reads any more; keep the interpreter from flushing into the void.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(INTERRUPTED)
    except Exception as error:
        if (friendly := _of_the_server(error)) is None:
            if as_json:
                # Its text may hold anything, passwords too.
                say_failed(
                    f"{type(error).__name__}: this is a bug",
                    "keep the traceback on standard error, and run the same command again",
                    BUG,
                )
            raise
        _fail(friendly, as_json=as_json)
        sys.exit(friendly.exit_code)


def _sigterm_interrupts() -> AbstractContextManager[None]:
    """Let SIGTERM do what Ctrl-C does: what was begun is given up in order, not cut off."""
    is_main = threading.current_thread() is threading.main_thread()
    if is_main and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        return interrupted_by(signal.SIGTERM)
    return nullcontext()


def _interrupted(*, as_json: bool, hint: str) -> NoReturn:
    click.echo(f"interrupted; {hint}", err=True)
    if as_json:
        say_failed("interrupted", hint, INTERRUPTED)
    sys.exit(INTERRUPTED)


def _of_the_server(error: Exception) -> SplitError | None:
    """A server that went away in the middle of something is no bug of ours."""
    import psycopg

    from plans.errors import NotReady

    refused = psycopg.errors.InsufficientPrivilege | psycopg.errors.ReadOnlySqlTransaction
    if isinstance(error, psycopg.OperationalError | refused):
        return NotReady(
            f"a server refused or went away: {str(error).strip().splitlines()[0]}",
            hint="see to the server, which `dbsplit doctor` names if it is not as it must be; "
            "then run the same command again",
        )
    return None


def say_failed(error: str, hint: str, exit_code: int, **result: Any) -> None:  # noqa: ANN401
    """The result object of a verb that failed."""
    told = {**result, "error": error, "hint": hint, "exit_code": exit_code}
    click.echo(json.dumps(told, default=str))


def _fail(error: SplitError, *, as_json: bool) -> None:
    if as_json:
        say_failed(str(error), error.hint, error.exit_code, **error.result)
    click.echo(f"{click.style('Error:', fg='red', bold=True)} {_shown(error)}", err=True)
    if error.hint:
        click.echo(f"{click.style('Hint:', fg='yellow')} {_shown(error.hint)}", err=True)


def _shown(said: object) -> str:
    return printable_lines(str(said))


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
