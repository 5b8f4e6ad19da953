"""A small schema, and statements with what each of them reads and writes, by hand.

A table is named without its schema if that is public.  What a statement touches through
views, functions, triggers and cascading keys is in its labels too.  `doubt` marks those
of which it cannot be known.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from plans.catalog import TableName

SCHEMAS: Final = ("public", "crm")

SCHEMA: Final = """
CREATE SCHEMA crm;
CREATE SCHEMA elsewhere;
CREATE TABLE managers (id int PRIMARY KEY, name text);
CREATE TABLE customers (id int PRIMARY KEY, name text, email text, manager_id int, active bool);
CREATE TABLE products (id int PRIMARY KEY, title text, stock int DEFAULT 0, tags jsonb);
CREATE TABLE orders (id int PRIMARY KEY,
    customer_id int REFERENCES customers ON DELETE CASCADE,
    status text, total numeric, "placedAt" timestamptz);
CREATE TABLE order_items (order_id int REFERENCES orders ON DELETE CASCADE ON UPDATE CASCADE,
    product_id int REFERENCES products, qty int, price numeric, PRIMARY KEY (order_id, product_id));
CREATE TABLE payments (id int PRIMARY KEY, order_id int REFERENCES orders ON DELETE SET NULL,
    amount numeric);
CREATE TABLE audit_log (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, what text, row_id int);
CREATE TABLE settings (key text PRIMARY KEY, value text);
CREATE TABLE stats (product_id int PRIMARY KEY, sold int);
CREATE TABLE "Mixed Case" ("Id" int PRIMARY KEY, "Value" text);
CREATE TABLE documents (id int PRIMARY KEY, body text);
CREATE TABLE invoices (amount numeric) INHERITS (documents);
CREATE TABLE events (id int, at date NOT NULL, kind text) PARTITION BY RANGE (at);
CREATE TABLE events_2024 PARTITION OF events FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
CREATE TABLE events_2025 PARTITION OF events FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
CREATE TABLE crm.orders (id int PRIMARY KEY, customer_id int, note text);
CREATE TABLE crm.customers (id int PRIMARY KEY, segment text);
CREATE TABLE elsewhere.notes (id int PRIMARY KEY, body text);
CREATE SEQUENCE numbers;

CREATE VIEW order_totals AS
  SELECT o.id, o.customer_id, sum(i.qty * i.price) AS total
    FROM orders o JOIN order_items i ON i.order_id = o.id GROUP BY o.id;
CREATE VIEW big_orders AS SELECT * FROM order_totals WHERE total > 1000;
CREATE VIEW active_customers AS SELECT id, name AS called, email FROM customers WHERE active;
CREATE VIEW crm.cards AS
  SELECT c.id, c.name, k.segment FROM public.customers c JOIN crm.customers k USING (id);
CREATE VIEW entry AS SELECT id, status FROM orders;
CREATE VIEW knobs AS SELECT key, value FROM settings;
CREATE RULE knobs_update AS ON UPDATE TO knobs DO INSTEAD
  UPDATE settings SET value = new.value WHERE key = old.key;
CREATE MATERIALIZED VIEW sales AS
  SELECT p.id, p.title, sum(i.qty) AS sold
    FROM products p JOIN order_items i ON i.product_id = p.id GROUP BY p.id;

CREATE FUNCTION order_sum(int) RETURNS numeric LANGUAGE sql STABLE
  AS 'SELECT sum(qty * price) FROM order_items WHERE order_id = $1';
CREATE FUNCTION customer_name(which int) RETURNS text LANGUAGE sql STABLE
  BEGIN ATOMIC SELECT name FROM customers WHERE id = which; END;
CREATE FUNCTION shout(t text) RETURNS text LANGUAGE sql IMMUTABLE RETURN upper(t) || '!';
CREATE FUNCTION note_of(int) RETURNS text LANGUAGE sql SET search_path = crm
  AS 'SELECT note FROM orders WHERE id = $1';
CREATE FUNCTION path_note() RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM orders';
CREATE FUNCTION in_crm() RETURNS bigint LANGUAGE sql SET search_path = crm
  AS 'SELECT public.path_note()';
CREATE FUNCTION place_order(who int, what int) RETURNS int LANGUAGE plpgsql AS $$
DECLARE
  new_id int := nextval('numbers');
  c customers%ROWTYPE;
  p products;
