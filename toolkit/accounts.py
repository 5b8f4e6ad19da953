"""Running PostgreSQL's server programs as a user that they accept: they refuse to run as root."""

from __future__ import annotations

import os
import pwd
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path

from plans.errors import NotReady


@dataclass(frozen=True, slots=True)
class Account:
    """Whom a server runs as; all None: whoever runs this."""

    name: str = ""
    user: int | None = None
    group: int | None = None
    extra_groups: tuple[int, ...] | None = None


def choose_account() -> Account:
    """The current user, but for root; raise NotReady if root has nobody to run a server as."""
    if os.geteuid() != 0:
        return Account()
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(name, entry.pw_uid, entry.pw_gid, ())
    raise NotReady(
        "PostgreSQL refuses to run as root, and there is no user postgres or nobody",
        hint="useradd --system postgres, or run this as another user",
    )


def can_enter(directory: Path, account: Account) -> bool:
    """Whether the account can reach what lies in the directory, and this process write there."""
    if account.user is None:
        return os.access(directory, os.W_OK | os.X_OK)
    return directory.is_dir() and all(
        _lets_pass(step.stat(), account) for step in (directory, *directory.parents)
    )


def give(path: Path, account: Account) -> None:
    """Make the account the owner."""
    if account.user is not None and account.group is not None:
        os.chown(path, account.user, account.group)


def spawn(
    command: list[str], *, cwd: Path, account: Account, output: int = subprocess.DEVNULL
) -> subprocess.Popen[bytes]:
    """Start a server program as the account; raise NotReady if that cannot be."""
    environment = {name: value for name, value in os.environ.items() if name[:2] != "PG"}
    try:
        return subprocess.Popen(
            command,
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            umask=0o077,
            user=account.user,
            group=account.group,
            extra_groups=account.extra_groups,
        )
    except PermissionError as error:
        who = f"as user {account.name}" if account.name else "as this user"
        raise NotReady(
            f"{command[0]} cannot be run {who}: {error.strerror}",
            hint="run this as an ordinary user, or set DBSPLIT_PG_BIN to programs it can run",
        ) from None


def _lets_pass(directory: os.stat_result, account: Account) -> bool:
    owned = directory.st_uid == account.user
    return bool(directory.st_mode & (stat.S_IXUSR if owned else stat.S_IXOTH))
