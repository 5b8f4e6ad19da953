"""Throw-away PostgreSQL servers, for the demo, the tests and the benchmarks alike.

A server lives in a directory of its own, listens on 127.0.0.1 on a free port, and
is gone with its directory when it is discarded or when this process ends, however
it ends: `toolkit.servers_watchdog` waits for that.

Each server is made by initdb (0.6 to 1 s without syncing).  Copying a prepared data
directory would be faster, but a copy shares its system identifier, and telling two
servers apart by that is what a cutover relies on.

PostgreSQL refuses to run as root.  As root, servers run as `postgres` or `nobody`;
where that user cannot read the wheel's programs (a venv under /root), the server's
directory gets a copy of them, which goes when the server goes.

Weaknesses: Linux only, because processes are found in /proc.  With auth="trust"
every local user is superuser of the server.  A kill -9 in the millisecond between
making the directory and starting its watchdog leaves an empty directory.
"""

from __future__ import annotations

import os
import random
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Literal
from urllib.parse import quote

from plans.errors import NotReady
from toolkit import servers_watchdog as watchdog
from toolkit.accounts import Account, can_enter, choose_account, give, spawn
from toolkit.binaries import Binaries, find_binaries

SUPERUSER = "postgres"
HOST = "127.0.0.1"
START_S_MAX = 60.0  # a restart after a crash replays the log first
STOP_S_MAX = 20.0  # a logical receiver that does not confirm would hold up a fast stop for ever
INITDB_S_MAX = 120.0
PORT_ATTEMPTS = 10
_PORT_MIN = 12000
_LOG_TAIL_BYTES = 65536

SETTINGS: Mapping[str, str] = MappingProxyType(
    {
        "wal_level": "logical",
        "max_wal_senders": "20",
        "max_replication_slots": "20",
        "max_connections": "200",
        "shared_buffers": "128MB",
        "synchronous_commit": "on",
        "timezone": "UTC",
        "log_timezone": "UTC",
        "log_line_prefix": "%m [%p] %q%u@%d ",
        # Relative, hence in the data directory: a path of any depth fits sockaddr_un.
        "unix_socket_directories": ".",
        # In the data directory too, so that a killed server leaves nothing in /dev/shm.
        "dynamic_shared_memory_type": "mmap",
    }
)
_NOT_DURABLE = {"fsync": "off", "full_page_writes": "off"}