BEGIN
  SELECT * INTO c FROM customers WHERE id = who;
  p.title := 'none';
  IF c.active THEN
    INSERT INTO orders (id, customer_id, status) VALUES (new_id, who, 'new');
  ELSE
    UPDATE managers SET name = name WHERE id = c.manager_id;
  END IF;
  INSERT INTO order_items VALUES (new_id, what, 1, order_sum(new_id));
  RETURN new_id;
EXCEPTION WHEN unique_violation THEN
  RAISE NOTICE 'setting %', (SELECT value FROM settings WHERE key = 'x');
  RETURN NULL;
END $$;
CREATE FUNCTION any_table(t text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE n bigint; BEGIN EXECUTE format('SELECT count(*) FROM %I', t) INTO n; RETURN n; END $$;
CREATE FUNCTION one_table(v text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN EXECUTE format('UPDATE settings SET value = %L', v) || ' WHERE key = ''x'''; END $$;
CREATE FUNCTION countdown(n int) RETURNS int LANGUAGE plpgsql AS $$
BEGIN
  PERFORM 1 FROM stats;
  RETURN CASE WHEN n > 0 THEN countdown(n - 1) ELSE 0 END;
END $$;
CREATE FUNCTION of_product(int) RETURNS SETOF stats LANGUAGE plpgsql AS $$
DECLARE r record; held refcursor; declared CURSOR FOR SELECT title FROM products;
BEGIN
  FOR r IN SELECT * FROM stats WHERE product_id = $1 LOOP RETURN NEXT r; END LOOP;
  OPEN held FOR SELECT 1 FROM settings;
  RETURN QUERY SELECT product_id, qty FROM order_items;
END $$;
CREATE FUNCTION either(int) RETURNS text LANGUAGE sql AS 'SELECT name FROM managers';
CREATE FUNCTION either(int, int) RETURNS text LANGUAGE sql AS 'SELECT value FROM settings';
CREATE FUNCTION scratch() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  CREATE TEMP TABLE mine ON COMMIT DROP AS SELECT id FROM products;
  INSERT INTO mine SELECT id FROM customers;
END $$;
CREATE PROCEDURE forget(who int) LANGUAGE plpgsql AS $$
BEGIN DELETE FROM payments WHERE id = who; COMMIT; END $$;
CREATE FUNCTION next_of_all(state int, value int) RETURNS int LANGUAGE sql
  AS 'SELECT state + value + (SELECT count(*)::int FROM settings)';
CREATE AGGREGATE odd_sum(int) (SFUNC = next_of_all, STYPE = int, INITCOND = '0');
CREATE FUNCTION default_note() RETURNS text LANGUAGE sql AS 'SELECT value FROM settings';
ALTER TABLE crm.orders ALTER note SET DEFAULT default_note();

CREATE FUNCTION log_order() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN INSERT INTO audit_log (what, row_id) VALUES (tg_op, new.id); RETURN new; END $$;
CREATE TRIGGER orders_logged AFTER INSERT OR UPDATE OF status ON orders
  FOR EACH ROW EXECUTE FUNCTION log_order();
CREATE FUNCTION count_sold() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  UPDATE stats s SET sold = s.sold + n.qty FROM new_rows n WHERE n.product_id = s.product_id;
  RETURN NULL;
END $$;
CREATE TRIGGER items_counted AFTER INSERT ON order_items REFERENCING NEW TABLE AS new_rows
  FOR EACH STATEMENT EXECUTE FUNCTION count_sold();
CREATE FUNCTION enter() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN INSERT INTO managers (id) VALUES (new.id); RETURN new; END $$;
CREATE TRIGGER entered INSTEAD OF INSERT ON entry FOR EACH ROW EXECUTE FUNCTION enter();
CREATE FUNCTION seen() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN PERFORM 1 FROM settings; RETURN new; END $$;
CREATE TRIGGER seen BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION seen();
CREATE TRIGGER off BEFORE INSERT ON managers FOR EACH ROW EXECUTE FUNCTION seen();
ALTER TABLE managers DISABLE TRIGGER off;

CREATE FUNCTION paid(orders) RETURNS numeric LANGUAGE sql STABLE
  AS 'SELECT sum(amount) FROM payments WHERE order_id = $1.id';
CREATE TABLE tenants (id int PRIMARY KEY, customer_id int);
ALTER TABLE tenants ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON tenants FOR SELECT
  USING (customer_id IN (SELECT id FROM customers WHERE name = current_user));
CREATE FUNCTION outputs(IN x int, OUT o orders, OUT n int) LANGUAGE plpgsql AS $$
BEGIN o.id := x; n := (SELECT count(*) FROM stats); END; $$;
CREATE FUNCTION built() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  place CONSTANT text := 'crm';
  query CONSTANT text := 'SELECT 1 FROM ' || place || '.orders';
BEGIN EXECUTE query; EXECUTE format('DELETE FROM %I.%I', place, 'customers'); END $$;
"""


@dataclass(frozen=True, slots=True)
class Case:
    """A statement, alone in its text unless it says otherwise, and its labels."""

    text: str
    reads: frozenset[TableName]
    writes: frozenset[TableName]
    doubt: bool = False
    path: tuple[str, ...] = SCHEMAS
    direct: bool = True  # nothing is reached but what the text names


def tables(names: str) -> frozenset[TableName]:
    """Tables by their names, "Mixed_Case" for the one with a space."""
    found = (name.replace("Mixed_Case", "Mixed Case").rpartition(".") for name in names.split())
    return frozenset(TableName(schema or "public", name) for schema, _, name in found)


def case(text: str, reads: str = "", writes: str = "", *, doubt: bool = False) -> Case:
    """A statement that names all it touches."""
    return Case(text, tables(reads), tables(writes), doubt)


def through(text: str, reads: str = "", writes: str = "", *, doubt: bool = False) -> Case:
    """A statement that reaches tables through something else."""
    return Case(text, tables(reads), tables(writes), doubt, direct=False)


def in_crm(text: str, reads: str = "", writes: str = "", *, direct: bool = True) -> Case:
    """A statement of a session whose search_path begins with crm."""
    return Case(text, tables(reads), tables(writes), path=("crm", "public"), direct=direct)


SELECTS: Final = (
    case("SELECT 1"),
    case("SELECT * FROM customers", "customers"),
    case("SELECT id, name FROM public.customers WHERE email LIKE '%@x.org'", "customers"),
    case("TABLE managers", "managers"),
    case("VALUES (1), (2)"),
    case("SELECT o.id, c.name FROM orders o, customers c WHERE c.id = o.customer_id",
         "orders customers"),
    case("SELECT * FROM orders JOIN customers ON customers.id = customer_id LEFT JOIN payments"
         " ON payments.order_id = orders.id", "orders customers payments"),
    case("SELECT * FROM customers NATURAL JOIN managers", "customers managers"),
    case("SELECT * FROM customers c JOIN crm.customers k USING (id)", "customers crm.customers"),
    case("SELECT * FROM (orders o JOIN order_items i ON i.order_id = o.id) AS j WHERE j.qty > 1",
         "orders order_items"),
    case("SELECT name FROM customers WHERE id IN (SELECT customer_id FROM orders)",
         "customers orders"),
    case("SELECT (SELECT max(amount) FROM payments p WHERE p.order_id = o.id) FROM orders o",
         "orders payments"),
    case("SELECT 1 FROM customers c WHERE EXISTS (SELECT FROM orders WHERE customer_id = c.id)"
         " AND NOT EXISTS (SELECT 1 FROM payments)", "customers orders payments"),
    case("SELECT x.n FROM (SELECT count(*) AS n FROM products) x", "products"),
    case("SELECT * FROM customers c, LATERAL (SELECT * FROM orders o WHERE o.customer_id = c.id"
         " LIMIT 3) o", "customers orders"),
    case("SELECT * FROM customers c CROSS JOIN LATERAL unnest(ARRAY[c.id]) AS u(i)", "customers"),
    case("SELECT id FROM customers UNION SELECT id FROM managers EXCEPT SELECT id FROM products",
         "customers managers products"),
    case("(SELECT id FROM customers ORDER BY id LIMIT 1) INTERSECT (SELECT id FROM managers)",
         "customers managers"),
    case("WITH x AS (SELECT id FROM orders) SELECT * FROM x", "orders"),
    case("WITH orders AS (SELECT * FROM crm.orders) SELECT * FROM orders", "crm.orders"),
    case("WITH orders AS (SELECT * FROM orders) SELECT * FROM orders", "orders"),
    case("WITH orders AS (SELECT 1 AS id) SELECT * FROM orders, public.orders p", "orders"),
    case("WITH RECURSIVE t(n) AS (SELECT id FROM managers UNION ALL SELECT n + 1 FROM t"
         " WHERE n < 5) SELECT * FROM t", "managers"),
    case("WITH RECURSIVE orders AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM orders WHERE n < 3)"
         " SELECT * FROM orders"),
    case("WITH a AS (SELECT id FROM customers), b AS (SELECT id FROM a JOIN managers USING (id))"
         " SELECT * FROM b", "customers managers"),
    case("SELECT * FROM (WITH z AS (SELECT 1 FROM stats) SELECT * FROM z) q", "stats"),
    case("SELECT * FROM orders WHERE id = (WITH orders AS (SELECT 5 AS i) SELECT i FROM orders)",
         "orders"),
    case("SELECT customer_id, sum(total) OVER w FROM orders WINDOW w AS (PARTITION BY status)",
         "orders"),
    case("SELECT status, count(*) FILTER (WHERE total > 3) FROM orders GROUP BY GROUPING SETS"
         " ((status), ()) HAVING count(*) > (SELECT min(stock) FROM products)", "orders products"),
    case("SELECT DISTINCT ON (status) * FROM orders ORDER BY status, \"placedAt\" DESC", "orders"),
    case("SELECT * FROM orders ORDER BY (SELECT count(*) FROM stats)", "orders stats"),
    case("SELECT * FROM orders LIMIT (SELECT value::int FROM settings)", "orders settings"),
    case("SELECT CASE WHEN EXISTS (SELECT 1 FROM stats) THEN 1 END FROM products",
         "stats products"),
    case("SELECT COALESCE((SELECT 1 FROM managers), 2), ARRAY(SELECT id FROM products)",
         "managers products"),
    case("SELECT (c).name, c FROM customers c", "customers"),
    case('SELECT "Id" FROM "Mixed Case" WHERE "Value" = \'a;b\'', "Mixed_Case"),
    case('SELECT "public"."Mixed Case"."Id" FROM "public"."Mixed Case"', "Mixed_Case"),
    case("SELECT * FROM ORDERS", "orders"),
    case("SELECT * FROM orders o FOR UPDATE OF o SKIP LOCKED", "orders"),
    case("SELECT * FROM orders JOIN customers c ON c.id = customer_id FOR SHARE",
         "orders customers"),
    case("SELECT * FROM orders TABLESAMPLE system (10)", "orders"),
    case("SELECT * FROM documents", "documents invoices"),
    case("SELECT * FROM ONLY documents", "documents"),
    case("SELECT * FROM events", "events"),
    case("SELECT * FROM events_2024 WHERE kind = 'x'", "events"),
    case("SELECT * FROM events WHERE at = '2024-03-03'", "events"),
    case("SELECT * FROM events_2024 a JOIN events_2025 b USING (id)", "events"),
    case("SELECT * FROM crm.orders JOIN public.orders USING (id)", "crm.orders orders"),
    case("SELECT tags ? 'a', tags ->> 'b' FROM products", "products"),
    case("SELECT * FROM pg_class c JOIN orders o ON o.id = c.relpages", "orders"),
    case("SELECT table_name FROM information_schema.tables"),
    case("SELECT relname FROM pg_catalog.pg_class WHERE oid = 'orders'::regclass"),
    case("SELECT last_value FROM numbers"),
    case("SELECT nextval('numbers'), count(*) FROM stats", "stats"),
    case("SELECT * FROM generate_series(1, 3) g JOIN managers m ON m.id = g", "managers"),
    case("SELECT * FROM json_to_recordset('[]') AS x(a int) WHERE a IN (SELECT id FROM managers)",
         "managers"),
    case("SELECT ROW(o.*) FROM orders o", "orders"),
    case("SELECT * FROM ROWS FROM (generate_series(1, 2), unnest(ARRAY(SELECT id FROM stats"
         " JOIN managers ON id = sold))) AS t(a, b)", "stats managers"),
    case("/* orders */ SELECT 'FROM payments' -- FROM products\n FROM managers", "managers"),
    case("SELECT $$FROM payments$$, E'it\\'s' FROM managers", "managers"),
    case("EXPLAIN SELECT * FROM orders", "orders"),
    case("EXPLAIN (ANALYZE, BUFFERS) SELECT * FROM stats", "stats"),
    case("DECLARE c CURSOR FOR SELECT * FROM orders", "orders"),
    case("SELECT query_to_xml('SELECT * FROM stats', true, false, '')", "stats"),
)  # fmt: skip

WRITES: Final = (
    case("INSERT INTO managers VALUES (1, 'a')", "", "managers"),
    case("INSERT INTO managers (id) SELECT id FROM customers", "customers", "managers"),
    case("INSERT INTO managers DEFAULT VALUES", "", "managers"),
    case("INSERT INTO settings VALUES ('a', 'b') ON CONFLICT DO NOTHING", "", "settings"),
    case("INSERT INTO settings (key, value) VALUES ('a', 'b') ON CONFLICT (key) DO UPDATE"
         " SET value = excluded.value", "settings", "settings"),
    case("INSERT INTO settings AS s VALUES ('a', 'b') ON CONFLICT (key) DO UPDATE SET value ="
         " (SELECT name FROM managers LIMIT 1) WHERE s.value <> 'x'",
         "settings managers", "settings"),
    case("INSERT INTO managers VALUES (1) RETURNING id", "managers", "managers"),
    case("INSERT INTO stats VALUES ((SELECT max(id) FROM products), 0)", "products", "stats"),
    case("WITH s AS (SELECT id FROM customers) INSERT INTO managers (id) SELECT id FROM s",
         "customers", "managers"),
    case("INSERT INTO events_2024 (id, at) SELECT id, at FROM events_2025 WHERE false",
         "events settings", "events"),
    case("INSERT INTO invoices (id) VALUES (1)", "", "invoices"),
    case("INSERT INTO documents (id) VALUES (1)", "", "documents"),
    case("UPDATE products SET stock = 0", "", "products"),
    case("UPDATE products SET stock = stock - 1 WHERE id = 3", "products", "products"),
    case("UPDATE products p SET stock = i.qty FROM order_items i WHERE i.product_id = p.id",
         "order_items products", "products"),
    case("UPDATE customers SET (name, email) = (SELECT m.name, 'x' FROM managers m"
         " WHERE m.id = manager_id)", "managers customers", "customers"),
    case("UPDATE ONLY documents SET body = ''", "", "documents"),
    case("UPDATE documents SET body = ''", "", "documents invoices"),
    case("UPDATE events SET kind = 'x'", "", "events"),
    case("UPDATE orders SET total = 0", "", "orders"),
    case("UPDATE products SET tags['a'] = to_jsonb((SELECT max(sold) FROM stats))",
         "stats", "products"),
    case("UPDATE settings SET value = DEFAULT WHERE key = 'a' RETURNING *", "settings",
         "settings"),
    case("DELETE FROM stats", "", "stats"),
    case("DELETE FROM stats s USING products p WHERE p.id = s.product_id AND p.stock = 0",
         "products stats", "stats"),
    case("DELETE FROM settings WHERE key IN (SELECT name FROM managers)", "settings managers",
         "settings"),
    case("WITH gone AS (DELETE FROM stats RETURNING *) INSERT INTO managers (id)"
         " SELECT product_id FROM gone", "stats", "stats managers"),
    case("WITH u AS (UPDATE settings SET value = 'x') SELECT * FROM products", "products",
         "settings"),
    case("WITH i AS (INSERT INTO managers VALUES (1) RETURNING id), d AS (DELETE FROM stats)"
         " SELECT * FROM i JOIN customers USING (id)", "managers customers", "managers stats"),
    case("MERGE INTO stats s USING products p ON p.id = s.product_id WHEN MATCHED THEN UPDATE SET"
         " sold = p.stock WHEN NOT MATCHED THEN INSERT VALUES (p.id, 0)", "products stats",
         "stats"),
    case("MERGE INTO stats s USING (SELECT id FROM managers) m ON m.id = s.product_id"
         " WHEN MATCHED AND s.sold > 3 THEN DELETE WHEN NOT MATCHED THEN DO NOTHING",
         "managers stats", "stats"),
    case("TRUNCATE stats, settings", "", "stats settings"),
    case("TRUNCATE TABLE crm.orders RESTART IDENTITY", "", "crm.orders"),
    case("TRUNCATE orders CASCADE", "", "orders order_items payments"),
    case("LOCK TABLE orders, customers IN SHARE MODE", "orders customers"),
    case("COPY products TO STDOUT", "products"),
    case("COPY products (id, title) FROM STDIN", "", "products"),
    case("COPY (SELECT * FROM orders JOIN payments ON order_id = orders.id) TO STDOUT",
         "orders payments"),
    case("EXPLAIN DELETE FROM stats", "", "stats"),
    case("PREPARE p AS SELECT * FROM stats WHERE sold = $1", "stats"),
    case("CREATE TABLE copy_of AS SELECT * FROM stats", "stats"),
    case("SELECT id INTO TEMP t FROM managers", "managers"),
    case("CREATE VIEW v AS SELECT * FROM stats JOIN settings ON true", "stats settings"),
    case("CREATE MATERIALIZED VIEW m AS SELECT * FROM stats", "stats"),
    case("ALTER TABLE stats ADD COLUMN x int", "", "stats"),
    case("ALTER TABLE stats ADD FOREIGN KEY (product_id) REFERENCES products", "products",
         "stats"),
    case("CREATE INDEX ON settings (value)", "", "settings"),
    case("DROP TABLE stats", "", "stats"),
    case("CREATE TABLE fresh (id int REFERENCES managers, LIKE settings)", "managers settings"),
    case("CREATE TEMP TABLE fresh (id int)"),
    case("VACUUM ANALYZE orders"),
    case("BEGIN"),
    case("SET statement_timeout = 0"),
    case("DO $$ BEGIN UPDATE stats SET sold = 0 WHERE sold IN (SELECT id FROM products); END $$",
         "stats products", "stats"),
    case("DO $$ DECLARE r record; BEGIN FOR r IN EXECUTE 'SELECT * FROM managers' LOOP"
         " DELETE FROM settings; END LOOP; END $$", "managers", "settings"),
)  # fmt: skip

THROUGH: Final = (
    through("SELECT * FROM order_totals", "orders order_items"),
    through("SELECT id FROM big_orders JOIN customers c ON c.id = customer_id",
            "orders order_items customers"),
    through("SELECT called FROM active_customers", "customers"),
    through("SELECT * FROM crm.cards", "customers crm.customers"),
    through("SELECT * FROM sales", "products order_items"),
    through("REFRESH MATERIALIZED VIEW sales", "products order_items"),
    through("WITH big_orders AS (SELECT 1) SELECT * FROM big_orders, order_totals",
            "orders order_items"),
    through("SELECT order_sum(3)", "order_items"),
    through("SELECT customer_name(id) FROM managers", "customers managers"),
    through("SELECT name FROM managers WHERE name = customer_name(which => 3)",
            "customers managers"),
    through("SELECT shout(name) FROM managers", "managers"),
    through("SELECT note_of(1)", "crm.orders"),
    through("SELECT path_note()", "orders"),
    through("SELECT in_crm()", "crm.orders"),
    through("SELECT * FROM place_order(1, 2)", "customers managers settings order_items stats",
            "orders managers order_items audit_log stats"),
    through("SELECT any_table('orders')", doubt=True),
    through("SELECT one_table('x')", "settings", "settings"),
    through("SELECT countdown(3)", "stats"),
    through("SELECT * FROM of_product(1) p JOIN managers m ON m.id = p.sold",
            "stats products settings order_items managers"),
    through("SELECT either(1)", "managers"),
    through("SELECT either(1, 2)", "settings"),
    through("SELECT scratch()", "products customers"),
    through("CALL forget(3)", "payments", "payments"),
    through("SELECT odd_sum(id) FROM products", "settings products"),
    through("SELECT o.paid FROM orders o", "orders payments"),
    through("SELECT paid(o) FROM orders o", "orders payments"),
    through("SELECT id FROM tenants", "tenants customers"),
    through("INSERT INTO tenants (id) VALUES (1)", "", "tenants"),
    through("SELECT * FROM outputs(1)", "stats"),
    through("SELECT built()", "crm.orders", "crm.customers"),
    through("INSERT INTO orders (id) VALUES (1)", "", "orders audit_log"),
    through("UPDATE orders SET status = 'paid'", "", "orders audit_log"),
    through("DELETE FROM orders WHERE id = 1", "orders", "orders order_items payments"),
    through("DELETE FROM customers", "", "customers orders order_items payments"),
    through("UPDATE orders SET id = id + 1", "orders", "orders order_items"),
    through("INSERT INTO order_items VALUES (1, 1, 1, 1)", "stats", "order_items stats"),
    through("INSERT INTO events VALUES (1, '2024-01-01', 'x')", "settings", "events"),
    through("INSERT INTO crm.orders (id) VALUES (1)", "settings", "crm.orders"),
    through("INSERT INTO crm.orders (id, note) VALUES (1, 'x')", "", "crm.orders"),
    through("UPDATE active_customers SET called = 'x' WHERE id = 1", "customers", "customers"),
    through("INSERT INTO active_customers (id) VALUES (1)", "", "customers"),
    through("DELETE FROM active_customers", "customers",
            "customers orders order_items payments"),
    through("INSERT INTO entry (id) VALUES (1)", "", "managers"),
    through("UPDATE knobs SET value = 'x'", "settings", "settings"),
    through("MERGE INTO orders o USING managers m ON m.id = o.id WHEN MATCHED THEN UPDATE SET"
            " status = 'x'", "orders managers", "orders audit_log"),
    through("COPY orders FROM STDIN", "", "orders audit_log"),
    through("DO $$ BEGIN PERFORM order_sum(1); CALL forget(1); END $$",
            "order_items payments", "payments"),
    through("CREATE FUNCTION g() RETURNS int LANGUAGE sql AS 'SELECT id FROM orders'", "orders"),
    through("CREATE FUNCTION g() RETURNS int LANGUAGE plpgsql AS $$ BEGIN RETURN order_sum(1);"
            " END $$", "order_items"),
)  # fmt: skip

PATHS: Final = (
    in_crm("SELECT * FROM orders", "crm.orders"),
    in_crm("SELECT * FROM orders JOIN payments USING (id)", "crm.orders payments"),
    in_crm("SELECT * FROM customers WHERE segment = 'x'", "crm.customers"),
    in_crm("SELECT * FROM public.orders", "orders"),
    in_crm("SELECT path_note()", "crm.orders", direct=False),
    in_crm("SELECT order_sum(3), note_of(2)", "order_items crm.orders", direct=False),
    in_crm("SELECT * FROM cards", "customers crm.customers", direct=False),
    in_crm("SELECT * FROM big_orders", "orders order_items", direct=False),
    in_crm("DELETE FROM customers", "", "crm.customers"),
)

DOUBTFUL: Final = (
    case("SELECT * FROM no_such_table JOIN orders USING (id)", "orders", doubt=True),
    case("SELECT no_such_function(id) FROM orders", "orders", doubt=True),
    case("SELECT FROM WHERE", doubt=True),
    case("DO $$ BEGIN EXECUTE 'SELECT * FROM ' || 'sta' || 'ts'; EXECUTE current_query(); END $$",
         "stats", doubt=True),
    case("DO LANGUAGE plpython3u 'plpy.execute(1)'", doubt=True),
    case("EXECUTE unheard_of(1)", doubt=True),
    case("SELECT * FROM elsewhere.notes, orders", "orders", doubt=True),
    case("SELECT query_to_xml(name, true, false, '') FROM managers", "managers", doubt=True),
)  # fmt: skip

DRIVERS: Final = (
    case("SELECT * FROM orders WHERE id = $1 AND status = $2", "orders"),
    case("SELECT * FROM orders WHERE id IN ($1 /*, ... */)", "orders"),
    case('SELECT * FROM orders WHERE "placedAt" > now() - interval $1', "orders"),
    case("SELECT * FROM orders WHERE id = %s AND total %% 2 = %s", "orders"),
    case("UPDATE stats SET sold = %(sold)s WHERE product_id = %(id)s", "stats", "stats"),
    case("SELECT * FROM orders WHERE id = :id AND total = :total::numeric", "orders"),
    case("SELECT * FROM orders WHERE id = ? AND status IN (?, ?) LIMIT ?", "orders"),
    case("SELECT * FROM products WHERE tags ?? 'a' AND id = ?", "products"),
    case("INSERT INTO stats VALUES (?, ?)", "", "stats"),
    case("SELECT * FROM stats WHERE sold = #{sold}", "stats"),
    case("SELECT * FROM stats WHERE sold IN %s AND product_id IN :ids", "stats"),
    case("INSERT INTO stats (product_id, sold) VALUES %s", "", "stats"),
    case("SELECT * FROM stats WHERE sold = :'sold' LIMIT :n", "stats"),
)

CASES: Final = SELECTS + WRITES + THROUGH + PATHS + DOUBTFUL + DRIVERS
