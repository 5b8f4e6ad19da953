"""What the other systems claim about orders, and what follows from it.

The plan's derived routes write `order_claim`, `order_facts` and `claim_history`, in sessions
whose session_replication_role is replica.  Only in such sessions do the triggers of this
revision fire, and those of revision 0002 do not: a claim is somebody else's word, so it may
jump, and it is not announced.

Of an order's claims the one with the highest precedence wins.  It sets the order's state until
the orchestrator moves the order; from then on claims are only recorded (`stale_claim`).
What the shop says of an order's priority and date is taken over whenever the shop changes it.
"""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_TABLES = (
    """
    CREATE TABLE public.claiming_system (
        system text PRIMARY KEY,
        tie_rank smallint NOT NULL UNIQUE
    )
    """,
    "COMMENT ON COLUMN public.claiming_system.tie_rank IS 'the lower is believed at a tie'",
    "INSERT INTO public.claiming_system (system, tie_rank) VALUES"
    " ('mes', 1), ('shop', 2), ('crm', 3)",
    """
    CREATE TABLE public.order_claim (
        order_id bigint NOT NULL,
        system text NOT NULL REFERENCES public.claiming_system,
        state text NOT NULL REFERENCES public.state,
        precedence smallint NOT NULL,
        changed_at timestamptz NOT NULL,
        PRIMARY KEY (order_id, system)
    )
    """,
    """
    CREATE TABLE public.order_facts (
        order_id bigint PRIMARY KEY,
        priority smallint NOT NULL,
        due_at timestamptz,
        placed_at timestamptz NOT NULL
    )
    """,
    """
    CREATE TABLE public.claim_history (
        system text NOT NULL REFERENCES public.claiming_system,
        entry_id bigint NOT NULL,
        order_id bigint NOT NULL,
        from_state text REFERENCES public.state,
        to_state text NOT NULL REFERENCES public.state,
        changed_at timestamptz NOT NULL,
        actor text NOT NULL,
        PRIMARY KEY (system, entry_id)
    )
    """,
    "CREATE INDEX claim_history_order_id_idx ON public.claim_history (order_id)",
    # A system's word for a state may stand for several steps of an order's way: to the CRM, an
    # order that has been packed is still in production.  Claims contradict each other if there
    # is no step for which all of them can stand.
    """
    CREATE TABLE public.claim_span (
        system text NOT NULL REFERENCES public.claiming_system,
        state text NOT NULL REFERENCES public.state,
        steps int4range NOT NULL CHECK (NOT isempty(steps)),
        PRIMARY KEY (system, state)
    )
    """,
    """
    INSERT INTO public.claim_span (system, state, steps) VALUES
        ('shop', 'INITIATED',  '[10,10]'),
        ('shop', 'SUBMITTED',  '[20,30]'),
        ('shop', 'APPROVED',   '[40,40]'),
        ('shop', 'PRODUCTION', '[50,60]'),
        ('shop', 'SHIPPING',   '[70,70]'),
        ('shop', 'DELIVERED',  '[80,80]'),
        ('shop', 'CLOSED',     '[90,90]'),
        ('shop', 'CANCELLED',  '[100,100]'),
        ('crm',  'SUBMITTED',  '[20,20]'),
        ('crm',  'QUOTED',     '[30,30]'),
        ('crm',  'APPROVED',   '[40,40]'),
        ('crm',  'ON_HOLD',    '[20,40]'),
        ('crm',  'PRODUCTION', '[50,60]'),
        ('crm',  'SHIPPING',   '[70,80]'),
        ('crm',  'CLOSED',     '[90,90]'),
        ('crm',  'CANCELLED',  '[100,100]'),
        ('mes',  'APPROVED',   '[40,40]'),
        ('mes',  'PRODUCTION', '[50,50]'),
        ('mes',  'ON_HOLD',    '[40,60]'),
        ('mes',  'PACKING',    '[60,60]'),
        ('mes',  'SHIPPING',   '[70,90]'),
        ('mes',  'CANCELLED',  '[100,100]')
    """,
    """
    CREATE TABLE public.claim_transition (
        system text NOT NULL,
        from_state text NOT NULL,
        to_state text NOT NULL,
        PRIMARY KEY (system, from_state, to_state),
        FOREIGN KEY (system, from_state) REFERENCES public.claim_span,
        FOREIGN KEY (system, to_state) REFERENCES public.claim_span
    )
    """,
    "COMMENT ON TABLE public.claim_transition IS 'what may follow what in the system''s own words'",
    """
    INSERT INTO public.claim_transition (system, from_state, to_state) VALUES
        ('shop', 'INITIATED', 'SUBMITTED'), ('shop', 'INITIATED', 'CANCELLED'),
        ('shop', 'SUBMITTED', 'APPROVED'), ('shop', 'SUBMITTED', 'CANCELLED'),
        ('shop', 'APPROVED', 'PRODUCTION'), ('shop', 'APPROVED', 'CANCELLED'),
        ('shop', 'PRODUCTION', 'SHIPPING'), ('shop', 'PRODUCTION', 'CANCELLED'),
        ('shop', 'SHIPPING', 'DELIVERED'), ('shop', 'DELIVERED', 'CLOSED'),
        ('crm', 'SUBMITTED', 'QUOTED'), ('crm', 'SUBMITTED', 'ON_HOLD'),
        ('crm', 'SUBMITTED', 'CANCELLED'), ('crm', 'QUOTED', 'SUBMITTED'),
        ('crm', 'QUOTED', 'APPROVED'), ('crm', 'QUOTED', 'ON_HOLD'),
        ('crm', 'QUOTED', 'CANCELLED'), ('crm', 'APPROVED', 'PRODUCTION'),
        ('crm', 'APPROVED', 'ON_HOLD'), ('crm', 'APPROVED', 'CANCELLED'),
        ('crm', 'ON_HOLD', 'SUBMITTED'), ('crm', 'ON_HOLD', 'QUOTED'),
        ('crm', 'ON_HOLD', 'APPROVED'), ('crm', 'ON_HOLD', 'CANCELLED'),
        ('crm', 'PRODUCTION', 'SHIPPING'), ('crm', 'PRODUCTION', 'CANCELLED'),
        ('crm', 'SHIPPING', 'CLOSED'),
        ('mes', 'APPROVED', 'PRODUCTION'), ('mes', 'APPROVED', 'ON_HOLD'),
        ('mes', 'APPROVED', 'CANCELLED'), ('mes', 'PRODUCTION', 'PACKING'),
        ('mes', 'PRODUCTION', 'ON_HOLD'), ('mes', 'PRODUCTION', 'CANCELLED'),
        ('mes', 'PACKING', 'PRODUCTION'), ('mes', 'PACKING', 'ON_HOLD'),
        ('mes', 'PACKING', 'SHIPPING'), ('mes', 'ON_HOLD', 'APPROVED'),
        ('mes', 'ON_HOLD', 'PRODUCTION'), ('mes', 'ON_HOLD', 'PACKING'),
        ('mes', 'ON_HOLD', 'CANCELLED')
    """,
)

