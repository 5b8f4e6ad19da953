"""Where in a YAML file something stands."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

from ruamel.yaml.nodes import MappingNode, Node, SequenceNode

Path = tuple[str | int, ...]
"""Keys and indexes from the top of the file: ("tables", "orders", "derive", 0)."""

Mark = tuple[int, int]
"""Line and column, counted from 1."""

# A plan of ten thousand tables has about a hundred thousand; aliases of aliases
# of aliases have as many as they like ("billion laughs").
ENTRIES_MAX = 1_000_000


class TooManyEntries(ValueError):
    """The file is too large, or its aliases make it so."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A key or an item of the file, with the marks of its key and value."""

    path: Path
    key: Mark
    value: Mark
    is_repeated: bool = False


@dataclass(frozen=True, slots=True)
class Places:
    """The places of a file's entries."""

    file: str
    entries: Mapping[Path, Entry]
    repeated: tuple[Entry, ...] = ()

    def mark(self, path: Path, *, at_key: bool = False) -> Mark:
        """Line and column of `path`, or of the nearest entry above that exists."""
        for length in range(len(path), 0, -1):
            if entry := self.entries.get(path[:length]):
                return entry.key if at_key else entry.value
        return (1, 1)

    def at(self, mark: Mark) -> str:
        """The mark, as editors and CI systems read it."""
        return f"{self.file}:{mark[0]}:{mark[1]}"

    def place(self, path: Path) -> str:
        """The place of `path`: ``plan.yaml:12:5``."""
        return self.at(self.mark(path))


def dotted(path: Path) -> str:
    """The path in one word: ``tables.orders.derive[0].into``."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


def entries(root: Node | None) -> list[Entry]:
    """Everything that stands in a composed file; TooManyEntries beyond the limit."""
    found = list(islice(_below((), root, ()), ENTRIES_MAX + 1)) if root is not None else []
    if len(found) > ENTRIES_MAX:
        raise TooManyEntries(f"more than {ENTRIES_MAX} entries")
    return found


def _below(path: Path, node: Node, above: tuple[int, ...]) -> Iterator[Entry]:
    if id(node) in above:
        return  # an alias of what it is part of
    above = (*above, id(node))
    if isinstance(node, MappingNode):
        yield from _in_mapping(path, node, above)
    elif isinstance(node, SequenceNode):
        for index, item in enumerate(node.value):
            here = (*path, index)
            yield Entry(here, _mark(item), _mark(item))
            yield from _below(here, item, above)


def _in_mapping(path: Path, node: MappingNode, above: tuple[int, ...]) -> Iterator[Entry]:
    seen = set()
    for key, value in node.value:
        here = (*path, str(key.value))
        # Of a block below its key, and of nothing, the key is where one looks.
        is_block = isinstance(value, MappingNode | SequenceNode) and not value.flow_style
        is_empty = value.start_mark.index == value.end_mark.index
        mark = _mark(key) if is_block or is_empty else _mark(value)
        yield Entry(here, _mark(key), mark, is_repeated=here in seen)
        seen.add(here)
        yield from _below(here, value, above)


def _mark(node: Node) -> Mark:
    return node.start_mark.line + 1, node.start_mark.column + 1
