"""DDL as data: what is run, what undoes it, and what cannot be brought along.

Every name inside the texts was quoted by the source server itself (``%I``,
``quote_ident`` and the ``pg_get_*`` functions under an empty ``search_path``);
Python only puts quoted pieces together.
"""

from __future__ import annotations

from dataclasses import dataclass

from plans.catalog import TableName


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """How a statement after the data may run beside others, in a transaction of its own.

    What it needs besides its table, and the table that it references, are statements
    of the same kind.
    """

    what: str  # "index public.orders_customer_id_idx"
    table: TableName  # that it is built on
    root: TableName  # the table that `table` is a partition of in the end, or itself
    references: TableName | None = None  # of a foreign key: the root of the table it points to
    alone: bool = False  # locks the table against others that are built on it
    gathers: bool = False  # takes what was built on the table's partitions before it
    unique: frozenset[str] = frozenset()  # columns that tell rows apart once it is there
    size_bytes: int = 0  # of the source's index or what is sorted for it, or of the checked table
    steps: tuple[str, ...] = ()
    """Commands that come to the same and lock less, each in its own transaction; () is `create`."""
    checks: str = ""  # the foreign key whose rows the last of the steps checks


@dataclass(frozen=True, slots=True)
class Statement:
    """One SQL command and the one that undoes it ("" where there is nothing to undo)."""

    create: str
    drop: str = ""
    build: Build | None = None  # None: only in its place among the others


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Something of the source that the target does not get, and why."""

    object: str  # "trigger orders_notify on public.orders"
    reason: str  # "calls public.notify_crm(), which mentions public.crm_orders (owned by crm)"


@dataclass(frozen=True, slots=True)
class TargetSchema:
    """Everything to be created in one service's database, in an order that works.

    Undoing is the drops of `after_data`, then those of `before_data`, each from
    the last to the first.
    """

    before_data: tuple[Statement, ...]
    after_data: tuple[Statement, ...]
    left_out: tuple[LeftOut, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The database that the DDL is made for."""

    service: str
    version: int  # server_version_num
    roles: tuple[str, ...] = ()  # of the service, and existing on its server
    reference_keys: frozenset[str] = frozenset()
    """Names of the foreign keys that may point at a read-only copy there, as a plan has them."""

    checked_keys: frozenset[str] = frozenset()
    """Names of those whose orphans are looked for: an index leads to the referencing rows."""

    extensions: frozenset[str] | None = None
    """Extensions that its server offers; what needs another is left out.  None if unknown."""

    @property
    def major(self) -> int:
        """The major version, such as 18."""
        return self.version // 10_000
