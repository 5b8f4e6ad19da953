"""The writers of a ledger and of several services, as one."""

from __future__ import annotations

from collections.abc import Mapping

from plans.crm_shop.workload.crew import Crew
from plans.crm_shop.workload.writer import Tally
from tests.history import LedgerWriters


class WriterGroups:
    """Starts, pauses and counts them together."""

    def __init__(self, ledger: LedgerWriters, crews: Mapping[str, Crew]) -> None:
        self._ledger, self._crews = ledger, crews
        self._started = False

    def start(self) -> None:
        self._started = True
        self._ledger.start()
        for crew in self._crews.values():
            crew.start()

    def pause(self) -> None:
        """Return when no transaction is open."""
        self._ledger.pause()
        for crew in self._crews.values():
            crew.pause()

    def resume(self) -> None:
        self._ledger.resume()
        for crew in self._crews.values():
            crew.resume()

    def stop(self) -> None:
        if not self._started:
            return
        self._started = False
        self._ledger.stop()
        for crew in self._crews.values():
            crew.stop()

    def tallies(self) -> dict[str, Tally]:
        """What each group of writers has done so far."""
        crews = {service: crew.tally() for service, crew in self._crews.items()}
        return {"ledger": self._ledger.tally(), **crews}
