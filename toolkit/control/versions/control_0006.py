"""The routes of which somebody has begun to prove the rows equal."""

from __future__ import annotations

from alembic import op

revision = "control_0006"
down_revision = "control_0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table, empty: until then, nobody asks which keys have changed."""
    op.execute("CREATE TABLE dbsplit.tracked (route text PRIMARY KEY)")


def downgrade() -> None:
    """Drop it with what it holds."""
    op.execute("DROP TABLE dbsplit.tracked")
