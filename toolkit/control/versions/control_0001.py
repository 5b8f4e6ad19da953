"""The control schema's first tables."""

from __future__ import annotations

from alembic import op

revision = "control_0001"
down_revision = None
branch_labels = None
depends_on = None

TABLES = (
    """
    CREATE TABLE dbsplit.split (
        split text PRIMARY KEY,
        plan_digest text NOT NULL,
        plan_name text,
        system_identifier text,
        publication text,
        slot text,
        created_at timestamptz DEFAULT now(),
        prepared_at timestamptz,
        settings jsonb NOT NULL DEFAULT '{}'
    )
    """,
    """
    CREATE TABLE dbsplit.service (
        split text,
        service text,
        phase text NOT NULL,
        epoch bigint NOT NULL DEFAULT 0,
        back_slot text,
        back_wanted boolean NOT NULL DEFAULT false,
        updated_at timestamptz DEFAULT now(),
        PRIMARY KEY (split, service)
    )
    """,
    """
    CREATE TABLE dbsplit.attempt (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        split text,
        services text[] NOT NULL,
        direction text NOT NULL CHECK (direction IN ('cutover', 'rollback')),
        started_at timestamptz DEFAULT now(),
        deadline timestamptz,
        outcome text CHECK (outcome IN ('moved', 'returned', 'aborted', 'halted')),
        ended_at timestamptz,
        fenced boolean NOT NULL DEFAULT false,
        details jsonb NOT NULL DEFAULT '{}'
    )
    """,
    """
    CREATE TABLE dbsplit.journal (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        split text NOT NULL,
        attempt bigint,
        step text NOT NULL,
        state text NOT NULL CHECK (state IN ('begin', 'done', 'failed')),
        at timestamptz NOT NULL DEFAULT clock_timestamp(),
        details jsonb NOT NULL DEFAULT '{}',
        previous bytea,
        hash bytea NOT NULL
    )
    """,
    """
    CREATE TABLE dbsplit.progress (
        stream text PRIMARY KEY,
        lsn pg_lsn NOT NULL,
        commit_time timestamptz,
        applied_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        transactions bigint NOT NULL DEFAULT 0,
        changes bigint NOT NULL DEFAULT 0,
        echoes bigint NOT NULL DEFAULT 0
    )
    """,
    """
    CREATE TABLE dbsplit.marker (
        stream text,
        id uuid,
        lsn pg_lsn NOT NULL,
        seen_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        PRIMARY KEY (stream, id)
    )
    """,
    """
    CREATE TABLE dbsplit.copied (
        route text PRIMARY KEY,
        horizon pg_lsn NOT NULL,
        rows bigint NOT NULL,
        bytes bigint NOT NULL DEFAULT 0,
        copied_at timestamptz DEFAULT clock_timestamp()
    )
    """,
    """
    CREATE TABLE dbsplit.dirty (
        route text,
        key jsonb,
        lsn pg_lsn NOT NULL,
        PRIMARY KEY (route, key)
    )
    """,
    """
    CREATE TABLE dbsplit.validated (
        split text,
        route text,
        direction text NOT NULL DEFAULT 'forward',
        at timestamptz DEFAULT clock_timestamp(),
        since pg_lsn NOT NULL,
        rows bigint,
        missing bigint,
        extra bigint,
        different bigint,
        state text NOT NULL,
        PRIMARY KEY (split, route, direction)
    )
    """,
    """
    CREATE TABLE dbsplit.heartbeat (
        split text,
        role text,
        pid int,
        host text,
        started_at timestamptz,
        beat_at timestamptz,
        details jsonb NOT NULL DEFAULT '{}',
        PRIMARY KEY (split, role)
    )
    """,
    """
    CREATE TABLE dbsplit.event (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        split text,
        at timestamptz DEFAULT clock_timestamp(),
        kind text,
        details jsonb DEFAULT '{}'
    )
    """,
    # What prepare changed, so that abort can change it back.
    """
    CREATE TABLE dbsplit.identity_before (
        split text,
        table_schema text,
        table_name text,
        replica_identity char(1),
        index_name text,
        PRIMARY KEY (split, table_schema, table_name)
    )
    """,
)

# ENABLE ALWAYS: session_replication_role = replica would pass an ordinary trigger.
APPEND_ONLY = (
    """
    CREATE FUNCTION dbsplit.journal_is_append_only() RETURNS trigger
        LANGUAGE plpgsql SET search_path = pg_catalog AS
    $$
    BEGIN
        RAISE EXCEPTION 'the journal of dbsplit is append-only, % is refused', TG_OP
            USING ERRCODE = 'insufficient_privilege',
                  HINT = 'Each entry holds the hash of the one before; a change would show.';
    END
    $$
    """,
    """
    CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON dbsplit.journal
        EXECUTE FUNCTION dbsplit.journal_is_append_only()
    """,
    "ALTER TABLE dbsplit.journal ENABLE ALWAYS TRIGGER append_only",
)

NAMES = (
    "identity_before",
    "event",
    "heartbeat",
    "validated",
    "dirty",
    "copied",
    "marker",
    "progress",
    "journal",
    "attempt",
    "service",
    "split",
)


def upgrade() -> None:
    """Create them, empty."""
    for statement in (*TABLES, *APPEND_ONLY):
        op.execute(statement)


def downgrade() -> None:
    """Drop them with what they hold."""
    for name in NAMES:
        op.execute(f"DROP TABLE dbsplit.{name}")
    op.execute("DROP FUNCTION dbsplit.journal_is_append_only()")
