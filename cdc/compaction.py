"""The net effect of many changes to one table.

A batch is applied as sets, so only what a row is in the end counts, and what it
was when the batch began.  Rows are told apart by the leader's key; where a key
does not tell, a table is a multiset of rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from cdc.pgoutput import UNCHANGED, Tuple

Key = tuple[object, ...]


class NetChanges:
    """What became of the rows of one keyed table since the last `clear`.

    Every key that was touched has two entries: what the row is now, None if there
    is none, and what it was before, as far as the log told it, None if it did not
    exist.  An image of now may hold UNCHANGED where neither the log nor an earlier
    image of the batch had the value.

    A deferrable key is no key here: within a transaction two rows may have the
    same; such tables are `NetRows`.
    """

    def __init__(self, key: tuple[int, ...]) -> None:
        self._key = key
        self._now: dict[Key, Tuple | None] = {}
        self._before: dict[Key, Tuple | None] = {}
        self._moved: set[Key] = set()
        self._new: set[Key] = set()  # rows that were inserted
        self._origin: dict[Key, Key] = {}  # rows that were not, but had another key

    def __len__(self) -> int:
        return len(self._now)

    def clear(self) -> None:
        """Start a new batch."""
        self._now.clear()
        self._before.clear()
        self._moved.clear()
        self._new.clear()
        self._origin.clear()

    def insert(self, new: Tuple) -> None:
        """A row appears."""
        key = self.key_of(new)
        if key not in self._now:
            self._before[key] = None
        self._now[key] = new
        self._new.add(key)

    def update(self, old: Tuple | None, new: Tuple) -> None:
        """A row changes, perhaps its key too, which `old` then tells."""
        new = fill(new, old)
        key = self.key_of(new)
        old_key = key if old is None else self.key_of(old)
        if old_key in self._now:
            new = fill(new, self._now[old_key])
        else:
            self._before[old_key] = new if old is None else old
        if old_key != key:
            self._move(old_key, key, new)
        self._now[key] = new

    def delete(self, old: Tuple) -> None:
        """A row disappears."""
        key = self.key_of(old)
        if key not in self._now:
            self._before[key] = old
        self._now[key] = None
        self._new.discard(key)
        self._origin.pop(key, None)

    def complete(self, image: Tuple, read: Tuple | None) -> None:
        """Take what `image`, a present one, lacks from the row as it was read.

        None means that the row does not exist any more, which the stream will tell.
        """
        key = self.key_of(image)
        if read is None:
            self._now[key] = None
            self._new.discard(key)
            self._origin.pop(key, None)
        else:
            self._now[key] = take(image, read)

    def present(self) -> Iterator[Tuple]:
        """The last images of the rows that exist."""
        for image in self._now.values():
            if image is not None:
                yield image

    def gone(self) -> Iterator[Tuple]:
        """Images, with the key at least, of rows that existed before and do not now.

        Not those that only have another key now, see `renamed`; but those whose key
        such a row or a new one has taken.
        """
        renamed = set(self._origin.values())
        for key, image in self._now.items():
            before = self._before[key]
            another = image is None or key in self._origin or key in self._new
            if before is not None and another and key not in renamed:
                yield before

    def renamed(self) -> Iterator[tuple[Tuple, Tuple]]:
        """Rows that have another key than before: the old image and the new one.

        In an order in which each new key is free when its turn comes, unless rows
        exchanged their keys.
        """
        for key, origin in self._origin.items():
            before, now = self._before[origin], self._now[key]
            if before is not None and now is not None:
                yield before, now

    def before(self) -> Iterator[Tuple]:
        """What rows that exist now, and did before, looked like before."""
        for key, before in self._before.items():
            if before is not None and self._now[key] is not None:
                yield before

    def has_moved(self, image: Tuple) -> bool:
        """Whether the row came to its key in this batch and is not known in full.

        The follower may have another row under that key, whose values are not ours.
        """
        return self.key_of(image) in self._moved

    def key_of(self, image: Tuple) -> Key:
        """The leader's key in an image."""
        return tuple([image[position] for position in self._key])

    def _move(self, old_key: Key, key: Key, new: Tuple) -> None:
        self._now[old_key] = None
        if old_key in self._new:
            self._new.remove(old_key)
            self._new.add(key)
        elif (origin := self._origin.pop(old_key, old_key)) != key:
            self._origin[key] = origin
        if key not in self._now:
            self._before[key] = None
        if UNCHANGED in new:
            self._moved.add(key)


class NetRows:
    """The net effect on a table as a multiset: how often each row came or went."""

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


def take(image: Tuple, read: Tuple) -> Tuple:
    """`image` with its UNCHANGED values, and these alone, as they were read.

    The rest of what was read may be of a later time than the image, when other
    rows, too, were not yet or no more what they are at this point of the stream.
    """
    return tuple(
        [now if value is UNCHANGED else value for value, now in zip(image, read, strict=True)]
    )
