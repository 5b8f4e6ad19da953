"""What the catalog tells of how a partition came to its place."""

from __future__ import annotations

from typing import Final, LiteralString

ATTACHED: Final[LiteralString] = """
    (t.xmin::text <> i.xmin::text OR NOT EXISTS (
        SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
           AND a.xmin::text = i.xmin::text AND a.cmin::text::bigint < i.cmin::text::bigint))
"""
"""Whether it was a table before, and may have had rows: SQL of its rows `i` in pg_inherits,
`c` in pg_class and `t` in pg_type.

One that was made as a partition has its row type, and its place, from one transaction.  That
may have made a table, too, and attached it afterwards: then all columns were written once
more, but for those that it had dropped, which tell nothing.  If they were altered since by
others, it counts as attached.
"""
