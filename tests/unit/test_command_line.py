"""What every verb owes a shell, told without a server."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from toolkit.cli.main import cli

DBSPLIT = Path(sys.executable).parent / "dbsplit"
HEAVY = ("alembic", "psycopg", "pydantic", "rich", "ruamel", "sqlalchemy")


def _verbs(group: click.Group, *before: str) -> Iterator[tuple[str, ...]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from _verbs(command, *before, name)
        else:
            yield (*before, name)


VERBS = sorted(_verbs(cli))


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_help_has_an_example_and_explains_each_option(verb: tuple[str, ...]) -> None:
    command: click.Command = cli
    for name in verb:
        assert isinstance(command, click.Group)
        command = command.commands[name]
    text = command.get_help(click.Context(command, info_name=f"dbsplit {' '.join(verb)}"))
    examples = [line for line in text.splitlines() if line.startswith("  dbsplit ")]
    assert examples, text
    for example in examples:
        assert example.strip().startswith(f"dbsplit {' '.join(verb)}"), example
    for option in command.params:
        if isinstance(option, click.Option):
            assert option.help or isinstance(option.type, click.Choice), option.name


def test_help_imports_nothing_that_takes_time() -> None:
    script = (
        "import sys; from toolkit.cli.main import cli\n"
        "for words in (['--help'], ['cutover', '--help'], ['plan', 'check', '--help']):\n"
        "    try: cli.main(words)\n"
        "    except SystemExit: pass\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


RENDERS = ("alembic", "sqlalchemy", "great_expectations")
READS_STATEMENTS = ("plans.statements.read", "sqlglot")
SPARED = {
    "status": (*RENDERS, *READS_STATEMENTS, "numpy", "plans.check", "validators.compare"),
    "doctor": (*RENDERS, *READS_STATEMENTS, "numpy", "plans.check", "validators.compare"),
    "copy": (*RENDERS, *READS_STATEMENTS, "numpy", "validators.compare"),
    "validate": (*RENDERS, *READS_STATEMENTS),
    "stream": RENDERS,
    "cutover": (*RENDERS, *READS_STATEMENTS),
}
"""What a verb does not need, it does not wait for: each of these takes a tenth of a second."""


@pytest.mark.parametrize("verb", SPARED)
def test_a_verb_imports_only_what_it_uses(verb: str, tmp_path: Path) -> None:
    plan = tmp_path / "plan.yaml"
    nobody = "{dsn: 'host=127.0.0.1 port=1 dbname=%s'}"
    plan.write_text(
        f"split: s\nsource: {nobody % 's'}\nservices: {{a: {nobody % 'a'}}}\ntables: {{t: a}}\n"
    )
    script = (
        "import sys; from toolkit.cli.main import cli\n"
        f"try: cli.main([{verb!r}, {str(plan)!r}])\n"
        "except SystemExit as end: code = end.code\n"
        f"print(code, [name for name in {SPARED[verb]} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "4 []", done.stderr


@pytest.mark.parametrize("no_color", ["", "1"])
def test_colours_are_for_terminals_whose_user_wants_them(tmp_path: Path, no_color: str) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text("split: [")
    ours, theirs = pty.openpty()
    try:
        subprocess.run(
            [str(DBSPLIT), "doctor", str(plan)],
            env={**os.environ, "NO_COLOR": no_color, "TERM": "xterm"},
            stderr=theirs,
            check=False,
        )
        said = os.read(ours, 65536).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert "plan.yaml:1:" in said
    assert ("\x1b[" in said) == (not no_color), said


def test_each_option_may_stand_in_the_environment(tmp_path: Path) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text("")
    done = subprocess.run(
        [str(DBSPLIT), "copy", str(plan)],
        env={**os.environ, "DBSPLIT_COPY_JOBS": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "DBSPLIT_COPY_JOBS" in done.stderr or "--jobs" in done.stderr
    assert done.stdout == ""


def test_what_nobody_reads_ends_quietly() -> None:
    done = subprocess.run(
        ["/bin/bash", "-c", f"set -o pipefail; '{DBSPLIT}' --help | true"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stderr
