"""Where each service's database is now: the traffic switch, as a small JSON file.

The file maps a service to a conninfo, such as ``{"crm": "host=…", "shop": "host=…"}``.  A
role's name may stand beside it and takes precedence, for a role with a login of its own.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path


class RoutingUnreadable(Exception):
    """The file is not there, or not what this module writes."""


class Routing:
    """The file, read again whenever it was replaced; used by one thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._version: tuple[int, int, int] | None = None
        self._places: Mapping[str, str] = {}

    def place(self, role: str, service: str) -> str:
        """The conninfo that `role` of `service` is to use now."""
        try:
            stat = self._path.stat()
            version = (stat.st_mtime_ns, stat.st_ino, stat.st_size)
            if version != self._version:
                self._places = json.loads(self._path.read_text(encoding="utf-8"))
                self._version = version
        except (OSError, ValueError) as error:
            raise RoutingUnreadable(f"cannot read {self._path}: {error}") from None
        try:
            return self._places.get(role) or self._places[service]
        except KeyError:
            raise RoutingUnreadable(f"{self._path} has no place for {service}") from None


def write_routing(path: Path, places: Mapping[str, str]) -> None:
    """Replace the file at once: readers see the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(dict(places), file, indent=2)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
