"""Numbers that a default or a trigger draws through a function are not issued twice either."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.small_shop import ROWS, small_shop
from toolkit.servers import Server

pytestmark = pytest.mark.integration

MORE = """
CREATE SEQUENCE codes;
CREATE FUNCTION new_code() RETURNS text LANGUAGE sql AS $$ SELECT 'c' || nextval('codes') $$;
CREATE TABLE parcels (id int PRIMARY KEY, code text NOT NULL UNIQUE DEFAULT new_code());
CREATE TABLE claims (id int PRIMARY KEY, code text NOT NULL UNIQUE DEFAULT new_code());
CREATE SEQUENCE receipts;
CREATE FUNCTION number_it() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN NEW.id := nextval('receipts'); RETURN NEW; END $$;
CREATE TABLE receipts_of (id bigint PRIMARY KEY, note text);
CREATE TRIGGER numbered BEFORE INSERT ON receipts_of FOR EACH ROW EXECUTE FUNCTION number_it();
INSERT INTO parcels SELECT generate_series(1, 5);
INSERT INTO receipts_of (note) SELECT 'r' FROM generate_series(1, 5);
"""


def with_more(plan: str) -> str:
    tables = "tables:\n  parcels: shop\n  claims: crm\n  receipts_of: shop\n"
    return plan.replace("tables:\n", tables, 1)


@pytest.mark.long
def test_codes_and_receipts_go_on(
    source_server: Server, target_server: Server, tmp_path: Path
) -> None:
    with small_shop(
        source_server, target_server, tmp_path, edit=with_more, rows=ROWS + MORE
    ) as shop:
        shop.follow()
        with shop.verbs.stream(shop.source):
            shop.verbs("cutover", "--yes")
            shop.ask("shop", "INSERT INTO parcels SELECT generate_series(11, 20)")
            shop.ask("crm", "INSERT INTO claims SELECT generate_series(1, 10)")
            shop.ask("shop", "INSERT INTO receipts_of (note) VALUES ('new')")
            shop.verbs("rollback", "--yes")
            shop.ask("source", "INSERT INTO parcels SELECT generate_series(21, 30)")
            shop.ask("source", "INSERT INTO claims SELECT generate_series(11, 20)")
            shop.ask("source", "INSERT INTO receipts_of (note) VALUES ('newer')")
            codes = shop.value(
                "source",
                "SELECT count(DISTINCT code) FROM (TABLE parcels UNION ALL TABLE claims) c",
            )
            assert codes == 5 + 4 * 10
            assert shop.value("source", "SELECT count(DISTINCT id) FROM receipts_of") == 7
