"""What keeps a text from being read; caught inside this package."""

from __future__ import annotations


class Unparsable(Exception):
    """The text isn't SQL that the parser knows."""
