"""The state of each order, its history, and the outbox.

An order is moved by one UPDATE, which has to carry the version after the one that it was
decided on:

    UPDATE order_state SET state = 'APPROVED', version = 7 WHERE order_id = 42;

The database refuses it if the transition is not legal, or if the order is not at version 6
any more; else the transition and its message are written with it.  `move_order` does the same.
"""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_UPGRADE = (
    """
    CREATE TABLE public.order_state (
        order_id bigint PRIMARY KEY,
        state text NOT NULL REFERENCES public.state,
        version bigint NOT NULL DEFAULT 1 CHECK (version > 0),
        priority smallint NOT NULL DEFAULT 3,
        due_at timestamptz,
        -- what is due at no time comes last; a page of a queue cannot begin after a NULL
        due_order timestamptz NOT NULL
            GENERATED ALWAYS AS (coalesce(due_at, 'infinity')) STORED,
        placed_at timestamptz,
        changed_at timestamptz NOT NULL DEFAULT now(),
        led_by text NOT NULL DEFAULT 'orchestrator' CHECK (led_by IN ('claims', 'orchestrator'))
    )
    """,
    "COMMENT ON COLUMN public.order_state.priority IS '1 is the most urgent'",
    """
    COMMENT ON COLUMN public.order_state.led_by IS
        'claims: the state is what the other systems claim; orchestrator: it was moved here'
    """,
    # History outlives the order, so it does not refer to it.
    """
    CREATE TABLE public.order_transition (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        order_id bigint NOT NULL,
        from_state text REFERENCES public.state,
        to_state text NOT NULL REFERENCES public.state,
        version bigint NOT NULL,
        actor text NOT NULL DEFAULT session_user,
        happened_at timestamptz NOT NULL DEFAULT now(),
        UNIQUE (order_id, version)
    )
    """,
    """
    CREATE TABLE public.outbox (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        order_id bigint NOT NULL,
        payload jsonb NOT NULL,
        written_at timestamptz NOT NULL DEFAULT now(),
        published_at timestamptz
    )
    """,
    "CREATE INDEX outbox_unpublished_idx ON public.outbox (id) WHERE published_at IS NULL",
    """
    CREATE FUNCTION public.check_new_order() RETURNS trigger LANGUAGE plpgsql AS $body$
    BEGIN
        IF NOT EXISTS (SELECT FROM public.state AS s WHERE s.code = NEW.state AND s.is_initial) THEN
            RAISE EXCEPTION 'order % cannot begin in state %', NEW.order_id, NEW.state
                USING ERRCODE = 'check_violation', TABLE = 'order_state',
                      HINT = 'Orders begin in: ' || (SELECT string_agg(s.code, ', ' ORDER BY s.step)
                                                     FROM public.state AS s WHERE s.is_initial);
        END IF;
        NEW.version := 1;
        NEW.led_by := 'orchestrator';
        RETURN NEW;
    END
    $body$
    """,
    """
    CREATE FUNCTION public.check_move() RETURNS trigger LANGUAGE plpgsql AS $body$
    BEGIN
        IF NEW.order_id <> OLD.order_id THEN
            RAISE EXCEPTION 'order % cannot become order %', OLD.order_id, NEW.order_id
                USING ERRCODE = 'check_violation', TABLE = 'order_state';
        END IF;
        IF NEW.version IS DISTINCT FROM OLD.version + 1 THEN
            RAISE EXCEPTION 'order % is at version %, so the next one is % and not %',
                OLD.order_id, OLD.version, OLD.version + 1, NEW.version
                USING ERRCODE = 'serialization_failure', TABLE = 'order_state',
                      HINT = 'It was changed meanwhile: read it again, and decide again.';
        END IF;
        NEW.led_by := OLD.led_by;
        IF NEW.state <> OLD.state THEN
            IF NOT EXISTS (SELECT FROM public.legal_transition AS t
                           WHERE t.from_state = OLD.state AND t.to_state = NEW.state) THEN
                RAISE EXCEPTION 'order % cannot go from % to %', OLD.order_id, OLD.state, NEW.state
                    USING ERRCODE = 'check_violation', TABLE = 'order_state',
                          HINT = coalesce(
                              'It can go to: ' || (
                                  SELECT string_agg(t.to_state, ', ' ORDER BY t.to_state)
                                  FROM public.legal_transition AS t
                                  WHERE t.from_state = OLD.state),
                              'Nothing leads out of ' || OLD.state || '.');
            END IF;
            NEW.changed_at := now();
            NEW.led_by := 'orchestrator';
        END IF;
        RETURN NEW;
    END
    $body$
    """,
    # Runs as its owner: whoever moves orders need not be able to write history otherwise.
    """
    CREATE FUNCTION public.record_move() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $body$
    DECLARE
        came_from text;
    BEGIN
        IF TG_OP = 'UPDATE' THEN
            came_from := OLD.state;
        END IF;
        INSERT INTO public.order_transition (order_id, from_state, to_state, version)
        VALUES (NEW.order_id, came_from, NEW.state, NEW.version);
        INSERT INTO public.outbox (order_id, payload)
        VALUES (NEW.order_id, jsonb_build_object(
            'order_id', NEW.order_id, 'from', came_from, 'to', NEW.state,
            'version', NEW.version, 'actor', session_user, 'at', NEW.changed_at));
        RETURN NULL;
    END
    $body$
    """,
    """
    CREATE TRIGGER order_state_begins BEFORE INSERT ON public.order_state
        FOR EACH ROW EXECUTE FUNCTION public.check_new_order()
    """,
    """
    CREATE TRIGGER order_state_moves BEFORE UPDATE ON public.order_state
        FOR EACH ROW EXECUTE FUNCTION public.check_move()
    """,
    """
    CREATE TRIGGER order_state_begun AFTER INSERT ON public.order_state
        FOR EACH ROW EXECUTE FUNCTION public.record_move()
    """,
    """
    CREATE TRIGGER order_state_moved AFTER UPDATE ON public.order_state
        FOR EACH ROW WHEN (OLD.state <> NEW.state) EXECUTE FUNCTION public.record_move()
    """,
    """
    CREATE FUNCTION public.refuse_rewriting() RETURNS trigger LANGUAGE plpgsql AS $body$
    BEGIN
        RAISE EXCEPTION '% is only ever added to, so % is refused', TG_TABLE_NAME, TG_OP
            USING ERRCODE = 'check_violation', TABLE = TG_TABLE_NAME;
    END
    $body$
    """,
    """
    CREATE TRIGGER order_transition_stays
        BEFORE UPDATE OR DELETE OR TRUNCATE ON public.order_transition
        FOR EACH STATEMENT EXECUTE FUNCTION public.refuse_rewriting()
    """,
    """
    CREATE FUNCTION public.move_order(wanted_order bigint, wanted_state text, seen_version bigint)
    RETURNS bigint LANGUAGE plpgsql AS $body$
    DECLARE
        moved_to bigint;
    BEGIN
        UPDATE public.order_state AS o SET state = wanted_state, version = seen_version + 1
        WHERE o.order_id = wanted_order
        RETURNING o.version INTO moved_to;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'there is no order %', wanted_order USING ERRCODE = 'no_data_found';
        END IF;
        RETURN moved_to;
    END
    $body$
    """,
)

_DOWNGRADE = (
    "DROP FUNCTION public.move_order(bigint, text, bigint)",
    "DROP TABLE public.outbox",
    "DROP TABLE public.order_transition",
    "DROP TABLE public.order_state",
    "DROP FUNCTION public.refuse_rewriting()",
    "DROP FUNCTION public.record_move()",
    "DROP FUNCTION public.check_move()",
    "DROP FUNCTION public.check_new_order()",
)


def upgrade() -> None:
    """Make the tables, and the triggers that guard them."""
    for statement in _UPGRADE:
        op.execute(statement.replace(":", "\\:"))


def downgrade() -> None:
    """Drop them."""
    for statement in _DOWNGRADE:
        op.execute(statement)
