"""Throw-away servers: they start, differ, survive a kill, and leave nothing behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from textwrap import dedent
from typing import Any, Final

import psycopg
import pytest

from plans.errors import NotReady
from tests.conftest import require_version
from toolkit.binaries import find_binaries
from toolkit.servers import HOST, STOP_S_MAX, Server, running_server, start_server
from toolkit.servers_watchdog import processes_of, wait_until

GONE_S_MAX: Final = 20.0
PARENT_S_MAX: Final = 30.0
VERSIONS: Final = ["18", "16", "15"]


@pytest.fixture
def base() -> Iterator[Path]:
    """A directory that every user may enter, unlike pytest's own."""
    with tempfile.TemporaryDirectory(prefix="dbsplit-test-") as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


def available(version: str) -> str:
    require_version(version)
    return version


def scalar(dsn: str, query: str) -> Any:
    with psycopg.connect(dsn) as connection:
        row = connection.execute(query).fetchone()
    assert row
    return row[0]


def accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


def segments() -> set[str]:
    """The System V shared memory segments of this machine, by key and id."""
    lines = Path("/proc/sysvipc/shm").read_text().splitlines()[1:]
    return {" ".join(line.split()[:2]) for line in lines}


def segment_of(server: Server) -> str:
    line = (server.data_dir / "postmaster.pid").read_text().splitlines()[6]
    return " ".join(line.split())


@pytest.mark.parametrize("version", VERSIONS)
def test_a_server_of_each_version_is_ready_for_logical_replication(
    version: str, base: Path
) -> None:
    with running_server(base_dir=base, version=available(version)) as server:
        assert server.version == version
        number = scalar(server.dsn(), "SELECT current_setting('server_version_num')::int / 10000")
        assert number == int(version)
        assert scalar(server.dsn(), "SHOW wal_level") == "logical"
        assert scalar(server.dsn(), "SHOW server_encoding") == "UTF8"
        assert scalar(server.dsn(), "SHOW listen_addresses") == HOST
        assert scalar(server.dsn(), "SELECT session_user") == "postgres"
    assert not list(base.iterdir())


def test_two_servers_have_different_system_identifiers_and_ports(
    source_server: Server, target_server: Server
) -> None:
    query = "SELECT system_identifier FROM pg_control_system()"
    assert scalar(source_server.dsn(), query) != scalar(target_server.dsn(), query)
    assert source_server.port != target_server.port


def test_a_server_never_runs_as_root(source_server: Server) -> None:
    owners = {os.stat(f"/proc/{pid}").st_uid for pid in processes_of(source_server.data_dir)}  # noqa: PTH116
    assert owners
    assert 0 not in owners


def test_settings_take_precedence_over_the_defaults(base: Path) -> None:
    settings = {"wal_level": "replica", "application_name": "it's \\ quoted"}
    with running_server(base_dir=base, settings=settings) as server:
        assert scalar(server.dsn(), "SHOW wal_level") == "replica"
        reset = "SELECT reset_val FROM pg_settings WHERE name = 'log_line_prefix'"
        assert scalar(server.dsn(), reset) == "%m [%p] %q%u@%d "
        shown = "SELECT setting FROM pg_file_settings WHERE name = 'application_name'"
        assert scalar(server.dsn(), shown) == "it's \\ quoted"


def test_only_an_explicitly_durable_server_syncs(base: Path) -> None:
    with running_server(base_dir=base) as server:
        assert scalar(server.dsn(), "SHOW fsync") == "off"
    with running_server(base_dir=base, durable=True) as server:
        assert scalar(server.dsn(), "SHOW fsync") == "on"


def test_a_server_with_passwords_refuses_a_wrong_one(base: Path) -> None:
    with running_server(base_dir=base, auth="scram") as server:
        assert scalar(server.dsn(), "SELECT 1") == 1
        assert not (server.root / "password").exists()
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(server.dsn(password="wrong"))  # noqa: S106


