"""Writing the schema of a service's database as Alembic revisions.

The scripts are ordinary ones.  `op.execute` takes a string for SQLAlchemy's
text(), in which a colon begins a parameter, so every colon is escaped where a
script runs its statement.  Percent signs are doubled for the driver by SQLAlchemy
and read back by psycopg.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from plans.errors import NotReady
from plans.schema.ddl import Statement, TargetSchema

_MARK = "# Written by dbsplit; what is changed here is lost with the next rendering.\n"

_SCRIPT = '''\
"""{title}"""

{mark}
from alembic import op

revision = "{revision}"
down_revision = {down_revision}
branch_labels = None
depends_on = None

UP = [
{up}]

DOWN = [
{down}]


def upgrade() -> None:
    for statement in UP:
        op.execute(statement.replace(":", "\\\\:"))


def downgrade() -> None:
    for statement in DOWN:
        op.execute(statement.replace(":", "\\\\:"))
'''


def revision_ids(service: str, digest: str) -> tuple[str, str]:
    """The revisions before and after the data; the same for the same plan and service."""
    before, after = (
        hashlib.sha256(f"{digest}\n{service}\n{when}".encode()).hexdigest()[:12]
        for when in ("before", "after")
    )
    return before, after


def render(service: str, schema: TargetSchema, digest: str, directory: Path) -> tuple[str, str]:
    """Write the two revisions of `service` into `directory`, and return their ids.

    What an earlier rendering left there is removed.  NotReady, and nothing is changed,
    if there are revisions of somebody else.
    """
    directory.mkdir(parents=True, exist_ok=True)
    earlier = sorted(directory.glob("*.py"))
    for path in earlier:
        if _MARK not in path.read_text(encoding="utf-8"):
            raise NotReady(
                f"{path} was not written by dbsplit", hint="render into a directory of its own"
            )
    for path in earlier:
        path.unlink()
    before, after = revision_ids(service, digest)
    parts = (
        (before, None, "before the data", schema.before_data),
        (after, before, "after the data", schema.after_data),
    )
    for revision, down_revision, when, statements in parts:
        text = _SCRIPT.format(
            title=f"The schema of {service}, {when}.",
            mark=_MARK,
            revision=revision,
            down_revision=repr(down_revision).replace("'", '"'),
            up=_listed([statement.create for statement in statements]),
            down=_listed(_undoing(statements)),
        )
        path = directory / f"{revision}_{when.replace(' ', '_')}.py"
        path.write_text(text, encoding="utf-8")
    return before, after


def _undoing(statements: Sequence[Statement]) -> list[str]:
    return [statement.drop for statement in reversed(statements) if statement.drop]


def _listed(texts: Sequence[str]) -> str:
    return "".join(f"    {_literal(text)},\n" for text in texts)


def _literal(text: str) -> str:
    """A Python literal that a person can read where the text allows it."""
    readable = all(character == "\n" or character.isprintable() for character in text)
    plain = readable and not text.endswith('"') and not any(s in text for s in ("\\", '"""'))
    return f'"""{text}"""' if plain and "\n" in text else repr(text)
