"""Writing the schema of a service's database as Alembic revisions.

The scripts are ordinary ones.  `op.execute` takes a string for SQLAlchemy's
text(), in which a colon begins a parameter, so every colon is escaped where a
script runs its statement.  Percent signs are doubled for the driver by SQLAlchemy
and read back by psycopg.  Where SQL is only written (``alembic upgrade --sql``),
a statement is written as it is: `op.execute` would turn its tabs into blanks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from plans.errors import NotReady
from plans.schema.ddl import Statement, TargetSchema

MARK = "# Written by dbsplit; what is changed here is lost with the next rendering.\n"

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
    run(UP)


def downgrade() -> None:
    run(DOWN)


def run(statements: list[str]) -> None:
    context = op.get_context()
    for statement in statements:
        if context.as_sql:
            context.impl.static_output(statement + ";")
        else:
            op.execute(statement.replace(":", "\\\\:"))
'''


@dataclass(frozen=True, slots=True)
class Script:
    """One revision as a file."""

    revision: str
    name: str
    text: str


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
    written = scripts_of(service, schema, digest)
    directory.mkdir(parents=True, exist_ok=True)
    earlier = sorted(directory.glob("*.py"))
    for path in earlier:
        if MARK not in path.read_text(encoding="utf-8"):
            raise NotReady(
                f"{path} was not written by dbsplit", hint="render into a directory of its own"
            )
    for path in earlier:
        path.unlink()
    for script in written:
        (directory / script.name).write_text(script.text, encoding="utf-8")
    return written[0].revision, written[1].revision


def further_script(
    service: str, revision: str, down_revision: str, up: Sequence[str], directory: Path
) -> None:
    """Write a revision that a refresh has made into `directory`, beside those of `render`.

    Going down it does nothing: what is undone is always all of the schema, as it is then.
    """
    text = _SCRIPT.format(
        title=f"The schema of {service}, as its source has changed.",
        mark=MARK,
        revision=revision,
        down_revision=f'"{down_revision}"',
        up=_listed(up),
        down="",
    )
    (directory / f"{revision}_refresh.py").write_text(text, encoding="utf-8")


def scripts_of(
    service: str, schema: TargetSchema, digest: str, between: Sequence[str] = ()
) -> tuple[Script, Script]:
    """The two revisions of `service`; the second follows the first, or those `between`."""
    before, after = revision_ids(service, digest)
    return (
        _script(service, "before the data", schema.before_data, before, None),
        _script(
            service,
            "after the data",
            schema.after_data,
            after,
            tuple(between) if len(between) > 1 else (*between, before)[0],
        ),
    )


def _script(
    service: str,
    when: str,
    statements: Sequence[Statement],
    revision: str,
    down_revision: str | tuple[str, ...] | None,
) -> Script:
    text = _SCRIPT.format(
        title=f"The schema of {service}, {when}.",
        mark=MARK,
        revision=revision,
        down_revision=repr(down_revision).replace("'", '"'),
        up=_listed([statement.create for statement in statements]),
        down=_listed(_undoing(statements)),
    )
    return Script(revision, f"{revision}_{when.replace(' ', '_')}.py", text)


def _undoing(statements: Sequence[Statement]) -> list[str]:
    return [statement.drop for statement in reversed(statements) if statement.drop]


def _listed(texts: Sequence[str]) -> str:
    return "".join(f"    {_literal(text)},\n" for text in texts)


def _literal(text: str) -> str:
    """A Python literal that a person can read where the text allows it."""
    readable = all(character == "\n" or character.isprintable() for character in text)
    plain = readable and not text.endswith('"') and not any(s in text for s in ("\\", '"""'))
    return f'"""{text}"""' if plain and "\n" in text else repr(text)
