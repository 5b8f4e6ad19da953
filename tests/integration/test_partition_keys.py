"""Foreign keys that only a partition has, or that refer to one, belong to its table."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from plans.check import check_source
from plans.load import Plan, load_plan
from tests.conftest import fresh_database
from toolkit.servers import Server

SCHEMA = """
CREATE TABLE customers (id int PRIMARY KEY);
CREATE TABLE parted (id int, k int, customer int, PRIMARY KEY (id, k)) PARTITION BY LIST (k);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES IN (1);
CREATE TABLE parted_2 PARTITION OF parted FOR VALUES IN (2) PARTITION BY LIST (k);
CREATE TABLE parted_2_2 PARTITION OF parted_2 FOR VALUES IN (2);
ALTER TABLE parted_1 ADD CONSTRAINT leaf_fk FOREIGN KEY (customer) REFERENCES customers;
CREATE TABLE beside (id int PRIMARY KEY, k int,
    CONSTRAINT to_leaf FOREIGN KEY (id, k) REFERENCES parted_2_2 (id, k));
INSERT INTO customers VALUES (1);
INSERT INTO parted VALUES (1, 1, 1), (2, 2, 99);
"""
PLAN = """\
split: parts
source: {dsn: "${SOURCE}"}
services:
  crm: {dsn: "dbname=crm"}
  shop: {dsn: "dbname=shop"}
tables: {customers: OWNER, parted: shop, beside: shop}
"""


@pytest.fixture
def database(source_server: Server) -> Iterator[str]:
    with fresh_database(source_server) as dsn:
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(SCHEMA)
        yield dsn


def plan(directory: Path, owner: str, database: str, more: str = "") -> Plan:
    path = directory / "plan.yaml"
    path.write_text(PLAN.replace("OWNER", owner) + more)
    return load_plan(path, {"SOURCE": database})


def test_a_partition_s_key_that_is_cut_is_told_and_its_own_rows_are_counted(
    database: str, tmp_path: Path
) -> None:
    with psycopg.connect(database, autocommit=True) as source:
        told = {one.code: one for one in check_source(plan(tmp_path, "crm", database), source)}
        named = "foreign_keys: {leaf_fk: {replace_with: orphan_check}}\n"
        quiet = check_source(plan(tmp_path, "crm", database, named), source)
    assert told["foreign-key-cut"].object == "public.parted_1.leaf_fk"
    assert told["orphans-none"].message.endswith("leaf_fk")  # 99 is in a partition without the key
    assert {one.code for one in quiet} == {"orphans-none"}


def test_keys_of_partitions_are_not_cut_between_tables_of_one_service(
    database: str, tmp_path: Path
) -> None:
    with psycopg.connect(database, autocommit=True) as source:
        told = check_source(plan(tmp_path, "shop", database), source)
    assert "foreign-key-cut" not in {one.code for one in told}
