"""What every verb owes a shell, told without a server."""

from __future__ import annotations

import json
import os
import pty
import signal
import socket
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


def command_of(verb: tuple[str, ...]) -> click.Command:
    command: click.Command = cli
    for name in verb:
        assert isinstance(command, click.Group)
        command = command.commands[name]
    return command


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_help_has_an_example_and_explains_each_option(verb: tuple[str, ...]) -> None:
    command = command_of(verb)
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


NOBODY = "host=127.0.0.1 port=1 dbname=%s"


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    """A plan whose servers do not answer."""
    path = tmp_path / "plan.yaml"
    path.write_text(
        f"split: s\nsource: {{dsn: {NOBODY % 's'}}}\n"
        f"services: {{a: {{dsn: {NOBODY % 'a'}}}}}\ntables: {{t: a}}\n"
    )
    return path


@pytest.mark.parametrize("verb", SPARED)
def test_a_verb_imports_only_what_it_uses(verb: str, plan: Path) -> None:
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


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_each_option_may_stand_in_the_environment_by_its_own_name(verb: tuple[str, ...]) -> None:
    command = command_of(verb)
    for option in command.params:
        if isinstance(option, click.Option):
            longest = max(option.opts, key=len)
            wanted = "_".join(("dbsplit", *verb, longest.strip("-"))).replace("-", "_").upper()
            variables = [option.envvar] if isinstance(option.envvar, str) else option.envvar
            assert variables is not None
            assert wanted in variables


def _run(*words: object, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(DBSPLIT), *(str(word) for word in words)],
        env={**os.environ, **env},
        capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("words", "env", "code"),
    [
        (("copy", "PLAN", "--json"), {"DBSPLIT_COPY_JOBS": "0"}, 2),
        (("status", "PLAN"), {"DBSPLIT_STATUS_JSON": "1"}, 4),
        (("status", "no-plan.yaml", "--json"), {}, 2),
        (("status", "PLAN", "--nope", "--json"), {}, 2),
        (("no-verb", "--json"), {}, 2),
        (("plan", "no-verb", "--json"), {}, 2),
        (("cutover", "PLAN", "--dry-run", "--rehearse", "--json"), {}, 2),
        (("rollback", "PLAN", "--certificates", "/proc/no", "--yes", "--json"), {}, 2),
        (("compare", "host=h password=hunter2 nope=1", "host=h", "--json"), {}, 2),
        (("compare", "host=h", "postgresql://u:hunter2%zz@h/d", "--json"), {}, 2),
        (("compare", "host=h", "host=h", "--tables", "", "--json"), {}, 2),
        (("compare", "host=h", "host=h", "--key", " ,", "--json"), {}, 2),
        *(((verb, "PLAN", "--json"), {}, 4) for verb in ("cutover", "rollback", "run", "abort")),
    ],
)
def test_whatever_is_wrong_the_last_line_is_an_object(
    plan: Path, words: tuple[str, ...], env: dict[str, str], code: int
) -> None:
    done = _run(*(plan if word == "PLAN" else word for word in words), **env)
    assert done.returncode == code, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["error"]
    assert told["hint"]
    assert told["exit_code"] == code
    assert "hunter2" not in done.stdout + done.stderr
    if words[0] in ("cutover", "rollback") and code == 4:
        assert (told["outcome"], told["write_pause_ms"], told["certificate"]) == (
            "aborted",
            0,
            None,
        )


def test_a_plan_that_is_wrong_in_itself_is_told_in_each_format(plan: Path) -> None:
    plan.write_text(plan.read_text().replace("tables: {t: a}", "tables: {t: b, u: c}"))
    check = ("plan", "check", str(plan))
    github, sarif = (_run(*check, "--format", form) for form in ("github", "sarif"))
    assert [one.returncode for one in (github, sarif)] == [3, 3]
    assert github.stdout.count("::error file=") == 2
    assert len(json.loads(sarif.stdout)["runs"][0]["results"]) == 2
    found = json.loads(_run(*check, "--format", "json").stdout)
    told = json.loads(_run(*check, "--json").stdout)
    assert found == told["findings"]
    assert [one["object"] for one in found] == ["tables.t.owner", "tables.u.owner"]
    assert (told["ok"], told["exit_code"]) == (False, 3)
    text = _run(*check)
    assert (text.stdout, text.stderr.count("there is no service")) == ("", 2)


def test_a_signal_ends_a_verb_in_order(plan: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        plan.write_text(plan.read_text().replace("port=1", f"port={silent.getsockname()[1]}"))
        for signum in (signal.SIGINT, signal.SIGTERM):
            verb = subprocess.Popen(
                [str(DBSPLIT), "status", str(plan), "--json"],
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )  # fmt: skip
            with silent.accept()[0]:
                verb.send_signal(signum)
                out, err = verb.communicate(timeout=20)
            assert verb.returncode == 130, err
            assert "run the same command again" in err
            assert json.loads(out)["exit_code"] == 130


@pytest.mark.parametrize("answer", [b"n\n", b"\x04"])
def test_a_question_that_is_not_answered_with_yes_ends_with_130(plan: Path, answer: bytes) -> None:
    ours, theirs = pty.openpty()
    try:
        verb = subprocess.Popen(
            [str(DBSPLIT), "complete", str(plan), "--json"],
            stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        os.write(ours, answer)
        out, err = verb.communicate(timeout=20)
    finally:
        os.close(ours)
        os.close(theirs)
    assert verb.returncode == 130, err
    assert json.loads(out.splitlines()[-1])["exit_code"] == 130


def test_what_nobody_reads_ends_quietly() -> None:
    done = subprocess.run(
        ["/bin/bash", "-c", f"set -o pipefail; '{DBSPLIT}' --help | true"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stderr
