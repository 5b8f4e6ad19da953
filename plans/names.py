"""The names of everything that a split leaves on a server while it runs."""

from __future__ import annotations

from collections.abc import Callable

OfService = Callable[[str, str], str]
"""Makes a name of a split's and a service's."""

CONTROL_SCHEMA = "dbsplit"
APPLIER_SETTING = "dbsplit.applier"
"""The session setting by which fences know our own appliers."""

MARKER_PREFIX = "dbsplit"
STAGE_PREFIX = "_dbsplit_"
"""Of the columns that a stage has besides those of the table, see cdc.flow_sql."""

REWRITE_PREFIX = "dbsplit_rewrite"
"""Of the messages around rows that an applier deletes and inserts to change them."""


def slug(split: str) -> str:
    """The split's name where PostgreSQL allows no hyphen."""
    return split.replace("-", "_")


def publication(split: str) -> str:
    """The publication on the source."""
    return f"dbsplit_{slug(split)}"


def slot(split: str) -> str:
    """The slot on the source."""
    return f"dbsplit_{slug(split)}"


def refresh_slot(split: str) -> str:
    """The slot on the source that keeps what is written to tables while they are copied anew."""
    return f"dbsplit_{slug(split)}_refresh"


def back_publication(split: str, service: str) -> str:
    """The publication on a target."""
    return f"dbsplit_{slug(split)}_{slug(service)}_back"


def back_slot(split: str, service: str) -> str:
    """The slot on a target; slots are the whole instance's, thus the service."""
    return f"dbsplit_{slug(split)}_{slug(service)}_back"


def origin(split: str, service: str) -> str:
    """The replication origin with which the source's changes are written to a target."""
    return f"dbsplit_{slug(split)}_{slug(service)}"


def back_origin(split: str, service: str) -> str:
    """The replication origin with which a target's changes are written to the source."""
    return f"dbsplit_{slug(split)}_{slug(service)}_back"


def repair_origin(split: str, service: str) -> str:
    """The replication origin with which rows of a target are repaired.

    Not the applier's own: only one session at a time may write under an origin.
    """
    return f"dbsplit_{slug(split)}_{slug(service)}_repair"


def back_repair_origin(split: str, service: str) -> str:
    """The replication origin with which a service's rows are repaired in the source."""
    return f"dbsplit_{slug(split)}_{slug(service)}_back_repair"


def refresh_origin(split: str, service: str) -> str:
    """The replication origin with which tables are brought to where the stream is."""
    return f"dbsplit_{slug(split)}_{slug(service)}_refresh"


def stream(split: str, service: str) -> str:
    """The progress row, in the target, of the source's changes."""
    return f"{split}:{service}"


def refresh_stream(split: str, service: str) -> str:
    """The progress row, in the target, of tables that are not part of the stream yet."""
    return f"{split}:{service}:refresh"


def back_stream(split: str, service: str) -> str:
    """The progress row, in the source, of a target's changes."""
    return f"{split}:{service}:back"


OF_A_SERVER: tuple[tuple[str, OfService], ...] = (
    ("slot", back_slot),
    ("replication origin", origin),
    ("replication origin", back_origin),
    ("replication origin", repair_origin),
    ("replication origin", back_repair_origin),
    ("replication origin", refresh_origin),
)
"""What is named after a service and is the whole server's, and what it is.

Source and targets may be databases of one server: no two services may name the same.
"""
