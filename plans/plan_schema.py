"""The plan file's JSON Schema, by which editors complete and check it.

``python -m plans.plan_schema`` writes it anew after a change of `plans.model`.
"""

from __future__ import annotations

import ast
import inspect
import json
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from plans import model
from plans.model import PlanFile

SCHEMA_FILE: Final = Path(__file__).parent / "plan.schema.json"


def schema() -> dict[str, Any]:
    """The model's JSON Schema, with the text that stands below each key.

    pydantic could add the texts, but reads its own source for it whenever a verb starts.
    """
    found = PlanFile.model_json_schema()
    texts = _texts()
    for name, mapping in {PlanFile.__name__: found, **found["$defs"]}.items():
        for key, entry in mapping["properties"].items():
            own = [texts.get((one.__name__, key)) for one in getattr(model, name).__mro__]
            if text := next(filter(None, own), None):
                mapping["properties"][key] = dict(sorted({**entry, "description": text}.items()))
    return found


def _texts() -> dict[tuple[str, str], str]:
    """What stands below each key, by class and key."""
    return {
        (one.name, first.target.id): inspect.cleandoc(second.value.value)
        for one in ast.parse(inspect.getsource(model)).body
        if isinstance(one, ast.ClassDef)
        for first, second in pairwise(one.body)
        if isinstance(first, ast.AnnAssign) and isinstance(first.target, ast.Name)
        if isinstance(second, ast.Expr) and isinstance(second.value, ast.Constant)
        if isinstance(second.value.value, str)
    }


def schema_text() -> str:
    """The schema as it is shipped."""
    shipped = {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema()}
    return json.dumps(shipped, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    SCHEMA_FILE.write_text(schema_text(), encoding="utf-8")
