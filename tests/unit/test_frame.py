"""What the documents promise is what is there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DEMO = "python3 -m venv .venv && .venv/bin/pip install '.[demo]' && .venv/bin/dbsplit demo"
TEST = "python3 -m venv .venv && .venv/bin/pip install -e '.[dev]' && .venv/bin/pytest"
README = (ROOT / "README.md").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("changes/*.md"), *ROOT.glob("docs/**/*.md")])


@pytest.mark.parametrize("command", [DEMO, TEST], ids=["demo", "test"])
def test_the_readme_has_each_command_in_a_code_block_of_its_own(command: str) -> None:
    assert f"```sh\n{command}\n```\n" in README


def test_the_ci_runs_the_command_that_the_readme_states() -> None:
    script = (ROOT / ".ci/run").read_text()
    search = re.search(r"^readme_command=\$\((grep .* README\.md)\)$", script, re.MULTILINE)
    assert search
    found = subprocess.run(
        ["bash", "-c", search[1]],  # noqa: S607
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=10,
    )
    assert found.stdout == f"{TEST}\n"
    assert 'bash -c "$readme_command"' in script
    assert ".venv/bin/pip" not in script


def test_the_ci_fails_on_a_skip_and_ends_with_a_test_run() -> None:
    script = ROOT / ".ci/run"
    assert os.access(script, os.X_OK)
    lines = script.read_text().splitlines()
    assert "set -euo pipefail" in lines
    assert "export DBSPLIT_CI=1" in lines
    long = "long and not release"
    where = "tests/long tests/integration"
    assert f'limited .venv/bin/pytest -m "{long}" -n 2 --dist worksteal {where}' in lines
    assert "limited .venv/bin/pytest -m chaos -n 2 --dist worksteal tests/chaos" in lines
    assert lines[-1].endswith('.venv/bin/pytest -m "crash and not release" -n 2 tests/crash')
    subprocess.run(["bash", "-n", script], check=True, timeout=10)  # noqa: S607


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_relative_link_leads_to_a_file(document: Path) -> None:
    for link in re.findall(r"\]\(([^)#\s]+)", document.read_text()):
        if "://" not in link and not link.startswith("mailto:"):
            assert (document.parent / link).exists(), link


def test_the_installed_version_is_the_projects() -> None:
    assert version("dbsplit") == PROJECT["project"]["version"]


def test_every_fragment_names_its_issue_and_kind() -> None:
    for fragment in (ROOT / "changes").iterdir():
        if fragment.name != "README.md":
            assert re.fullmatch(
                r"\d+\.(feature|fix|change|removal|docs)(\.\d+)?\.md", fragment.name
            ), fragment.name


def test_all_four_packages_are_in_the_wheel_and_hold_nothing_but_a_docstring_at_the_top() -> None:
    packages = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert packages == ["toolkit", "plans", "cdc", "validators"]
    for package in packages:
        source = (ROOT / package / "__init__.py").read_text()
        assert re.fullmatch(r'"""[^"]+"""\n', source), package


# --- The rule that in CI a skip is a failure, seen from outside.

SKIPPING = "import pytest\ndef test_a(): pass\n{mark}def test_b(): pass\n"


def run_pytest(directory: Path, content: str, environment: dict[str, str]) -> tuple[int, str]:
    directory.joinpath("conftest.py").write_text((ROOT / "tests/conftest.py").read_text())
    directory.joinpath("test_it.py").write_text(content)
    ambient = {name: text for name, text in os.environ.items() if name != "DBSPLIT_CI"}
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-c", "/dev/null", "."],
        cwd=directory,
        env={**ambient, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return ran.returncode, ran.stdout


@pytest.mark.parametrize(
    ("mark", "environment", "status"),
    [
        ("", {"DBSPLIT_CI": "1"}, 0),
        ("@pytest.mark.skip(reason='no')\n", {}, 0),
        ("@pytest.mark.skip(reason='no')\n", {"DBSPLIT_CI": "1"}, 1),
        ("@pytest.mark.xfail(reason='known')\n", {"DBSPLIT_CI": "1"}, 0),
    ],
    ids=["no skip", "a skip at home", "a skip in CI", "an expected failure in CI"],
)
def test_a_skip_fails_the_run_in_ci_only(
    mark: str, environment: dict[str, str], status: int, tmp_path: Path
) -> None:
    body = SKIPPING.format(mark=mark)
    if "xfail" in mark:
        body = body.replace("test_b(): pass", "test_b(): assert 0")
    code, output = run_pytest(tmp_path, body, environment)
    assert code == status, output
    assert ("skipped tests fail the run" in output) == (status == 1)


def test_a_module_that_is_skipped_whole_fails_the_run_in_ci(tmp_path: Path) -> None:
    body = "import pytest\npytest.importorskip('no_such_module')\n"
    tmp_path.joinpath("test_other.py").write_text("def test_a(): pass\n")
    code, output = run_pytest(tmp_path, body, {"DBSPLIT_CI": "1"})
    assert code == 1, output
    assert "skipped tests fail the run: test_it.py" in output
