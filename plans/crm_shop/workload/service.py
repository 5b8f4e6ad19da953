"""The bundled case's writers, by role, as a crew."""

from __future__ import annotations

import secrets
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from types import MappingProxyType
from typing import Final

from psycopg.conninfo import make_conninfo

from plans.crm_shop.workload.crew import Crew
from plans.crm_shop.workload.crm_operations import CRM_OPERATIONS
from plans.crm_shop.workload.mes_operations import MES_OPERATIONS
from plans.crm_shop.workload.routing import Routing
from plans.crm_shop.workload.shop_operations import SHOP_OPERATIONS
from plans.crm_shop.workload.writer import RETRY_S_MAX, Writer

WRITERS: Final = 6
RATE: Final = 300.0

SERVICE_OF_ROLE: Final = MappingProxyType({"shop_api": "shop", "crm_api": "crm", "mes_api": "shop"})
_OPERATIONS: Final = MappingProxyType(
    {"shop_api": SHOP_OPERATIONS, "crm_api": CRM_OPERATIONS, "mes_api": MES_OPERATIONS}
)
# The first three writers are one of each role.
_ROLES: Final = ("shop_api", "crm_api", "mes_api", "shop_api", "crm_api", "shop_api")


def make_crew(
    routing_file: Path,
    history_dir: Path,
    *,
    writers: int = WRITERS,
    rate: float = RATE,
    retry_s_max: float = RETRY_S_MAX,
    as_roles: bool = False,
) -> Crew:
    """Writers that together begin `rate` transactions a second at most.

    With `as_roles` each logs in under the name of its role, whatever user the routing
    names, and with that user's password.
    """
    run = secrets.token_hex(4)
    roles = islice(cycle(_ROLES), writers)
    place = _place_of_role if as_roles else _place
    return Crew(
        [
            Writer(
                f"{role}-{number}",
                _OPERATIONS[role],
                place=partial(place, Routing(routing_file), role),
                history_dir=history_dir,
                interval_s=writers / rate,
                seed=run,
                retry_s_max=retry_s_max,
            )
            for number, role in enumerate(roles, 1)
        ]
    )


def _place(routing: Routing, role: str) -> str:
    return routing.place(role, SERVICE_OF_ROLE[role])


def _place_of_role(routing: Routing, role: str) -> str:
    return make_conninfo(_place(routing, role), user=role)
