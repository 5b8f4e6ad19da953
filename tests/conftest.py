"""Servers for the tests, fresh databases on them, and the marks that choose what runs."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from psycopg import sql

from plans.errors import NotReady
from toolkit.binaries import find_binaries
from toolkit.servers import Server, running_server
from toolkit.servers_watchdog import wait_until

# Or each process that a test starts would compile the toolkit anew, for a third of a second.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# What a change breaks shall be seen, and not what chance finds: that is for `nox -s long`.
settings.register_profile(
    "same",
    derandomize=True,
    database=None,
    print_blob=True,
    # A busy machine is no failure.
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("random", settings.get_profile("same"), derandomize=False)
settings.load_profile("same")

HERE: Final = Path(__file__).parent
IN_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - servers make directories of their own in it
MEMORY_BYTES_MIN: Final = 12 << 30
MARK_OF_DIRECTORY: Final = {
    "integration": "integration",
    "crash": "crash",
    "long": "long",
    "chaos": "chaos",
}
SLOT_RELEASE_S_MAX: Final = 10.0


def pytest_configure(config: pytest.Config) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # So a shell starts what runs in the background, and all that we start would inherit it.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if "TMPDIR" not in os.environ and _holds_servers(IN_MEMORY):
        # A database is some 300 files; on a disk a fifth of the tests' time goes to making them.
        os.environ["TMPDIR"] = tempfile.tempdir = str(IN_MEMORY)
    # A session's own plugin, not module state: pytest may run inside pytest.
    if os.environ.get("DBSPLIT_CI"):
        config.pluginmanager.register(_SkipsFail(), "dbsplit-skips-fail")


def _holds_servers(directory: Path) -> bool:
    try:
        usable = not os.statvfs(directory).f_flag & os.ST_NOEXEC
        free = shutil.disk_usage(directory).free
        (available,) = (
            int(line.split()[1]) << 10
            for line in Path("/proc/meminfo").read_text().splitlines()
            if line.startswith("MemAvailable:")
        )
    except (OSError, ValueError):  # no such directory, or not Linux
        return False
    return usable and os.access(directory, os.W_OK) and min(free, available) >= MEMORY_BYTES_MIN


@pytest.hookimpl(tryfirst=True)  # before -m looks at the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            place = item.path.relative_to(HERE).parts[0]
            if mark := MARK_OF_DIRECTORY.get(place):
                item.add_marker(mark)


class _SkipsFail:
    """In CI everything that a test can need is installed, so a skip hides something."""

    def __init__(self) -> None:
        self.skipped: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.skipped and not hasattr(report, "wasxfail"):
            self.skipped.append(report.nodeid)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.skipped:
            self.skipped.append(report.nodeid)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.skipped and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.skipped:
            names = ", ".join(self.skipped)
            terminalreporter.write_line(
                f"DBSPLIT_CI is set, so skipped tests fail the run: {names}", red=True
            )


def require_version(version: str) -> None:
    """Skip the test, and say how to have it, where there is no PostgreSQL of this version."""
    try:
        find_binaries(version)
    except NotReady as error:
        pytest.skip(f"{error}; to have it: {error.hint}")


@pytest.fixture(scope="session")
def pg_version() -> str:
    """The major version that the tests run on."""
    return os.environ.get("DBSPLIT_TEST_PG_VERSION") or "18"


@pytest.fixture(scope="session")
def source_server(pg_version: str) -> Iterator[Server]:
    with running_server(version=pg_version) as server:
        yield server


@pytest.fixture(scope="session")
def target_server(pg_version: str) -> Iterator[Server]:
    with running_server(version=pg_version) as server:
        yield server


@pytest.fixture
def source_db(source_server: Server) -> Iterator[str]:
    """A DSN of an empty database on the source, which is dropped afterwards."""
    with fresh_database(source_server) as dsn:
        yield dsn


@pytest.fixture
def target_db(target_server: Server) -> Iterator[str]:
    """A DSN of an empty database on the target, which is dropped afterwards."""
    with fresh_database(target_server) as dsn:
        yield dsn


@contextmanager
def fresh_database(server: Server) -> Iterator[str]:
    """An empty database with a name of its own, dropped with its slots at the end."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(server.dsn(), autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    try:
        yield server.dsn(name)
    finally:
        server.start()  # a test may have left it stopped or killed
        with psycopg.connect(server.dsn(), autocommit=True) as admin:
            drop_slots(admin, name)
            admin.execute(
                sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
            )


def drop_slots(admin: psycopg.Connection, database: str) -> None:
    """Drop the logical slots of a database, whoever is still reading from them."""

    def none_is_read() -> bool:
        active = admin.execute(
            "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots"
            " WHERE database = %s AND active_pid IS NOT NULL",
            [database],
        )
        return active.fetchone() is None

    assert wait_until(none_is_read, timeout_s=SLOT_RELEASE_S_MAX)
    admin.execute(
        "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = %s",
        [database],
    )