_RESOLVING = (
    # Two sessions that bring claims or facts of one order at the same time must not both
    # resolve it without the other's.  The lock is held until the end of the transaction, and
    # every statement after it sees what the one before has committed, which is how READ
    # COMMITTED works and no other isolation level does.
    """
    CREATE FUNCTION public.one_feed_at_a_time() RETURNS void LANGUAGE plpgsql AS $body$
    BEGIN
        IF current_setting('transaction_isolation') <> 'read committed' THEN
            RAISE EXCEPTION 'claims are fed at isolation level %',
                current_setting('transaction_isolation')
                USING ERRCODE = 'feature_not_supported', HINT = 'Feed them at READ COMMITTED.';
        END IF;
        PERFORM pg_advisory_xact_lock('public.order_claim'::regclass::oid::bigint);
    END
    $body$
    """,
    """
    CREATE VIEW public.winning_claim AS
    SELECT DISTINCT ON (c.order_id)
           c.order_id, c.system, c.state, c.precedence, c.changed_at
    FROM public.order_claim AS c JOIN public.claiming_system AS s USING (system)
    ORDER BY c.order_id, c.precedence DESC, s.tie_rank
    """,
    # "= ANY (touched)" rather than a join: it is an index scan also before the first ANALYZE.
    """
    CREATE FUNCTION public.resolve_orders(touched bigint[]) RETURNS void
    LANGUAGE plpgsql AS $body$
    BEGIN
        INSERT INTO public.order_state AS o
            (order_id, state, priority, due_at, placed_at, changed_at, led_by)
        SELECT w.order_id, w.state, coalesce(f.priority, 3), f.due_at, f.placed_at, w.changed_at,
               'claims'
        FROM (SELECT DISTINCT ON (c.order_id) c.order_id, c.state, c.changed_at
              FROM public.order_claim AS c JOIN public.claiming_system AS s USING (system)
              WHERE c.order_id = ANY (touched)
              ORDER BY c.order_id, c.precedence DESC, s.tie_rank) AS w
        LEFT JOIN public.order_facts AS f USING (order_id)
        ON CONFLICT (order_id) DO UPDATE
            SET state = excluded.state, changed_at = excluded.changed_at, version = o.version + 1
            WHERE o.led_by = 'claims'
              AND (o.state, o.changed_at) IS DISTINCT FROM (excluded.state, excluded.changed_at);
        DELETE FROM public.order_state AS o
        WHERE o.order_id = ANY (touched) AND o.led_by = 'claims'
          AND NOT EXISTS (SELECT FROM public.order_claim AS c WHERE c.order_id = o.order_id);
    END
    $body$
    """,
    """
    CREATE FUNCTION public.follow_claims() RETURNS trigger LANGUAGE plpgsql AS $body$
    DECLARE
        touched bigint[];
    BEGIN
        CASE TG_OP
            WHEN 'INSERT' THEN
                touched := array(SELECT DISTINCT a.order_id FROM arrived AS a);
            WHEN 'UPDATE' THEN
                touched := array(SELECT a.order_id FROM arrived AS a
                                 UNION SELECT g.order_id FROM gone AS g);
            WHEN 'DELETE' THEN
                touched := array(SELECT DISTINCT g.order_id FROM gone AS g);
            WHEN 'TRUNCATE' THEN
                touched := array(SELECT o.order_id FROM public.order_state AS o);
        END CASE;
        -- an INSERT … ON CONFLICT fires both triggers, also the one that has no rows
        IF cardinality(touched) > 0 THEN
            PERFORM public.one_feed_at_a_time();
            PERFORM public.resolve_orders(touched);
        END IF;
        RETURN NULL;
    END
    $body$
    """,
    """
    CREATE FUNCTION public.follow_facts() RETURNS trigger LANGUAGE plpgsql AS $body$
    BEGIN
        PERFORM public.one_feed_at_a_time();
        CASE TG_OP
            WHEN 'INSERT' THEN
                UPDATE public.order_state AS o
                SET priority = a.priority, due_at = a.due_at, placed_at = a.placed_at,
                    version = o.version + 1
                FROM arrived AS a
                WHERE o.order_id = a.order_id;
            WHEN 'UPDATE' THEN
                UPDATE public.order_state AS o
                SET priority = a.priority, due_at = a.due_at, placed_at = a.placed_at,
                    version = o.version + 1
                FROM arrived AS a
                WHERE o.order_id = a.order_id
                  AND NOT EXISTS (SELECT FROM gone AS g
                                  WHERE g.order_id = a.order_id
                                    AND (g.priority, g.due_at, g.placed_at)
                                        IS NOT DISTINCT FROM (a.priority, a.due_at, a.placed_at));
            WHEN 'DELETE' THEN
                UPDATE public.order_state AS o
                SET priority = 3, due_at = NULL, placed_at = NULL, version = o.version + 1
                FROM gone AS g
                WHERE o.order_id = g.order_id AND o.led_by = 'claims';
            WHEN 'TRUNCATE' THEN
                UPDATE public.order_state AS o
                SET priority = 3, due_at = NULL, placed_at = NULL, version = o.version + 1
                WHERE o.led_by = 'claims';
        END CASE;
        RETURN NULL;
    END
    $body$
    """,
)

