"""Connection strings of a plan: secrets come from the environment, never from the file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import psycopg
from psycopg.conninfo import conninfo_to_dict

_VARIABLE = re.compile(r"\$\{([^}]*)\}")
_VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PLACEHOLDER = "DBSPLITVARIABLE"
_SECRETS = (
    "password",
    "sslpassword",
    "scram_client_key",
    "scram_server_key",
    "oauth_client_secret",
)
_PORT = "5432"

# Never part of a message: what a DSN holds may be a password.


@dataclass(frozen=True, slots=True)
class Expanded:
    """A DSN with its variables filled in, and what is wrong with it."""

    dsn: str
    problems: tuple[tuple[str, str], ...] = ()  # message, remedy


def expand(text: str, env: Mapping[str, str]) -> Expanded:
    """Fill ``${NAME}`` from the environment."""
    names = _VARIABLE.findall(text)
    problems = [problem for name in dict.fromkeys(names) for problem in _variable(name, env)]
    if holds_secret(text):
        problems.append(
            (
                "holds a password; secrets belong in the environment",
                "write ${VARIABLE} for the password or for the whole string, or use a"
                " password file (~/.pgpass)",
            )
        )
    dsn = _VARIABLE.sub(lambda match: env.get(match[1], ""), text)
    if not problems and _parsed(dsn) is None:
        where = f" (with {', '.join(dict.fromkeys(names))} filled in)" if names else ""
        problems.append(
            (
                f"isn't a connection string{where}",
                "write postgresql://user@host:port/database, or host=… dbname=…, or service=NAME",
            )
        )
    return Expanded(dsn, tuple(problems))


def _variable(name: str, env: Mapping[str, str]) -> list[tuple[str, str]]:
    if not _VARIABLE_NAME.fullmatch(name):
        return [(f"${{{name}}} isn't a variable's name", "letters, digits and _ only")]
    if env.get(name, "").strip():
        return []
    state = "empty" if name in env else "not set"
    return [
        (
            f"the environment variable {name} is {state}",
            f"export {name}='postgresql://user@host/database'",
        )
    ]


def unset(text: str, env: Mapping[str, str]) -> tuple[str, ...]:
    """The variables of a DSN that have no value."""
    return tuple(
        name
        for name in dict.fromkeys(_VARIABLE.findall(text))
        if _VARIABLE_NAME.fullmatch(name) and not env.get(name, "").strip()
    )


def holds_secret(text: str) -> bool:
    """Whether a password stands in the text itself, not in a variable."""
    values = _parsed(_VARIABLE.sub(_PLACEHOLDER, text)) or {}
    return any(values.get(key, "").replace(_PLACEHOLDER, "") for key in _SECRETS)


def database_of(dsn: str) -> tuple[str, ...] | None:
    """What tells one database from another; None if the DSN cannot be read."""
    values = _parsed(dsn)
    if values is None:
        return None
    host = values.get("hostaddr") or values.get("host", "")
    name = values.get("dbname") or values.get("user", "")
    return (values.get("service", ""), host, values.get("port", _PORT), name)


def _parsed(dsn: str) -> dict[str, str] | None:
    try:
        return {key: str(value) for key, value in conninfo_to_dict(dsn).items()}
    except psycopg.Error:
        return None
