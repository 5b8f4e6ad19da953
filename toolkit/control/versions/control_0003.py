"""Which parts of large tables are copied, and which statements after the data are done."""

from __future__ import annotations

from alembic import op

revision = "control_0003"
down_revision = "control_0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables, empty."""
    op.execute("""
        CREATE TABLE dbsplit.copied_chunk (
            route text,
            chunk int,
            first_block bigint NOT NULL,
            end_block bigint,
            file bigint NOT NULL,
            horizon pg_lsn,
            rows bigint,
            bytes bigint,
            copied_at timestamptz,
            PRIMARY KEY (route, chunk)
        )
    """)
    op.execute("""
        CREATE TABLE dbsplit.built (
            id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            digest text NOT NULL UNIQUE,
            "drop" text NOT NULL,
            built_at timestamptz NOT NULL DEFAULT clock_timestamp()
        )
    """)


def downgrade() -> None:
    """Drop them with what they hold."""
    op.execute("DROP TABLE dbsplit.built")
    op.execute("DROP TABLE dbsplit.copied_chunk")
