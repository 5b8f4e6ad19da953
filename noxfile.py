"""Everything a developer or the CI runs; `nox` alone runs what must pass before a push."""

from __future__ import annotations

from pathlib import Path

import nox

nox.options.sessions = ["lint", "types", "imports", "tests"]
nox.options.reuse_existing_virtualenvs = True

WIDELY = ("--dist", "worksteal")  # a file's tests are independent here, and some take minutes
RANDOM = ("--hypothesis-profile", "random")
PACKAGES = ["toolkit", "plans", "cdc", "validators"]


def _install(session: nox.Session) -> None:
    session.install("-e", ".[dev]")


@nox.session
def lint(session: nox.Session) -> None:
    """Check format and style."""
    session.install("ruff>=0.14")
    session.run("ruff", "format", "--check")
    session.run("ruff", "check")


@nox.session
def types(session: nox.Session) -> None:
    """Check types."""
    _install(session)
    session.run("mypy")


@nox.session
def imports(session: nox.Session) -> None:
    """Check that imports point one way."""
    _install(session)
    session.run("lint-imports")


@nox.session
def tests(session: nox.Session) -> None:
    """Run the unit and integration tests; `nox -s tests -- -k slot` narrows them."""
    _install(session)
    session.run("pytest", *session.posargs)


@nox.session
def long(session: nox.Session) -> None:
    """Run what takes minutes, as before a release: more versions, schemas and random cases."""
    _install(session)
    chosen = ("-m", "long and not crash", "-n", "2", *WIDELY, *RANDOM)
    session.run("pytest", *chosen, *session.posargs)


@nox.session
def crash(session: nox.Session) -> None:
    """Kill real processes at every crash point."""
    _install(session)
    session.run("pytest", "-m", "crash", "-n", "2", *session.posargs)


@nox.session
def chaos(session: nox.Session) -> None:
    """Let everything fail at random, 200 times; `nox -s chaos -- 17` repeats seed 17."""
    _install(session)
    first, runs = (session.posargs[0], "1") if session.posargs else ("0", "200")
    env = {"DBSPLIT_CHAOS_SEED": first, "DBSPLIT_CHAOS_RUNS": runs}
    session.run("pytest", "-m", "chaos", "-n", "2", *WIDELY, env=env)


@nox.session
def wheel(session: nox.Session) -> None:
    """Build the wheel, and run the unit tests against it, as a user would have it."""
    session.install("build", "hypothesis>=6.100", "pytest>=8", "pytest-xdist>=3.6")
    dist = Path(session.create_tmp(), "dist")
    session.run("python", "-m", "build", "--outdir", str(dist))
    newest = max(dist.glob("*.whl"), key=lambda path: path.stat().st_mtime)
    session.install("--force-reinstall", "--no-deps", str(newest))
    session.install(f"{newest}[demo]")
    # -P keeps the working tree, whose packages have the same names, off the path.
    session.run("python", "-P", "-m", "pytest", "-m", "not integration and not crash and not long")


@nox.session
def demo(session: nox.Session) -> None:
    """Run the demo from an ordinary installation."""
    session.install(".[demo]")
    session.run("dbsplit", "demo", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """Check that the documents' commands and links lead somewhere."""
    _install(session)
    session.run("pytest", "tests/unit/test_frame.py", "tests/unit/test_docs.py")
