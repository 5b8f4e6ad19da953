"""A copy that was killed and goes on, while rows come that refer to each other."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.small_shop import SmallShop, small_shop
from toolkit.servers import Server

MORE = """
WITH c AS (INSERT INTO customers (email) VALUES ('new') RETURNING id),
     p AS (INSERT INTO "Products" ("Name", "Unit Price") VALUES ('n', 1) RETURNING "Id"),
     o AS (INSERT INTO orders (customer_id) SELECT id FROM c RETURNING id),
     l AS (INSERT INTO "Order Lines" SELECT o.id, 1, "Id", 1, 1 FROM o, p),
     n AS (INSERT INTO notes (customer_id, channel) SELECT id, 'web' FROM c)
INSERT INTO tickets (customer_id, product, subject) SELECT c.id, "Id", 's' FROM c, p
"""
HORIZONS = "SELECT route, horizon::text FROM dbsplit.copied"


def horizons(shop: SmallShop, service: str) -> dict[str, str]:
    return dict(shop.ask(service, HORIZONS))


@pytest.mark.parametrize("killed_at", [3, 8, 13])
def test_keys_hold_between_tables_that_were_copied_before_and_after(
    source_server: Server, target_server: Server, tmp_path: Path, killed_at: int
) -> None:
    with small_shop(source_server, target_server, tmp_path) as shop:
        shop.verbs("prepare")
        shop.verbs.apart = True
        shop.verbs("copy", "--jobs", "1", code=-9, DBSPLIT_CRASH_AT=f"copy.table:{killed_at}")
        before = {service: horizons(shop, service) for service in shop.targets}
        shop.ask("source", MORE)
        shop.verbs("copy", "--jobs", "1", code=-9, DBSPLIT_CRASH_AT="copy.table:3")
        shop.ask("source", MORE)
        shop.verbs("copy")
        after = {service: horizons(shop, service) for service in shop.targets}
        # All that keys connect is of one moment; what stands alone was not copied again.
        assert len(set(after["crm"].values())) == 1
        alone = {r: at for s in before for r, at in before[s].items() if "visits" in r}
        assert alone.items() <= after["shop"].items()
        shop.verbs("stream", "--until-caught-up")
        assert shop.verbs("validate", "--json").result["consistent"]