_REFERENCING = {
    "INSERT": "REFERENCING NEW TABLE AS arrived",
    "UPDATE": "REFERENCING OLD TABLE AS gone NEW TABLE AS arrived",
    "DELETE": "REFERENCING OLD TABLE AS gone",
    "TRUNCATE": "",
}

_TRIGGERS = tuple(
    statement
    for table, function in (("order_claim", "follow_claims"), ("order_facts", "follow_facts"))
    for event, referencing in _REFERENCING.items()
    for name in (f"{table}_after_{event.lower()}",)
    for statement in (
        f"CREATE TRIGGER {name} AFTER {event} ON public.{table} {referencing}"
        f" FOR EACH STATEMENT EXECUTE FUNCTION public.{function}()",
        f"ALTER TABLE public.{table} ENABLE REPLICA TRIGGER {name}",
    )
)

_VIEWS = (
    """
    CREATE VIEW public.contradiction AS
    SELECT c.order_id,
           max(c.state) FILTER (WHERE c.system = 'shop') AS shop,
           max(c.state) FILTER (WHERE c.system = 'crm') AS crm,
           max(c.state) FILTER (WHERE c.system = 'mes') AS mes,
           (SELECT o.state FROM public.order_state AS o
            WHERE o.order_id = c.order_id) AS resolved
    FROM public.order_claim AS c LEFT JOIN public.claim_span AS s USING (system, state)
    GROUP BY c.order_id
    HAVING isempty(range_intersect_agg(coalesce(s.steps, 'empty')))
    """,
    """
    CREATE VIEW public.illegal_claim AS
    SELECT h.order_id, h.system, h.from_state, h.to_state, h.changed_at, h.actor
    FROM public.claim_history AS h
    WHERE h.from_state <> h.to_state
      AND NOT EXISTS (SELECT FROM public.claim_transition AS t
                      WHERE t.system = h.system AND t.from_state = h.from_state
                        AND t.to_state = h.to_state)
    """,
    """
    CREATE VIEW public.stale_claim AS
    SELECT w.order_id, o.state, w.system, w.state AS claimed, w.changed_at AS claimed_at
    FROM public.winning_claim AS w JOIN public.order_state AS o USING (order_id)
    WHERE o.led_by = 'orchestrator' AND o.state <> w.state
    """,
)

_UPGRADE = (*_TABLES, *_RESOLVING, *_TRIGGERS, *_VIEWS)

_DOWNGRADE = (
    "DROP VIEW public.stale_claim",
    "DROP VIEW public.illegal_claim",
    "DROP VIEW public.contradiction",
    "DROP VIEW public.winning_claim",
    "DROP TABLE public.claim_transition",
    "DROP TABLE public.claim_span",
    "DROP TABLE public.claim_history",
    "DROP TABLE public.order_facts",
    "DROP TABLE public.order_claim",
    "DROP TABLE public.claiming_system",
    "DROP FUNCTION public.follow_facts()",
    "DROP FUNCTION public.follow_claims()",
    "DROP FUNCTION public.resolve_orders(bigint[])",
    "DROP FUNCTION public.one_feed_at_a_time()",
)


def upgrade() -> None:
    """Make the tables that are fed, what follows from them, and the lists of trouble."""
    for statement in _UPGRADE:
        op.execute(statement.replace(":", "\\:"))


def downgrade() -> None:
    """Drop them; orders keep the state that they have."""
    for statement in _DOWNGRADE:
        op.execute(statement)