def test_names_and_passwords_are_quoted_in_the_dsn(source_server: Server) -> None:
    dsn = source_server.dsn("a/b c", user="o'brien@x", password="p:w/d")  # noqa: S106
    info = psycopg.conninfo.conninfo_to_dict(dsn)
    assert (info["dbname"], info["user"], info["password"]) == ("a/b c", "o'brien@x", "p:w/d")


@pytest.mark.parametrize("end", [Server.kill, Server.stop], ids=["kill", "stop"])
def test_what_was_acknowledged_is_there_after_an_end_and_a_start(
    end: Callable[[Server], None], base: Path
) -> None:
    with running_server(base_dir=base) as server:
        port, segment = server.port, segment_of(server)
        with psycopg.connect(server.dsn(), autocommit=True) as connection:
            connection.execute("CREATE TABLE t AS SELECT generate_series(1, 1000) AS n")
            end(server)
            assert not processes_of(server.data_dir)
            assert not accepts(port)
            with pytest.raises(psycopg.OperationalError):
                connection.execute("SELECT 1")
        server.start()
        server.start()  # once more is not an error
        assert server.port == port
        assert scalar(server.dsn(), "SELECT count(*) FROM t") == 1000
        assert segment not in segments()


def test_a_killed_server_leaves_no_shared_memory(base: Path) -> None:
    server = start_server(base_dir=base)
    segment = segment_of(server)
    assert segment in segments()
    server.kill()
    server.discard()
    server.discard()  # once more is not an error
    assert segment not in segments()
    assert not list(base.iterdir())


def test_a_stop_ends_the_sessions_that_are_open(base: Path) -> None:
    with running_server(base_dir=base) as server:
        session = psycopg.connect(server.dsn())
        session.execute("CREATE TABLE t ()")
        started = time.monotonic()
        server.stop()
        assert time.monotonic() - started < STOP_S_MAX
        with session, pytest.raises(psycopg.errors.AdminShutdown):
            session.execute("SELECT 1")


def test_a_server_that_does_not_start_shows_its_log_and_leaves_nothing(base: Path) -> None:
    with pytest.raises(NotReady) as caught:
        start_server(base_dir=base, settings={"wal_level": "sideways"})
    assert "wal_level" in caught.value.hint
    assert not list(base.iterdir())


def test_a_version_that_is_not_installed_is_named_with_what_brings_it() -> None:
    with pytest.raises(NotReady, match="PostgreSQL 9 ") as caught:
        find_binaries("9")
    assert "apt-get install postgresql-9" in caught.value.hint


def test_the_wheel_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toolkit.binaries.find_spec", lambda _name: None)
    monkeypatch.setattr("toolkit.binaries._INSTALLED", ())
    monkeypatch.setenv("PATH", "")
    with pytest.raises(NotReady) as caught:
        find_binaries("18")
    assert caught.value.hint == "pip install 'dbsplit[demo]'"


def test_the_environment_chooses_the_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBSPLIT_PG_VERSION", "16")
    assert find_binaries().version == "16"
    monkeypatch.delenv("DBSPLIT_PG_VERSION")
    monkeypatch.setenv("DBSPLIT_PG_BIN", str(find_binaries("16").bin_dir))
    assert find_binaries().version == "16"
    assert find_binaries("18").version == "18"  # said outright


