"""Messages as places in a text: what is joined is what was there, wherever it lay."""

from __future__ import annotations

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cdc.messages import Messages

heads = st.integers(0, 70)
texts = st.lists(st.binary(min_size=5, max_size=12), max_size=6)


def lying(some: list[bytes], head: int) -> Messages:
    return Messages.of([b"#" * head + one for one in some], head)


def told(some: Messages) -> list[bytes]:
    return [some[n] for n in range(len(some))]


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(texts, heads), max_size=4), st.data())
def test_what_is_joined_is_what_was_there(
    parts: list[tuple[list[bytes], int]], more: st.DataObject
) -> None:
    chosen, expected = [], []
    for some, head in parts:
        places = [n for n in range(len(some)) if more.draw(st.booleans())]
        chosen.append(lying(some, head).only(np.array(places, np.int64)))
        expected += [some[n] for n in places]
    joined = Messages.joined(chosen)
    assert told(joined) == expected
    assert joined.kinds.tolist() == [one[0] for one in expected]
    assert joined.relations.tolist() == [int.from_bytes(one[1:5], "big") for one in expected]
