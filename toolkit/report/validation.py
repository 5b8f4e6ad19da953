"""The report of one validation as one HTML file: to read, to drill into, and to sign."""

from __future__ import annotations

from toolkit.report.page import page
from toolkit.validated import Validated


def render_validation(validated: Validated) -> str:
    """A self-contained document: it loads and runs nothing."""
    return page(f"{validated.split.name}: validation")
