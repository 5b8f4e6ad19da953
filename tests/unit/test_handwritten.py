"""Hand-written revisions as a part of the rendered line."""

from __future__ import annotations

from pathlib import Path

import pytest

from plans.errors import NotReady
from plans.schema.ddl import TargetSchema
from toolkit.rendering.handwritten import following
from toolkit.revisions import scripts_of

REVISION = '"""Ü."""\n{type}; revision = {revision!r}\ndown_revision{of} = {down}  # Ü\n'


def write(directory: Path, revision: str, down: str, of: str = "", before: str = "x = 1") -> None:
    text = REVISION.format(type=before, revision=revision, of=of, down=down)
    (directory / f"{revision}.py").write_text(text, encoding="utf-8")


def test_the_first_ones_follow_and_the_others_stay(tmp_path: Path) -> None:
    write(tmp_path, "a", "None")
    write(tmp_path, "b", "None", of=": str | None")
    write(tmp_path, "c", "'a'")
    (tmp_path / "data.sql").write_text("SELECT 1")
    cache = tmp_path / "__pycache__"
    cache.mkdir()
    (cache / "a.pyc").write_bytes(b"")
    own = following(tmp_path, "0123")
    assert own.heads == ("b", "c")
    texts = {str(path): content.decode() for path, content in own.files.items()}
    assert sorted(texts) == ["a.py", "b.py", "c.py", "data.sql"]
    assert 'down_revision = "0123"  # Ü' in texts["a.py"]
    assert 'down_revision: str | None = "0123"  # Ü' in texts["b.py"]
    assert texts["c.py"] == (tmp_path / "c.py").read_text(encoding="utf-8")
    _, last = scripts_of("shop", TargetSchema((), ()), "digest", own.heads)
    assert 'down_revision = ("b", "c")' in last.text


def test_a_first_one_that_computes_what_it_follows_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "a", "dict().get('x')")
    with pytest.raises(NotReady, match=r"a\.py has no line `down_revision = None`"):
        following(tmp_path, "0123")


def test_what_alembic_cannot_read_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "a", "None", before="an error")
    with pytest.raises(NotReady, match="cannot be read"):
        following(tmp_path, "0123")
    with pytest.raises(NotReady, match="not a directory"):
        following(tmp_path / "none", "0123")
