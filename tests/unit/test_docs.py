"""The documents in docs/ say what the code does, as far as a program can tell."""

from __future__ import annotations

import ast
import inspect
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from cdc.crash import POINTS
from plans import errors
from plans.model import PlanFile
from plans.plan_reference import BUNDLED, NOTES, reference_text
from toolkit import before_pause, gates, opening, write_pause
from toolkit.cli.main import cli
from toolkit.state import Phase

ROOT = Path(__file__).parents[2]
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [ROOT / "README.md", *DOCS]
RUNBOOK, CORRECTNESS, CONCEPTS, PLAN = (
    (ROOT / "docs" / f"{name}.md").read_text()
    for name in ("runbook", "correctness", "concepts", "plan")
)
ALWAYS = {0: "done", 1: "a bug", 2: "click's own", 130: "interrupted"}


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    found = set()
    for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE):
        words = re.sub(r"[^\w\- ]", "", heading.lower())
        found.add(words.replace(" ", "-"))
    return found


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in link or link.startswith("mailto:"):
            continue
        file, _, anchor = link.partition("#")
        there = (page.parent / file).resolve() if file else page
        assert there.exists(), link
        if anchor:
            assert anchor in anchors(there.read_text()), link


def commands(text: str) -> Iterator[list[str]]:
    """Every call of dbsplit in a code block or a span."""
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    spans = re.findall(r"`(dbsplit [^`]+)`", text)
    for line in [*(line for block in blocks for line in block.splitlines()), *spans]:
        words = [word.removeprefix(".venv/bin/") for word in shlex.split(line, comments=True)]
        while "dbsplit" in words:
            words = words[words.index("dbsplit") + 1 :]
            end = next((n for n, word in enumerate(words) if word in ("&&", "|", "&")), None)
            yield words[:end]


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_command_in_the_docs_is_one_of_the_command_line(page: Path) -> None:
    for words in commands(page.read_text()):
        command: click.Command = cli
        rest = list(words)
        while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
            verb = rest.pop(0)
            found = command.commands.get(verb)
            assert found is not None, f"dbsplit {' '.join(words)}: there is no verb {verb!r}"
            command = found
        known = {option for one in command.params for option in one.opts} | {"-h", "--help"}
        used = {word.partition("=")[0] for word in rest if word.startswith("--")}
        assert used <= known, f"dbsplit {' '.join(words)}"


@pytest.mark.parametrize("page", DOCS, ids=named)
def test_every_option_that_stands_alone_belongs_to_some_verb(page: Path) -> None:
    known = {option for one in all_commands(cli) for p in one.params for option in p.opts}
    spans = re.findall(r"`(--[a-z][a-z-]*)[^`]*`", page.read_text())
    assert set(spans) <= {*known, "--help"}


def all_commands(group: click.Group) -> Iterator[click.Command]:
    for command in group.commands.values():
        yield command
        if isinstance(command, click.Group):
            yield from all_commands(command)


def test_every_verb_has_its_part_in_the_runbook() -> None:
    for command in cli.commands.values():
        verbs = command.commands if isinstance(command, click.Group) else {"": command}
        for verb in verbs:
            assert f"dbsplit {command.name} {verb}".strip() in RUNBOOK


def test_every_option_of_a_verb_is_in_the_runbook() -> None:
    asked_rarely = {"--version", "--dir", "--scale", "--keep", "--pg-version"}  # the demo's
    options = {o for one in all_commands(cli) for p in one.params for o in p.opts if o[:2] == "--"}
    missing = {option for option in options - asked_rarely if option not in RUNBOOK}
    assert not missing


def codes() -> set[int]:
    found = set(ALWAYS)
    for error in vars(errors).values():
        if isinstance(error, type) and issubclass(error, errors.SplitError):
            found |= {vars(error)["exit_code"]} if "exit_code" in vars(error) else set()
    return found


def test_every_exit_code_is_in_the_runbook() -> None:
    section = RUNBOOK.partition("## Exit codes")[2].partition("\n## ")[0]
    told = [int(code) for code in re.findall(r"^\| (\d+) \|", section, re.MULTILINE)]
    assert told == sorted(codes())


def gate_names() -> set[str]:
    tree = ast.parse(Path(gates.__file__).read_text())
    calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and _called(n) == "Gate"]
    return {str(n.args[0].value) for n in calls if isinstance(n.args[0], ast.Constant)}


