"""A service's hand-written revisions, as part of the tree that is rendered for it.

They come between the schema before the data and the one after it, as `prepare` and
`copy` run them.  The files are copied, so that the tree stands on its own; only
the first ones are changed, in one value: they follow a revision now.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from alembic.util import CommandError

from plans.errors import NotReady
from toolkit.migrations import scripts, without_bytecode


@dataclass(frozen=True, slots=True)
class Handwritten:
    """The files of a directory of revisions, and where their line ends."""

    files: Mapping[Path, bytes] = field(default_factory=dict)  # by path below the directory
    heads: tuple[str, ...] = ()


def following(directory: Path, revision: str) -> Handwritten:
    """The revisions of `directory`, the first of which follow `revision`.

    Raises NotReady for a directory that has none, or that Alembic cannot read.
    """
    try:
        with without_bytecode():
            tree = scripts(directory)
            first = {Path(tree.get_revision(base).path) for base in tree.get_bases()}
            heads = tuple(sorted(tree.get_heads()))
    except (CommandError, SyntaxError, ImportError) as error:
        raise NotReady(
            f"the revisions of {directory} cannot be read: {error}",
            hint="`alembic history` has to be able to list them",
        ) from None
    place = Path(tree.dir)
    files = {
        path.relative_to(place): _following(path, revision) if path in first else path.read_bytes()
        for path in sorted(place.rglob("*"))
        if path.is_file() and path.suffix != ".pyc"
    }
    return Handwritten(files, heads)


def _following(path: Path, revision: str) -> bytes:
    """The file with `revision` in the place of the None that its down_revision is."""
    text = path.read_text(encoding="utf-8")
    if value := _down_revision(ast.parse(text)):
        lines = text.splitlines(keepends=True)
        line = lines[value.lineno - 1].encode()  # columns are counted in bytes
        begin, end = line[: value.col_offset], line[value.end_col_offset :]
        lines[value.lineno - 1] = (begin + f'"{revision}"'.encode() + end).decode()
        return "".join(lines).encode()
    raise NotReady(
        f"{path} has no line `down_revision = None`",
        hint="write it like that: the revision is made to follow what dbsplit renders",
    )


def _down_revision(module: ast.Module) -> ast.Constant | None:
    """Where a script says that nothing comes before it."""
    for statement in module.body:
        match statement:
            case (
                ast.Assign(targets=[ast.Name(id="down_revision")], value=ast.Constant() as value)
                | ast.AnnAssign(target=ast.Name(id="down_revision"), value=ast.Constant() as value)
            ):
                return value
            case _:
                pass
    return None