class Server:
    """One server; made by `start_server`."""

    def __init__(
        self, binaries: Binaries, root: Path, account: Account, *, password: str | None
    ) -> None:
        self.binaries = binaries
        self.root = root
        self.data_dir = root / "data"
        self.port = 0
        self.password = password
        self._account = account
        self._programs = binaries  # those that the account can run
        self._postmaster: subprocess.Popen[bytes] | None = None
        self._watchdog: subprocess.Popen[bytes] | None = subprocess.Popen(
            [sys.executable, "-I", "-S", watchdog.__file__, str(root)],
            stdin=subprocess.PIPE,  # the write end is close-on-exec: no other child has it
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,  # out of reach of the terminal's Ctrl-C
        )
        _LEASHED.add(self)

    @property
    def version(self) -> str:
        """The major version, such as "18"."""
        return self.binaries.version

    @property
    def running(self) -> bool:
        """Whether the postmaster lives."""
        return self._postmaster is not None and self._postmaster.poll() is None

    def dsn(
        self, dbname: str = "postgres", user: str | None = None, password: str | None = None
    ) -> str:
        """A connection URI; without a user it is the superuser's."""
        secret = self.password if user is None and password is None else password
        login = quote(user or SUPERUSER, safe="")
        if secret is not None:
            login += ":" + quote(secret, safe="")
        return f"postgresql://{login}@{HOST}:{self.port}/{quote(dbname, safe='')}"

    def start(self) -> None:
        """Start again after `stop` or `kill`, on the same port; return when it accepts logins.

        Raise NotReady, with the end of the server's log, if it does not.
        """
        if self.running:
            return
        with self.log.open("ab") as log:
            self._postmaster = spawn(
                [
                    str(self._programs.program("postgres")),
                    *("-D", str(self.data_dir), "-h", HOST, "-p", str(self.port)),
                ],
                cwd=self.root,
                account=self._account,
                output=log.fileno(),
            )
        postmaster = self._postmaster
        watchdog.wait_until(
            lambda: self._is_ready(postmaster.pid) or postmaster.poll() is not None,
            timeout_s=START_S_MAX,
        )
        if postmaster.poll() is not None or not self._is_ready(postmaster.pid):
            raise NotReady(
                f"PostgreSQL {self.version} did not start on port {self.port}",
                hint=f"the end of its log says:\n{self.log_tail()}",
            )

    def stop(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        """Shut down; harder if it does not follow in time.  The data stay for `start`."""
        if self._postmaster is None:
            return
        signals = [signal.SIGINT, signal.SIGQUIT] if mode == "fast" else [signal.SIGQUIT]
        for signum in signals:
            self._postmaster.send_signal(signum)
            try:
                self._postmaster.wait(STOP_S_MAX)
            except subprocess.TimeoutExpired:
                continue
            return
        self.kill()

    def kill(self) -> None:
        """SIGKILL the postmaster and all of its children, as when the machine's memory is full."""
        if self._postmaster is None:
            return
        # Halted first: a postmaster that outlived a child would start over by itself.
        self._postmaster.send_signal(signal.SIGSTOP)
        pids = watchdog.processes_of(self.data_dir)
        self._postmaster.kill()
        watchdog.send(signal.SIGKILL, pids)
        self._postmaster.wait(STOP_S_MAX)
        if not watchdog.wait_until(lambda: not watchdog.living(pids), timeout_s=STOP_S_MAX):
            raise NotReady(
                f"processes {sorted(watchdog.living(pids))} of the server survived SIGKILL",
                hint="they wait for a disk or a network file system; see their /proc/PID/stack",
            )

    def discard(self) -> None:
        """Stop, and remove every trace.  May be called again, and with the server in any state."""
        if self._watchdog is None:
            return
        self.stop("immediate")
        self._release()

    def leave_running(self) -> str:
        """Let the server outlive this process; return the command that stops it."""
        if self._watchdog is not None and self._watchdog.stdin is not None:
            self._watchdog.stdin.write(watchdog.KEEP)
        self._release()
        return f"kill -INT $(head -1 {self.data_dir}/postmaster.pid)"

    @property
    def log(self) -> Path:
        """The file that the server logs to."""
        return self.root / "server.log"

    def log_tail(self, lines: int = 20) -> str:
        """The last lines of the server's log."""
        if not self.log.exists():
            return ""
        with self.log.open("rb") as log:
            log.seek(max(0, self.log.stat().st_size - _LOG_TAIL_BYTES))
            text = log.read().decode(errors="replace")
        return "\n".join(text.splitlines()[-lines:])

    def _initialize(self, settings: Mapping[str, str]) -> None:
        method = "trust" if self.password is None else "scram-sha-256"
        secret = self.root / "password"
        command = [str(self._programs.program("initdb")), "-D", str(self.data_dir), "--no-sync"]
        command += ["-U", SUPERUSER, "-A", method, "-E", "UTF8", "--locale=C.UTF-8"]
        if self.password is not None:
            secret.touch(mode=0o600)
            secret.write_text(self.password)
            give(secret, self._account)
            command.append(f"--pwfile={secret}")
        with self.log.open("ab") as log:
            initdb = spawn(command, cwd=self.root, account=self._account, output=log.fileno())
        try:
            failed = initdb.wait(INITDB_S_MAX)
        finally:
            initdb.kill()
            initdb.wait()
            secret.unlink(missing_ok=True)
        if failed:
            raise NotReady(
                f"initdb of PostgreSQL {self.version} failed in {self.root.parent}",
                hint=f"its output ends with:\n{self.log_tail()}",
            )
        with (self.data_dir / "postgresql.conf").open("a") as conf:
            conf.writelines(f"{name} = {_conf_value(value)}\n" for name, value in settings.items())

    def _start_on_free_port(self) -> None:
        """Start for the first time; between choosing a port and using it, another may take it."""
        for attempt in range(1, PORT_ATTEMPTS + 1):
            self.port = _free_port()
            try:
                return self.start()
            except NotReady:
                if attempt == PORT_ATTEMPTS or "could not bind" not in self.log_tail():
                    raise
        return None

    def _is_ready(self, pid: int) -> bool:
        """As pg_ctl sees it: lines 1 and 8 of the lock file (miscadmin.h, LOCK_FILE_LINE_*)."""
        try:
            lines = (self.data_dir / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        return len(lines) >= 8 and lines[0] == str(pid) and lines[7].strip() in ("ready", "standby")

    def _release(self) -> None:
        """Let the watchdog loose, and wait until it is done."""
        if self._watchdog is None:
            return
        self._watchdog.communicate(timeout=watchdog.REMOVE_S_MAX + 2 * watchdog.QUIT_S_MAX)
        failed, self._watchdog = self._watchdog.returncode, None
        if failed and not watchdog.remove(self.root):  # someone killed it, or it could not either
            raise NotReady(
                f"the server's directory {self.root} could not be removed",
                hint="see who uses it: lsof +D, and remove it by hand",
            )

    def _drop_leash(self) -> None:
        if self._watchdog is not None and self._watchdog.stdin is not None:
            self._watchdog.stdin.close()


_LEASHED: weakref.WeakSet[Server] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    """A forked worker must not keep the servers of a dead parent alive."""
    for server in _LEASHED:
        server._drop_leash()


os.register_at_fork(after_in_child=_after_fork_in_child)


def start_server(
    *,
    base_dir: Path | None = None,
    version: str | None = None,
    settings: Mapping[str, str] = MappingProxyType({}),
    auth: Literal["trust", "scram"] = "trust",
    durable: bool = False,
) -> Server:
    """Make a new, empty server and start it.

    `base_dir` is where its directory is made, the temporary directory if None;
    `version` a major version, that of DBSPLIT_PG_VERSION or 18 if None; `settings`
    take precedence over `SETTINGS`.  With auth="scram" the superuser's password is
    in the server's `password` and in its `dsn`.  `durable` is for measurements: it
    does not matter to `kill`, after which the operating system still has each write.

    Raise NotReady if there are no programs of this version or they do not start.
    """
    binaries = find_binaries(version)
    account = choose_account()
    root = _make_directory(binaries, base_dir, account)
    server = Server(
        binaries, root, account, password=secrets.token_urlsafe(18) if auth == "scram" else None
    )
    try:
        server._programs = _runnable(binaries, root, account)
        server._initialize({**SETTINGS, **({} if durable else _NOT_DURABLE), **settings})
        server._start_on_free_port()
    except BaseException:
        server.discard()
        raise
    return server


@contextmanager
def running_server(
    *,
    base_dir: Path | None = None,
    version: str | None = None,
    settings: Mapping[str, str] = MappingProxyType({}),
    auth: Literal["trust", "scram"] = "trust",
    durable: bool = False,
) -> Iterator[Server]:
    """Have a server for the length of a block; see `start_server`."""
    server = start_server(
        base_dir=base_dir, version=version, settings=settings, auth=auth, durable=durable
    )
    try:
        yield server
    finally:
        server.discard()


def _make_directory(binaries: Binaries, base_dir: Path | None, account: Account) -> Path:
    """A new directory that the account can reach, with an empty one for the data in it."""
    if base_dir is None:
        bases = [Path(tempfile.gettempdir()), Path("/tmp"), Path("/var/tmp")]  # noqa: S108 - mkdtemp
    else:
        bases = [base_dir.resolve()]
        base_dir.mkdir(parents=True, exist_ok=True)
    base = next((base for base in bases if can_enter(base, account)), None)
    if base is None:
        raise NotReady(
            f"user {account.name}, whom PostgreSQL runs as here, cannot enter {bases[0]}",
            hint="choose a directory that every user may enter, such as one in /var/tmp",
        )
    root = Path(tempfile.mkdtemp(prefix=f"dbsplit-pg{binaries.version}-", dir=base))
    root.chmod(0o755)
    data_dir = root / "data"
    data_dir.mkdir(mode=0o700)
    give(data_dir, account)
    return root


def _runnable(binaries: Binaries, root: Path, account: Account) -> Binaries:
    """These programs, or a copy in the server's directory if the account cannot run them."""
    if account.user is None or not binaries.from_wheel:
        return binaries
    try:
        runs = spawn([str(binaries.program("initdb")), "-V"], cwd=root, account=account)
        if runs.wait(INITDB_S_MAX) == 0:
            return binaries
    except NotReady:
        pass  # not even its directory can be entered
    return binaries.copy_server(root / "programs")


def _free_port() -> int:
    """A port that nobody listens on now.

    Below the range of outgoing connections where there is room, or one of them could
    have taken the port when a killed server comes back to it.
    """
    text = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text()
    port_end = max(int(text.split()[0]), _PORT_MIN + 1000)
    for _ in range(100):
        port = random.randrange(_PORT_MIN, port_end)  # noqa: S311 - not a secret
        with socket.socket() as probe:
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port
    raise NotReady(
        f"found no free port on {HOST} from {_PORT_MIN} to {port_end}",
        hint="see which processes listen there: ss -ltn",
    )


def _conf_value(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"
