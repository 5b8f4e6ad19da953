"""Masked values: a hash stands for a value that must not be shown; no I/O.

The hash is keyed with a secret that is made for one run and kept nowhere, so that
values of which there are few, such as telephone numbers, cannot be tried out.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

from validators.results import ColumnDifference, Difference
from validators.sides import Key

_SHOWN_BYTES = 8


@dataclass(frozen=True, slots=True)
class Masks:
    """Hashes of one run: equal values have equal ones."""

    secret: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)

    def value(self, text: str | None) -> str | None:
        """What is shown for a value; NULL is shown."""
        if text is None:
            return None
        hashed = hashlib.blake2b(text.encode(), key=self.secret, digest_size=_SHOWN_BYTES)
        return f"hash:{hashed.hexdigest()}"

    def key(self, key: Key, names: Sequence[str], masked: Collection[str]) -> Key:
        """A key to be shown, whose columns have these names."""
        if not key:
            return key
        return tuple(
            self.value(part) if name in masked else part
            for name, part in zip(names, key, strict=True)
        )

    def difference(
        self, difference: Difference, key: Sequence[str], masked: Collection[str]
    ) -> Difference:
        """A difference to be shown."""
        if not masked:
            return difference
        return replace(
            difference,
            key=self.key(difference.key, key, masked),
            columns=tuple(
                ColumnDifference(c.column, self.value(c.leader), self.value(c.follower))
                if c.column in masked
                else c
                for c in difference.columns
            ),
            row_hash=None,
        )
