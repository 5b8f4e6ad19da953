"""Reading a text: its statements, and the tables and columns that each touches.

Theory of operation.  A text is cut into statements (`splitting`), each of which is
parsed with PostgreSQL's own grammar (`placeholders`, `tree`).  A session goes through
them in order (`commands`), because a statement may change what names mean after it:
the search_path, temporary tables, prepared statements, new views and functions.  What a
statement names itself is taken down level by level (`queries`, `ranges`); views and
functions are read in the same way (`definitions`).  Then the walk from there to tables
(`reach`) adds what the server does besides: triggers, rules, policies, cascading keys,
defaults.

What cannot be known is said, never guessed.  Not followed are operators, casts, checks
and indexes that call functions of one's own, and event triggers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from plans.statements.commands import Session
from plans.statements.model import Statement
from plans.statements.names import Names
from plans.statements.placeholders import parsed
from plans.statements.problems import Unparsable
from plans.statements.reach import reach
from plans.statements.scope import Scope
from plans.statements.splitting import Part, after_broken, split
from plans.statements.tree import TOO_DEEP

_BROKEN_MAX = 50  # each costs a walk through the rest of the text, and a recursion


def read_statements(
    text: str, scope: Scope, *, search_path: Sequence[str] | None = None
) -> tuple[Statement, ...]:
    """The statements of `text`, in their order, with what they touch.

    `search_path` is that of the session, by default the catalog's schemas; `text` may
    change it.  Nothing is raised for any text: a statement that cannot be read is there
    too, and its `unproven` says why.
    """
    path = scope.catalog.schemas if search_path is None else search_path
    return tuple(_Reader(Names(scope, tuple(path))).read(Part(text, 1)))


class _Reader:
    """Goes through a text, and takes up again behind what isn't SQL."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self._session = Session(names)
        self._broken = 0

    def read(self, whole: Part) -> Iterator[Statement]:
        for part in split(whole.text):
            placed = Part(part.text, whole.line + part.line - 1)
            try:
                yield from list(self._statements(placed))
            except Unparsable as problem:
                yield from self._unparsable(placed, str(problem))

    def _statements(self, part: Part) -> Iterator[Statement]:
        text, trees = parsed(part.text)
        for tree in trees:
            try:
                verb, uses = self._session.read(tree, text)
                reached = reach(uses, self._names)
            except RecursionError:
                raise Unparsable(TOO_DEEP) from None
            yield Statement(part.text, part.line, verb, reached.touches, reached.unproven)

    def _unparsable(self, part: Part, problem: str) -> Iterator[Statement]:
        self._broken += 1
        rest = after_broken(part) if self._broken <= _BROKEN_MAX else None
        text = part.text.removesuffix(rest.text) if rest else part.text
        yield Statement(
            text.rstrip("; \n"), part.line, "other", (), (f"it can't be parsed: {problem}",)
        )
        if rest:
            yield from self.read(rest)
