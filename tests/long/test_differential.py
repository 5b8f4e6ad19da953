"""Many random cases, on each version; a case that fails is made smaller."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings

from tests.conftest import require_version
from tests.differential import Case, cases, differential
from toolkit.servers import running_server

CASES = 6
TRANSACTIONS_MAX = 12
RELEASE = pytest.mark.release


@pytest.mark.parametrize(
    "version", [pytest.param("15", marks=RELEASE), pytest.param("16", marks=RELEASE), "18"]
)
def test_ours_is_what_a_native_subscription_makes_of_the_same_log(
    version: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    require_version(version)
    with running_server(version=version) as source, running_server(version=version) as target:

        @settings(
            max_examples=CASES,
            suppress_health_check=list(HealthCheck),
        )
        @given(case=cases(TRANSACTIONS_MAX))
        def go(case: Case) -> None:
            directory = tmp_path_factory.mktemp("case")
            with differential(case, source, target, directory) as one:
                one.run()

        go()
