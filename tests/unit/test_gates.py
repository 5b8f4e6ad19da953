from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from plans.errors import GateClosed
from plans.model import Limits
from toolkit.gates import Crossing, Gate, Readiness, decide, require_open

LIMITS = Limits(lag_bytes_max=100, wal_retained_bytes_max=1000, dirty_keys_max=10)
READY = Readiness(
    stream_live=True,
    lag_bytes=100,
    retained_bytes=1000,
    prepared_transactions=(),
    dirty_keys=10,
    differences=0,
    drifted=(),
)


def gates_of(facts: Readiness, limits: Limits) -> list[Gate]:
    return decide(facts, limits, Path("our plan.yaml"))


def test_a_remedy_names_the_plan() -> None:
    remedies = [gate.remedy for gate in gates_of(READY, LIMITS)]
    commands = [one for one in remedies if "`dbsplit" in one]
    assert len(commands) > 3
    assert all("our plan.yaml" in one for one in commands)


def test_everything_at_its_limit_is_open() -> None:
    require_open(gates_of(READY, LIMITS))


@pytest.mark.parametrize(
    ("change", "gate"),
    [
        ({"stream_live": False}, "stream"),
        ({"lag_bytes": 101}, "lag"),
        ({"retained_bytes": 1001}, "retained_wal"),
        ({"prepared_transactions": ("a",)}, "prepared_transactions"),
        ({"dirty_keys": 11}, "dirty_keys"),
        ({"verification_s": 2.6}, "verification"),
        ({"differences": 1}, "validated"),
        ({"differences": None}, "validated"),
        ({"drifted": ("public.orders",)}, "schema"),
        ({"unpublished": ("public.orders",)}, "publication"),
    ],
)
def test_each_fact_closes_its_gate_and_no_other(change: dict[str, Any], gate: str) -> None:
    gates = gates_of(replace(READY, **change), LIMITS)

    assert [one.gate for one in gates if not one.ok] == [gate]
    with pytest.raises(GateClosed, match=gate) as caught:
        require_open(gates)
    assert caught.value.hint


def test_what_has_to_be_proven_in_the_pause_may_take_half_of_it() -> None:
    facts = replace(READY, verification_s=2.5)
    (gate,) = [one for one in gates_of(facts, LIMITS) if one.gate == "verification"]
    assert (gate.ok, gate.limit) == (True, "2.5 s")
    longer = LIMITS.model_copy(update={"write_pause_s_max": 30.0})
    assert all(one.ok for one in gates_of(replace(READY, verification_s=15.0), longer))


def test_what_could_not_be_compared_is_not_equal() -> None:
    (gate,) = [
        g for g in gates_of(replace(READY, differences=None), LIMITS) if g.gate == "validated"
    ]
    assert not gate.ok
    assert gate.observed == "not compared to the end"


def test_all_closed_gates_are_told_at_once() -> None:
    gates = gates_of(replace(READY, lag_bytes=101, dirty_keys=11), LIMITS)
    with pytest.raises(GateClosed, match=r"lag is 101.*dirty_keys is 11"):
        require_open(gates)


@pytest.mark.parametrize(("free_days", "is_open"), [(6.9, False), (7.0, True)])
def test_the_boundary_has_a_gate_if_the_plan_asks_for_one(
    free_days: float,
    is_open: bool,  # noqa: FBT001
) -> None:
    facts = replace(READY, crossing=Crossing(free_days, "crm_api: SELECT 1"))
    asked = LIMITS.model_copy(update={"crossing_free_days_min": 7.0})

    (gate,) = [one for one in gates_of(facts, asked) if one.gate == "boundary"]
    assert gate.ok is is_open
    assert "crm_api: SELECT 1" in gate.observed
    assert gates_of(facts, LIMITS) == gates_of(READY, LIMITS)
