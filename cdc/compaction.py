"""The net effect of many changes to one table.

A batch is applied as sets, so only what a row is in the end counts, and what it
was when the batch began.  Rows are told apart by the leader's key; where a key
does not tell, a table is a multiset of rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from cdc.messages import DELETE, INSERT
from cdc.row_messages import RowChanges
from cdc.rows import Key, Row, Unchanged, fill, has_unchanged, take, unchanged_of


class NetChanges:
    """What became of the rows of one keyed table since the last `clear`.

    Every key that was touched has two entries: what the row is now, None if there
    is none, and what it was before, as far as the log told it, None if it did not
    exist.  A row of now may hold UNCHANGED where neither the log nor an earlier
    row of the batch had the value.

    A deferrable key is no key here: within a transaction two rows may have the
    same; such tables are `NetRows`.
    """

    def __init__(self) -> None:
        self._now: dict[Key, Row | None] = {}
        self._before: dict[Key, Row | None] = {}
        self._moved: set[Key] = set()
        self._new: set[Key] = set()  # rows that were inserted
        self._origin: dict[Key, Key] = {}  # rows that were not, but had another key
        self._partial: dict[Key, Unchanged] = {}  # rows of which a value is UNCHANGED

    def __len__(self) -> int:
        return len(self._now)

    def clear(self) -> None:
        """Start a new batch."""
        self._now.clear()
        self._before.clear()
        self._moved.clear()
        self._new.clear()
        self._origin.clear()
        self._partial.clear()

    def take_in(self, changes: RowChanges) -> None:
        """Many changes in turn."""
        if self._is_all_new(changes):
            self._now.update(zip(changes.keys, changes.rows, strict=True))
            self._before.update(dict.fromkeys(changes.keys))
            self._new.update(changes.keys)
            return
        now, before = self._now, self._before
        old, partial = changes.old, changes.partial
        rows = zip(changes.kinds, changes.keys, changes.rows, strict=True)
        for place, (kind, key, row) in enumerate(rows):
            if kind == INSERT:
                self.insert(key, row)
            elif kind == DELETE:
                self.delete(key, row)
            elif place in old or place in partial or self._partial:
                self.update(key, row, old.get(place), unchanged=partial.get(place, ()))
            else:
                if key not in now:
                    before[key] = row
                now[key] = row

    def _is_all_new(self, changes: RowChanges) -> bool:
        """Whether all are inserts of rows that were not touched before."""
        keys = changes.keys
        return (
            changes.kinds.count(INSERT) == len(keys)
            and len(set(keys)) == len(keys)
            and self._now.keys().isdisjoint(keys)
        )

    def insert(self, key: Key, row: Row) -> None:
        """A row appears."""
        if key not in self._now:
            self._before[key] = None
        self._now[key] = row
        self._new.add(key)

    def update(
        self,
        key: Key,
        row: Row,
        old: tuple[Key, Row] | None = None,
        *,
        unchanged: Unchanged = (),
    ) -> None:
        """A row changes, perhaps its key too, which `old` then tells."""
        old_key, told = (key, row) if old is None else old
        if old is not None and unchanged:
            row = fill(row, told)
            unchanged = unchanged_of(row)
        if old_key not in self._now:
            self._before[old_key] = told
        elif unchanged and self._partial.get(old_key) != unchanged:
            row = fill(row, self._now[old_key])
            unchanged = unchanged_of(row)
        self._partial.pop(old_key, None)
        if unchanged:
            self._partial[key] = unchanged
        else:
            self._partial.pop(key, None)
        if old_key != key:
            self._move(old_key, key, is_partial=bool(unchanged))
        self._now[key] = row

    def delete(self, key: Key, row: Row) -> None:
        """A row disappears; `row` has its key at least."""
        if key not in self._now:
            self._before[key] = row
        self._now[key] = None
        self._forget(key)

    def complete(self, key: Key, read: Row | None) -> None:
        """Take what a present row lacks from the row as it was read.

        None means that the row does not exist any more, which the stream will tell.
        """
        row = self._now[key]
        if read is None or row is None:
            self._now[key] = None
            self._forget(key)
        else:
            self._now[key] = take(row, read)
            self._partial.pop(key, None)

    def present(self) -> Iterator[tuple[Key, Row]]:
        """The rows that exist, as they are now."""
        for key, row in self._now.items():
            if row is not None:
                yield key, row

    def partial(self) -> dict[Key, Unchanged]:
        """Which of their values are UNCHANGED, of those that have some."""
        now = self._now
        return {key: unchanged for key, unchanged in self._partial.items() if now[key] is not None}

    def coming(self) -> tuple[list[Row], dict[Unchanged, list[Row]]]:
        """The rows that exist, as they are now: those to insert, and those to update.

        To insert are rows that did not exist, and those that have taken another's key:
        `gone` and `renamed` tell what to delete first.  Those to update come by which of
        their values are UNCHANGED.
        """
        appear: list[Row] = []
        whole: list[Row] = []
        change: dict[Unchanged, list[Row]] = {}
        before, new, origin, partial = self._before, self._new, self._origin, self._partial
        for key, row in self._now.items():
            if row is None:
                continue
            if before[key] is None or key in new or key in origin:
                appear.append(row)
            elif key in partial:
                change.setdefault(partial[key], []).append(row)
            else:
                whole.append(row)
        if whole:
            change[()] = whole
        return appear, change

    def gone(self) -> Iterator[Row]:
        """Rows, with the key at least, that existed before and do not now.

        Not those that only have another key now, see `renamed`; but those whose key
        such a row or a new one has taken.
        """
        if len(self._new) == len(self._now) and not any(map(self._before.get, self._new)):
            return  # nothing but new rows
        renamed = set(self._origin.values())
        for key, row in self._now.items():
            before = self._before[key]
            another = row is None or key in self._origin or key in self._new
            if before is not None and another and key not in renamed:
                yield before

    def passed(self) -> Iterator[Key]:
        """Keys that rows had only in between: neither before nor now.

        To a follower as it was before they are nothing.  One that has rows of later
        than that may have one of these.
        """
        for key, row in self._now.items():
            if row is None and self._before[key] is None:
                yield key

    def renamed(self) -> Iterator[tuple[Row, Key]]:
        """Rows that have another key than before: as they were, and their key now.

        In an order in which each new key is free when its turn comes, unless rows
        exchanged their keys.
        """
        for key, origin in self._origin.items():
            before = self._before[origin]
            if before is not None and self._now[key] is not None:
                yield before, key

    def before(self) -> Iterator[Row]:
        """What rows that exist now, and did before, looked like before."""
        for key, before in self._before.items():
            if before is not None and self._now[key] is not None:
                yield before

    def is_new(self, key: Key) -> bool:
        """Whether the row under this key was inserted, be it in place of another."""
        return key in self._new

    def has_moved(self, key: Key) -> bool:
        """Whether the row came to its key in this batch and is not known in full.

        The follower may have another row under that key, whose values are not ours.
        """
        return key in self._moved

    def _move(self, old_key: Key, key: Key, *, is_partial: bool) -> None:
        self._now[old_key] = None
        if old_key in self._new:
            self._new.remove(old_key)
            self._new.add(key)
        elif (origin := self._origin.pop(old_key, old_key)) != key:
            self._origin[key] = origin
        if key not in self._now:
            self._before[key] = None
        if is_partial:
            self._moved.add(key)

    def _forget(self, key: Key) -> None:
        self._new.discard(key)
        self._origin.pop(key, None)
        self._partial.pop(key, None)


class NetRows:
    """The net effect on a table as a multiset: how often each row came or went."""

    def __init__(self) -> None:
        self._count: Counter[Row] = Counter()

    def __len__(self) -> int:
        return len(self._count)

    def clear(self) -> None:
        """Start a new batch."""
        self._count.clear()

    def take_in(self, changes: RowChanges) -> None:
        """Many changes in turn; the log must tell old rows in full."""
        rows = zip(changes.kinds, changes.rows, strict=True)
        for place, (kind, row) in enumerate(rows):
            if kind == INSERT:
                self.insert(row)
            elif kind == DELETE:
                self.delete(row)
            else:
                self.update(changes.old[place][1], row)

    def insert(self, row: Row) -> None:
        """A row appears."""
        self._add(row, 1)

    def update(self, old: Row, row: Row) -> None:
        """A row becomes another."""
        self._add(old, -1)
        self._add(fill(row, old) if has_unchanged(row) else row, 1)

    def delete(self, row: Row) -> None:
        """One of the rows that look like this disappears."""
        self._add(row, -1)

    def rows(self) -> Iterator[tuple[Row, int]]:
        """Each row with its net count, which is never zero."""
        return iter(self._count.items())

    def _add(self, row: Row, count: int) -> None:
        total = self._count[row] + count
        if total:
            self._count[row] = total
        else:
            del self._count[row]
