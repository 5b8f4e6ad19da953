"""The net effect of many changes to one table.

A batch is applied as sets, so only what a row is in the end counts.  Rows are
told apart by the leader's key; a table without a key is a multiset of rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from cdc.pgoutput import UNCHANGED, Tuple

Key = tuple[object, ...]


class NetChanges:
    """What became of the rows of one keyed table since the last `clear`.

    Every key that was touched is in exactly one of two states: present, with
    the row's last image, or gone.  An image may hold UNCHANGED where neither
    the log nor an earlier image of the batch had the value.
    """

    def __init__(self, key: tuple[int, ...]) -> None:
        self._key = key
        self._present: dict[Key, Tuple] = {}
        self._gone: dict[Key, Tuple | None] = {}
        self._before: dict[Key, Tuple] = {}

    def __len__(self) -> int:
        return len(self._present) + len(self._gone)

    def clear(self) -> None:
        """Start a new batch."""
        self._present.clear()
        self._gone.clear()
        self._before.clear()

    def insert(self, new: Tuple) -> None:
        """A row appears."""
        key = self.key_of(new)
        self._gone.pop(key, None)
        self._present[key] = new

    def update(self, old: Tuple | None, new: Tuple) -> None:
        """A row changes, perhaps its key too, which `old` then tells."""
        new = fill(new, old)
        key = self.key_of(new)
        old_key = key if old is None else self.key_of(old)
        base = self._present.get(old_key)
        new = fill(new, base)
        if old is not None:
            if base is None and old_key not in self._gone:
                self._before.setdefault(old_key, old)
            if old_key != key:
                self._leave(old_key, old)
        self._gone.pop(key, None)
        self._present[key] = new

    def delete(self, old: Tuple) -> None:
        """A row disappears."""
        key = self.key_of(old)
        if key not in self._present and key not in self._gone:
            self._before.setdefault(key, old)
        self._leave(key, old)

    def set_absent(self, image: Tuple) -> None:
        """The row turned out not to exist any more."""
        self._leave(self.key_of(image), image)

    def replace(self, image: Tuple) -> None:
        """The row's image, completed."""
        self._present[self.key_of(image)] = image

    def present(self) -> Iterator[Tuple]:
        """The last images of the rows that exist."""
        return iter(self._present.values())

    def gone(self) -> Iterator[Tuple]:
        """An image, of which the key is certain, of each row that is no more."""
        for key, image in self._gone.items():
            if image is not None:
                yield self._before.get(key, image)

    def before(self) -> Iterator[Tuple]:
        """Old images of rows that are present now, for keys derived from other columns."""
        for key, image in self._before.items():
            if key in self._present:
                yield image

    def key_of(self, image: Tuple) -> Key:
        """The leader's key in an image."""
        return tuple([image[position] for position in self._key])

    def _leave(self, key: Key, image: Tuple) -> None:
        self._present.pop(key, None)
        self._gone[key] = image


class NetRows:
    """The net effect on a table without a key: how often each row came or went."""

    def __init__(self) -> None:
        self._count: Counter[Tuple] = Counter()

    def __len__(self) -> int:
        return len(self._count)

    def clear(self) -> None:
        """Start a new batch."""
        self._count.clear()

    def insert(self, new: Tuple) -> None:
        """A row appears."""
        self._add(new, 1)

    def update(self, old: Tuple | None, new: Tuple) -> None:
        """A row becomes another; identity FULL tells the old one."""
        if old is None:
            raise ValueError("an update of a table without a key came without its old row")
        self._add(old, -1)
        self._add(fill(new, old), 1)

    def delete(self, old: Tuple) -> None:
        """One of the rows that look like this disappears."""
        self._add(old, -1)

    def rows(self) -> Iterator[tuple[Tuple, int]]:
        """Each row with its net count, which is never zero."""
        return iter(self._count.items())

    def _add(self, row: Tuple, count: int) -> None:
        total = self._count[row] + count
        if total:
            self._count[row] = total
        else:
            del self._count[row]


def fill(new: Tuple, base: Tuple | None) -> Tuple:
    """`new` with its UNCHANGED values taken from `base` where that has them.

    An old tuple may hold only the key and NULL elsewhere.  A NULL is never taken:
    what is stored out of line, and thus may be unchanged, is not NULL.
    """
    if base is None or UNCHANGED not in new:
        return new
    return tuple(
        [
            old if value is UNCHANGED and old is not None else value
            for value, old in zip(new, base, strict=True)
        ]
    )
