"""Which transactions a snapshot sees, told without their epoch."""

from __future__ import annotations

import pytest

from cdc.readback import sees

EPOCH = 1 << 32


@pytest.mark.parametrize(
    ("snapshot", "xids", "seen"),
    [
        ("10:10:", [], True),
        ("10:10:", [7, 9], True),
        ("10:10:", [10], False),  # it runs, and no later one has ended
        ("10:12:10", [11], True),
        ("10:12:10", [9, 10], False),
        (f"{EPOCH + 5}:{EPOCH + 8}:{EPOCH + 5},{EPOCH + 7}", [4, 6], True),
        (f"{EPOCH + 5}:{EPOCH + 8}:{EPOCH + 5},{EPOCH + 7}", [7], False),
        (f"{EPOCH - 2}:{EPOCH + 4}:{EPOCH - 2}", [EPOCH - 1, 3], True),  # of two epochs
        (f"{EPOCH - 2}:{EPOCH + 4}:{EPOCH - 2}", [EPOCH - 2], False),
        (f"{EPOCH - 1}:{EPOCH - 1}:", [3], False),  # of the epoch that begins
    ],
)
def test_what_is_in_progress_is_not_seen(snapshot: str, xids: list[int], seen: bool) -> None:  # noqa: FBT001
    assert sees(snapshot, xids) is seen