def test_every_gate_is_in_the_runbook() -> None:
    section = RUNBOOK.partition("## Gates")[2].partition("\n## ")[0]
    told = set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE))
    assert told == gate_names()
    assert len(told) >= 8


def test_every_step_of_a_move_is_in_the_runbook() -> None:
    modules = (before_pause, write_pause, opening)
    nodes = [n for one in modules for n in ast.walk(ast.parse(inspect.getsource(one)))]
    calls = [n for n in nodes if isinstance(n, ast.Call) and _called(n) == "step"]
    steps = [str(n.args[0].value) for n in calls if isinstance(n.args[0], ast.Constant)]
    section = RUNBOOK.partition("### cutover")[2].partition("\n### ")[0]
    told = re.findall(r"^\| (\w+) \|", section, re.MULTILINE)
    assert len(steps) > 10
    assert [step for step in told if step in steps] == steps


def _called(node: ast.Call) -> str:
    return getattr(node.func, "id", "") or getattr(node.func, "attr", "")


def test_every_phase_is_explained() -> None:
    told = re.findall(r"^\| (\w+) \|", CONCEPTS.partition("## Phases")[2], re.MULTILINE)
    assert [phase for phase in told if phase in {p.value for p in Phase}] == [
        phase.value for phase in Phase
    ]


def test_every_crash_point_is_explained_in_order() -> None:
    told = re.findall(r"^\| `(\w+\.\w+)` \|", CORRECTNESS, re.MULTILINE)
    assert told == list(POINTS)


def test_every_test_that_is_named_exists() -> None:
    found = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", CORRECTNESS)
    assert len(found) > 20
    for file, name in found:
        assert f"def {name}(" in (ROOT / file).read_text(), f"{file}::{name}"


def test_every_file_that_is_named_exists() -> None:
    for page in DOCS:
        for file in re.findall(r"`((?:tests|plans|toolkit|cdc)/[\w/]+\.\w+)`", page.read_text()):
            assert (ROOT / file).exists(), f"{named(page)}: {file}"


def test_every_function_that_is_named_exists() -> None:
    spans = re.findall(r"`((?:toolkit|cdc|validators|plans)(?:\.\w+)+)", CORRECTNESS)
    assert len(spans) > 15
    for span in spans:
        _require_defined(span.split("."))


def _require_defined(parts: list[str]) -> None:
    for length in range(len(parts), 0, -1):
        module = ROOT.joinpath(*parts[:length])
        if not (module.with_suffix(".py").exists() or module.is_dir()):
            continue
        source = module.with_suffix(".py").read_text() if not module.is_dir() else ""
        for name in parts[length:]:
            assert re.search(rf"^\s*(def|class) {name}\b", source, re.MULTILINE), parts
        return
    raise AssertionError(parts)


def test_every_invariant_has_its_heading_and_tests() -> None:
    parts = re.split(r"^### (I\d+): ", CORRECTNESS, flags=re.MULTILINE)[1:]
    invariants = dict(zip(parts[::2], parts[1::2], strict=True))
    assert list(invariants) == [f"I{n}" for n in range(1, 12)]
    for name, text in invariants.items():
        assert "`tests/" in text, name


def test_the_plan_reference_is_the_models() -> None:
    assert reference_text() == PLAN, "run python -m plans.plan_reference > docs/plan.md"


def test_the_plan_reference_has_every_key_of_the_model() -> None:
    schema = PlanFile.model_json_schema()
    mappings: list[Any] = [schema, *schema["$defs"].values()]
    for mapping in mappings:
        for key in mapping["properties"]:
            assert f"| `{key}` |" in PLAN, key
    assert NOTES.keys() <= schema["$defs"].keys()


def test_examples_of_the_plan_reference_are_lines_of_the_bundled_plan() -> None:
    bundled = {line.strip() for line in BUNDLED.read_text().splitlines()}
    examples = re.findall(r"```yaml\n(.*?)```", PLAN, re.DOTALL)
    assert len(examples) > 8
    for example in examples:
        if "switch-traffic" not in example:
            assert {line.strip() for line in example.splitlines()} <= {*bundled, "…"}


def test_no_page_tells_of_the_workplace() -> None:
    for page in PAGES:
        assert not re.search(r"/work/|\.\./shared", page.read_text()), named(page)
