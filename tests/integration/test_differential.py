"""Random transactions on random tables: ours has what a native subscription has."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from tests.differential import Case, cases, differential
from toolkit.servers import Server

CASES = 3


@settings(
    max_examples=CASES,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=list(HealthCheck),
)
@given(case=cases())
def test_ours_is_what_a_native_subscription_makes_of_the_same_log(
    case: Case,
    source_server: Server,
    target_server: Server,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    directory = tmp_path_factory.mktemp("case")
    with differential(case, source_server, target_server, directory) as one:
        one.run()
