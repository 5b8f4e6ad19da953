"""The plan file's JSON Schema, by which editors complete and check it.

``python -m plans.plan_schema`` writes it anew after a change of `plans.model`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from plans.model import PlanFile

SCHEMA_FILE: Final = Path(__file__).parent / "plan.schema.json"


def schema_text() -> str:
    """The schema as it is shipped."""
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **PlanFile.model_json_schema(),
    }
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    SCHEMA_FILE.write_text(schema_text(), encoding="utf-8")
