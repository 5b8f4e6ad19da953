"""A pooler in front of a test's server."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from toolkit.servers_watchdog import wait_until


@contextmanager
def pooler(dsn: str, *, mode: str = "session") -> Iterator[str]:
    """PgBouncer before the database of `dsn`."""
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip("apt-get install pgbouncer")
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    parts = conninfo_to_dict(dsn)
    lines = (
        "[databases]",
        "pooled = host={host} port={port} dbname={dbname} user={user}".format_map(parts),
        "[pgbouncer]",
        "listen_addr = 127.0.0.1",
        f"listen_port = {port}",
        "unix_socket_dir =",
        "auth_type = any",
        f"pool_mode = {mode}",
    )
    with tempfile.TemporaryDirectory() as directory:
        ini = Path(directory) / "pgbouncer.ini"
        ini.write_text("\n".join(lines))
        ini.parent.chmod(0o755)
        # It refuses to run as root.
        user = "nobody" if os.geteuid() == 0 else None
        bouncer = subprocess.Popen([program, "-q", str(ini)], user=user, stderr=subprocess.DEVNULL)
        try:
            assert wait_until(lambda: _listens(port), timeout_s=10)
            yield make_conninfo(dsn, port=port, dbname="pooled")
        finally:
            bouncer.terminate()
            bouncer.wait(10)


def _listens(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0
