"""What a service that stays can no longer do once another has moved: the dry run says it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.small_shop import ROWS, small_shop
from toolkit.servers import Server

pytestmark = pytest.mark.integration

MORE = """
CREATE FUNCTION note_it() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN INSERT INTO visits (path) VALUES (NEW.subject); RETURN NEW; END $$;
CREATE TRIGGER noted BEFORE INSERT ON tickets FOR EACH ROW EXECUTE FUNCTION note_it();
CREATE FUNCTION seen_now() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN NEW.last_login_at := now(); RETURN NEW; END $$;
CREATE TRIGGER seen BEFORE UPDATE ON customers FOR EACH ROW EXECUTE FUNCTION seen_now();
CREATE TABLE parcels (id int PRIMARY KEY, ticket int REFERENCES tickets ON DELETE SET NULL);
CREATE TABLE hints (id int PRIMARY KEY, ticket int REFERENCES tickets ON DELETE CASCADE);
"""


def with_more(plan: str) -> str:
    return plan.replace("tables:\n", "tables:\n  parcels: shop\n  hints: crm\n", 1)


@pytest.mark.long
@pytest.mark.release
def test_a_dry_run_tells_what_is_refused_of_those_who_stay(
    source_server: Server, target_server: Server, tmp_path: Path
) -> None:
    with small_shop(
        source_server, target_server, tmp_path, edit=with_more, rows=ROWS + MORE
    ) as shop:
        shop.follow()
        with shop.verbs.stream(shop.source):
            alone = shop.verbs.json("cutover", "--dry-run", "--service", "shop")
            by_trigger, of_part, by_key = alone["refused_meanwhile"]
            assert "trigger seen on public.customers sets last_login_at, which shop" in of_part
            assert "each UPDATE by crm" in of_part
            assert "trigger noted on public.tickets writes public.visits, which shop" in by_trigger
            assert "parcels_ticket_fkey (ON DELETE SET NULL) reaches public.parcels" in by_key
            assert "warning: trigger noted" in shop.verbs(
                "cutover", "--dry-run", "--service", "shop"
            ).out  # fmt: skip
            both = ("--service", "shop", "--service", "crm")
            assert "refused_meanwhile" not in shop.verbs.json("cutover", "--dry-run", *both)
            # It is so.
            shop.verbs("cutover", "--yes", "--service", "shop")
            shop.refuses("source", "INSERT INTO tickets (customer_id, subject) VALUES (1, 's')")
            shop.refuses("source", "DELETE FROM tickets WHERE id = 1")
            shop.refuses("source", "UPDATE customers SET phone = '1' WHERE id = 1")
            # And gone with them.
            shop.verbs("cutover", "--yes", "--service", "crm")
            shop.verbs("rollback", "--yes")
            shop.ask("source", "INSERT INTO tickets (customer_id, subject) VALUES (1, 's')")
            shop.ask("source", "DELETE FROM tickets WHERE id = 1")
