"""What each code of a finding means, and what to do about it: for SARIF and for the runbook.

`python -m plans.finding_codes` prints the table of docs/runbook.md.
"""

# ruff: noqa: E501 - a line for each

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple


class Code(NamedTuple):
    """One kind of finding, in two sentences."""

    means: str
    do: str


CODES: Final[Mapping[str, Code]] = {
    "check-across": Code("A CHECK reads columns that a service lacks; its inserts may be refused on their way back.", "Let it pass with the columns' defaults, or give the service the columns."),
    "check-left-out": Code("A service's database lacks a CHECK, since it needs what is elsewhere.", "Enforce it in the application, or let it read only what the service has."),
    "code-unproven": Code("What a view, function or trigger touches cannot be known, such as SQL put together at run time.", "Read it; see that the service that runs it has what it needs."),
    "collation-absent": Code("A target's server cannot have a column's collation.", "A server with ICU and the locale, or another collation."),
    "collation-differs": Code("A target sorts text otherwise than the source.", "Create its database with the source's locale, unless no application relies on the order."),
    "collation-stale": Code("The server's collation has changed since the source's indexes were built.", "`REINDEX DATABASE`, then `ALTER DATABASE … REFRESH COLLATION VERSION`."),
    "column-object": Code("A column's values are names of objects, which a target may lack.", "Make it text."),
    "column-reserved": Code("A column has a name that the stream gives to a column of its own.", "Rename it."),
    "default-left-out": Code("A service's database lacks a column's default, since it needs what is elsewhere.", "Let the application give the value."),
    "derive-key-assumed": Code("Nothing in the source keeps a derived route's key unique; today it is.", "Add a unique constraint, or take the primary key into the key."),
    "derive-key-null": Code("A derived route's key is NULL for some rows.", "`where: … IS NOT NULL`, or coalesce()."),
    "derive-key-shared": Code("Several source rows have one key in a derived table.", "Take more columns into the key, or leave rows out with `where`."),
    "encoding-invalid": Code("Rows of a source that is SQL_ASCII have text that is not valid UTF8, and cannot be read.", "Convert it; the message has an example."),
    "encoding-narrow": Code("The source's encoding has fewer characters than the targets'; others cannot come back after a cutover.", "Create the targets with the source's encoding, or write no others until `complete`."),
    "encoding-unchecked": Code("The source is SQL_ASCII: nobody checks what is written, and what isn't UTF8 stops copy or stream.", "See that all applications write UTF8."),
    "event-trigger": Code("A function runs at DDL, and so at every fence.", "See that it lets the split pass, or disable it for the time."),
    "expression-collation": Code("An expression's value depends on a collation that the stream does not compute it with.", "`COLLATE` in the expression, or the source's locale for the target."),
    "expression-refused": Code("The source doesn't accept an expression of the plan.", "Correct it; the message is the server's."),
    "extension-absent": Code("A target's server doesn't offer an extension of the source.", "Install its package there, if the service needs it."),
    "extension-version": Code("A target would have another version of an extension.", "Read its release notes."),
    "foreign-key-action": Code("A key that the plan cuts does something by itself (CASCADE, SET NULL), which no longer happens.", "Let the applications do it; cut both services over together."),
    "foreign-key-cut": Code("A key crosses the boundary, and the plan says nothing about it.", "Name it under `foreign_keys`."),
    "foreign-key-kept": Code("The plan speaks of a key that isn't cut.", "Take the entry out."),
    "foreign-key-outside": Code("A table of a schema that isn't listed refers to one that moves.", "List the schema, or drop the key before `complete`."),
    "foreign-key-reference": Code("A key is to point at a read-only copy that there isn't.", "Add `reference_in`, or replace it with `orphan_check`."),
    "foreign-key-split": Code("The columns of a key go to different services.", "Give them to one service."),
    "foreign-key-unknown": Code("The plan speaks of a key that doesn't exist.", "Correct its name."),
    "function-across": Code("A function touches what no service has together; no service gets it.", "Move it to an application, or give a service what is missing."),
    "function-definer": Code("A SECURITY DEFINER function will run with the rights of the role that prepares.", "`ALTER FUNCTION … OWNER TO` a role with just the rights that it needs."),
    "function-stable": Code("An expression's function depends on settings or other rows.", "Use an immutable function, or the same settings everywhere."),
    "function-volatile": Code("An expression's function gives another value each time.", "Use an immutable expression."),
    "generated-left-out": Code("A service's table would lack a generated column, since its expression needs what is elsewhere.", "List it under `drop`, or let its expression need only what the service has."),
    "identity-generated": Code("From 18 on PostgreSQL refuses updates and deletes of a published table that has a generated column and whose old rows are logged in full.", "A primary key that is not deferrable, and `REPLICA IDENTITY DEFAULT`; or drop the generated column."),
    "inherited-elsewhere": Code("A table has a child by inheritance in a schema that isn't listed.", "`NO INHERIT`, or list the schema."),
    "insert-incomplete": Code("A service's inserts cannot fill NOT NULL columns that others own.", "Give the columns a default in the source before `prepare`."),
    "key-generated": Code("A generated column belongs to a table's key, and the log doesn't carry it.", "`REPLICA IDENTITY USING INDEX` another unique index."),
    "key-left-out": Code("A service's database lacks a primary, unique or exclusion constraint.", "Let it need only columns that the service has."),
    "label-unknown": Code("An expression compares the text of an enum with what is no value of it, perhaps any more.", "Write the value as it is called now."),
    "large-objects": Code("Large objects stay behind.", "Move them into bytea columns, or copy them yourself."),
    "left-out": Code("A service's database lacks something else, such as an index or a function.", "Nothing, unless the service needs it."),
    "list": Code("A list of the plan has rows.", "Look at them."),
    "list-failed": Code("A list of the plan cannot be run.", "Write one SELECT that the source can run."),
    "money-locale": Code("Columns of type money would be read by another lc_monetary.", "Set it alike, or make them numeric."),
    "orphans": Code("Rows refer to rows that no service gets.", "Delete or correct them, or go on if they do no harm."),
    "orphans-none": Code("No row refers to nothing today, for these keys.", "Nothing."),
    "orphans-uncounted": Code("Rows that refer to nothing could not be counted.", "Again when the server is quiet."),
    "partition-foreign": Code("A partition is a foreign table, whose changes are in another log.", "Detach it."),
    "partition-identity": Code("A partition's replica identity isn't its table's; its updates would be refused once it is published.", "`ALTER TABLE … REPLICA IDENTITY` as the message says."),
    "partition-later": Code("Partitions that are made after `prepare` lack the replica identity that their table needs: for some seconds updates and deletes of their rows are refused.", "`ALTER TABLE … REPLICA IDENTITY FULL` in the transaction that makes one, or a primary key that is not deferrable."),
    "plan-invalid": Code("The plan contradicts itself or the database.", "As the message says."),
    "policy-left-out": Code("A row security policy is for roles that the service doesn't have, or needs what is elsewhere.", "Name the role under `roles`, or make a policy of the service's own."),
    "publication-all-tables": Code("Somebody else publishes all tables, the split's own with them.", "List the tables that its subscribers want."),
    "publication-other": Code("Somebody else publishes tables that move.", "Let the subscribers follow the services' databases before `complete`."),
    "role-absent": Code("A service's role doesn't exist on its target's server.", "`CREATE ROLE` before `prepare`."),
    "role-unknown": Code("A service's role doesn't exist on the source.", "Name the roles by which the application connects."),
    "route-derived": Code("Derived rows are read-only until `complete`.", "Nothing."),
    "row-security": Code("Row level security hides rows from the role that runs the split.", "`BYPASSRLS`, or connect as the owner."),
    "row-security-forced": Code("A table forces row level security on the role that writes a target.", "`BYPASSRLS` on that server."),
    "rows-future": Code("The source would take a row that no predicate, or several, cover.", "Cover it, or forbid it with NOT NULL or CHECK."),
    "rows-shared": Code("Rows have more than one owner.", "Write predicates that exclude each other."),
    "rows-unowned": Code("Rows have no owner.", "Write predicates that cover NULL too, or `drop: PREDICATE`."),
    "rows-unverified": Code("Whether each row has one owner could not be proven.", "Correct the predicates; or again when the server is quiet."),
    "rule-always": Code("A rule rewrites what the stream writes.", "`ENABLE RULE`, or a trigger instead."),
    "rule-left-out": Code("A service's database lacks a rule.", "Do its work in the application."),
    "rule-on-update": Code("A table has a rule on UPDATE, so that INSERT … ON CONFLICT is refused.", "Make it a trigger."),
    "schema-impossible": Code("A service's tables cannot be made, since they need what is elsewhere.", "Give the service what is needed, or drop the column."),
    "sequence-cycles": Code("A sequence begins anew at its end.", "`NO CYCLE`, with a type that has room."),
    "sequence-exhausted": Code("A sequence has no number left beyond the gap.", "Widen column and sequence, or lower `sequences.gap`."),
    "sequence-nearly-exhausted": Code("Most of a sequence's numbers are used.", "Widen column and sequence in time."),
    "sequence-shared": Code("Several services draw from a sequence; each will count in steps.", "See that nothing relies on numbers without gaps."),
    "sequence-unowned": Code("No column draws from a sequence; no service gets it.", "Let a column draw from it, or create it in the service's database."),
    "slot-ahead": Code("A standby that would take our slot over may lack what the targets have by then.", "Set `synchronized_standby_slots` to the standby's slot, or `slots: {failover: false}`."),
    "slot-other": Code("Somebody else follows the source by a logical slot.", "Move its reader before `complete`, or drop the slot."),
    "subscription": Code("The source is a subscriber; a fence refuses what it receives.", "End the subscription for tables that move."),
    "switch-unsupported": Code("This version cannot switch traffic as the plan says.", "`kind: command` or `kind: none`."),
    "table-identity": Code("The log doesn't say which row was changed; `prepare` sets REPLICA IDENTITY FULL.", "Make the key NOT DEFERRABLE, or choose an index."),
    "table-keyless": Code("A table has no key; its rows are compared as a multiset.", "Add a primary key if you can."),
    "table-unlogged": Code("A table's changes are in no log.", "`SET LOGGED`, or drop it in the plan."),
    "target-silent": Code("A target doesn't answer, so some things were not checked.", "Start it, or see `dbsplit doctor`; then check again."),
    "target-unset": Code("A target's DSN has a variable without a value, so some things were not checked.", "Nothing in CI, where no target is; else set the variable."),
    "trigger-across": Code("A trigger's function touches what its service lacks.", "Do its work in the application."),
    "trigger-always": Code("A trigger fires for what the stream writes too.", "`ENABLE TRIGGER`, unless it changes no rows."),
    "trigger-left-out": Code("A service's database lacks a trigger.", "Do its work in the application."),
    "trigger-part": Code("A trigger sets a column that one service has when others change their parts of the row.", "Cut them over together, or let it fire for that service's columns only: `UPDATE OF …`."),
    "unique-across": Code("A unique key spans rows of several services; each sees only its own.", "Add the predicate's columns to it, or let one service issue the values."),
    "view-across": Code("A view reads what no service has together; no service gets it.", "Move it to an application, or give a service what is missing."),
    "writer-elsewhere": Code("A service's role may write tables of other services.", "`REVOKE` now, and see who misses it."),
    "writer-unclaimed": Code("A role that no service names may write tables that move.", "Add it to a service's `roles`, or `REVOKE`."),
    "writers-unnamed": Code("No service names its roles.", "Name them: `roles: [...]`."),
    "xml-absent": Code("A target's server is built without XML, and refuses each value.", "A server with libxml, or make the column text."),
}  # fmt: skip


def table() -> str:
    """All of them as a Markdown table."""
    lines = ["| code | means | do |", "| --- | --- | --- |"]
    return "\n".join(
        [*lines, *(f"| `{code}` | {one.means} | {one.do} |" for code, one in CODES.items())]
    )


if __name__ == "__main__":
    print(table())  # noqa: T201 - it is what the command is for
