"""What a stream brings, and in which form."""

from __future__ import annotations

from cdc.follow import Feed
from plans.catalog import Column, Table, TableName


def test_rows_that_nobody_takes_count_too() -> None:
    """What has no binary form, a server refuses to send in an array."""
    rights = Column(name="rights", type="aclitem[]", is_portable=False)
    aside = Table(name=TableName("public", "grants"), kind="r", columns=(rights,))
    feed = Feed(name="", leader_dsn="", slot="", publication="", links=(), elsewhere=(aside,))
    assert feed.tables == [aside]
    assert not feed.binary
