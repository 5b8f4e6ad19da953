"""The texts beside the revisions that `dbsplit plan render` writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from plans.schema.ddl import LeftOut

_WRITTEN = "Written by dbsplit; what is changed here is lost with the next rendering."

_INI_HEAD = f"""\
# {_WRITTEN}
# One section for each service: alembic -n SERVICE upgrade head
#
# dsn is as in the plan; ${{NAME}} is taken from the environment when Alembic runs.

[DEFAULT]
script_location = %(here)s
path_separator = os
# for Alembic before 1.16
version_path_separator = os
"""

_INI_SECTION = """
[{service}]
version_locations = %(here)s/{service}/versions
version_table = {version_table}
dsn = {dsn}
"""

_INI_LOGGING = """
[loggers]
keys = root, alembic

[handlers]
keys = console

[formatters]
keys = plain

[logger_root]
level = WARNING
handlers = console

[logger_alembic]
level = INFO
handlers =
qualname = alembic

[handler_console]
class = StreamHandler
args = (sys.stderr,)
level = NOTSET
formatter = plain

[formatter_plain]
format = %(levelname)s %(message)s
"""

_README = """\
# The schemas of split {split}

{written} `dbsplit plan render {plan}` made it: what each service's database needs of the shared \
one, as Alembic revisions. It is for reviews, for CI, and for databases elsewhere that have the \
same schema. `dbsplit prepare` and `dbsplit copy` run the same statements, and do not need this \
directory.

| service | PostgreSQL | database | revisions, in their order | left out |
| --- | --- | --- | --- | --- |
{rows}

Needed are Alembic, SQLAlchemy and psycopg 3 (`pip install alembic "psycopg[binary]"`), and the \
environment variables that the DSNs name. From this directory, or with `-c` and the path of \
`alembic.ini` from any other:

```sh
{commands}
```

- The first revision has what must be there before rows are copied, the last one what is built \
after: keys, indexes, foreign keys, triggers, comments, grants. A service's hand-written \
revisions lie between them.
- The databases exist and are empty. `downgrade base` leaves nothing but Alembic's own, empty \
table.
- Not for a database that `dbsplit prepare` has been run for: that one has the schema already, and \
`env.py` refuses it. After `dbsplit complete`, `alembic -n SERVICE stamp head` notes that it is \
there, and further revisions (`alembic -n SERVICE revision -m …`) go on from it.
- `SERVICE/LEFT_OUT.md` lists what of the shared database a service does not get, and why.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceTree:
    """One service's line of revisions."""

    service: str
    dsn: str  # as the plan has it
    version: int  # major, of the server that it is made for
    reached: bool  # else the server did not answer, and was taken to be like the source's
    revisions: tuple[str, ...]
    handwritten: tuple[str, ...]  # heads of the revisions between
    statements: int
    left_out: tuple[LeftOut, ...]
    version_table: str

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "version": self.version,
            "assumed": not self.reached,
            "revisions": list(self.revisions),
            "handwritten": list(self.handwritten),
            "statements": self.statements,
            "left_out": [{"object": one.object, "reason": one.reason} for one in self.left_out],
        }


def ini(trees: Sequence[ServiceTree]) -> str:
    """alembic.ini; a percent sign would begin an interpolation there."""
    sections = (
        _INI_SECTION.format(
            service=tree.service,
            version_table=tree.version_table,
            dsn=tree.dsn.strip().replace("%", "%%"),
        )
        for tree in trees
    )
    return "".join([_INI_HEAD, *sections, _INI_LOGGING])


def readme(plan: str, split: str, trees: Sequence[ServiceTree]) -> str:
    """How the environment is used."""
    verbs = ("upgrade head", "upgrade head --sql", "downgrade base")
    notes = ("", "  # only written, no database is asked", "")
    commands = [
        f"alembic -n {tree.service} {verb}{note}"
        for tree in trees
        for verb, note in zip(verbs, notes, strict=True)
    ]
    return _README.format(
        split=split,
        plan=plan,
        written=_WRITTEN,
        rows="\n".join(_row(tree) for tree in trees),
        commands="\n".join(commands),
    )


def _row(tree: ServiceTree) -> str:
    first, last = tree.revisions
    line = [f"`{first}`", *(f"… `{head}`" for head in tree.handwritten), f"`{last}`"]
    version = str(tree.version)
    if not tree.reached:
        version += " (assumed: the target did not answer)"
    cells = (tree.service, version, f"`{tree.dsn}`", ", ".join(line), str(len(tree.left_out)))
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"


def left_out(tree: ServiceTree) -> str:
    """What the service does not get, and why."""
    lines = [f"- {one.object}: {one.reason}" for one in tree.left_out]
    listed = "\n".join(lines) or "Nothing."
    return f"# What {tree.service} does not get\n\n{_WRITTEN}\n\n{listed}\n"
