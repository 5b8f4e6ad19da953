"""What the verbs call with the name of each step that is done, and what is known of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Say = Callable[[str, dict[str, Any]], None]
