"""JSON as a database's own encoding can hold it.

A database that is not UTF8 refuses an escape in jsonb such as ``\\u00e4``: one of SQL_ASCII
each of them, others those of characters that they lack.
"""

from __future__ import annotations

import codecs
import json
from typing import Any, Final

from cdc.connect import Connection

_AS_THEY_COME: Final = frozenset({"UTF8", "SQL_ASCII"})


def stored(connection: Connection, value: Any) -> str:  # noqa: ANN401 - what JSON holds
    """`value` as JSON for a column there; characters that it lacks become question marks."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    encoding = connection.info.parameter_status("server_encoding") or "UTF8"
    if encoding in _AS_THEY_COME:
        return text
    codec = _codec(encoding)
    return text.encode(codec, errors="replace").decode(codec)


def _codec(encoding: str) -> str:
    """Python's name of a server's encoding; of one that it lacks, what all have in common."""
    name = encoding.replace("WIN", "cp").replace("KOI8", "koi8_")
    try:
        return codecs.lookup(name).name
    except LookupError:
        return "ascii"