@pytest.mark.parametrize("version", ["18", "16"])
def test_root_runs_a_wheel_that_others_cannot_read(
    version: str, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a venv under /root; for anyone else a server is run from where it lies."""
    closed = base / "closed"
    wheel = find_binaries(version).bin_dir.parent.parent
    for part in (wheel / find_binaries(version).bin_dir.parent.name, Path(f"{wheel}.libs")):
        shutil.copytree(part, closed / part.relative_to(wheel.parent), symlinks=True)
    (closed / wheel.name / "__init__.py").touch()
    closed.chmod(stat.S_IRWXU)
    monkeypatch.syspath_prepend(str(closed))
    monkeypatch.setattr("toolkit.binaries.find_spec", find_spec)
    with running_server(base_dir=base, version=version) as server:
        assert closed in server.binaries.program("pg_dump").parents
        assert scalar(server.dsn(), "SELECT 1") == 1
        dump = subprocess.run(
            [server.binaries.program("pg_dump"), server.dsn()], timeout=PARENT_S_MAX, check=False
        )
        assert dump.returncode == 0
    assert list(base.iterdir()) == [closed]


def test_a_base_directory_that_the_server_cannot_enter_is_refused(tmp_path: Path) -> None:
    shut = tmp_path / "shut"
    shut.mkdir(mode=0o000)
    with pytest.raises(NotReady, match="cannot enter") as caught:
        start_server(base_dir=shut)
    assert "choose a directory" in caught.value.hint


# --- The parent ends in every way that there is.

PARENT: Final = """
    import json, os, signal, sys, time
    from pathlib import Path
    from toolkit.servers import running_server, start_server
    base, ending = Path(sys.argv[1]), sys.argv[2]
    # A shell lets what it starts in the background ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    server = start_server(base_dir=base)
    if ending == "fork" and os.fork() == 0:
        time.sleep(60)
        os._exit(0)
    print(json.dumps({"port": server.port, "root": str(server.root)}), flush=True)
    if ending == "raise":
        raise RuntimeError("on purpose")
    if ending == "os._exit":
        os._exit(0)
    if ending != "return":
        time.sleep(60)
"""


@pytest.fixture
def parent(base: Path) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """Starts processes that start a server; in a session that ends with the test."""
    started: list[subprocess.Popen[str]] = []

    def start(ending: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", dedent(PARENT), str(base), ending],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=PARENT_S_MAX)


@pytest.mark.parametrize(
    ("ending", "signum"),
    [
        ("return", None),
        ("raise", None),
        ("os._exit", None),
        ("Ctrl-C", signal.SIGINT),
        ("terminated", signal.SIGTERM),
        ("killed", signal.SIGKILL),
        ("fork", signal.SIGKILL),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_nothing_outlives_the_parent(
    ending: str,
    signum: signal.Signals | None,
    base: Path,
    parent: Callable[[str], subprocess.Popen[str]],
) -> None:
    process = parent(ending)
    assert process.stdout
    seen = json.loads(process.stdout.readline())
    data_dir = Path(seen["root"], "data")
    if signum is signal.SIGINT:
        os.killpg(process.pid, signum)  # as a terminal does: to the whole group
    elif signum is not None:
        assert accepts(seen["port"])
        process.send_signal(signum)
    process.wait(PARENT_S_MAX)

    assert wait_until(lambda: not list(base.iterdir()), timeout_s=GONE_S_MAX)
    assert wait_until(lambda: not processes_of(data_dir), timeout_s=GONE_S_MAX)
    assert not accepts(seen["port"])


@pytest.mark.parametrize("after_s", [0.1, 0.2, 0.3, 0.5, 0.7, 0.9])
def test_a_parent_killed_while_its_server_is_being_made_leaves_nothing(
    after_s: float, base: Path, parent: Callable[[str], subprocess.Popen[str]]
) -> None:
    process = parent("killed")
    assert wait_until(lambda: bool(list(base.iterdir())), timeout_s=GONE_S_MAX)
    time.sleep(after_s)
    roots = list(base.iterdir())
    process.kill()
    process.wait(PARENT_S_MAX)
    assert wait_until(lambda: not list(base.iterdir()), timeout_s=GONE_S_MAX)
    assert not any(processes_of(root / "data") for root in roots)


def test_a_server_can_be_left_running_on_purpose(base: Path) -> None:
    server = start_server(base_dir=base)
    stop = server.leave_running()
    assert scalar(server.dsn(), "SELECT 1") == 1
    subprocess.run(["sh", "-c", stop], check=True, timeout=PARENT_S_MAX)  # noqa: S607
    assert wait_until(lambda: not server.running, timeout_s=GONE_S_MAX)
