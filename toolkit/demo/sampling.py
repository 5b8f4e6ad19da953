"""Looking at the split a few times a second, from a thread, reading only."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Final

import psycopg

from cdc.connect import Connection, connect
from plans import names
from plans.crm_shop.workload.process import WorkloadFailed
from plans.errors import SplitError
from toolkit import state
from toolkit.demo.applications import Applications
from toolkit.demo.stage import SOURCE, Stage
from toolkit.demo.telling import Sample
from toolkit.observe import stream_lag
from toolkit.state import Phase

INTERVAL_S: Final = 0.25
_STATEMENT_MS_MAX: Final = 2000
_FED: Final = frozenset({"orchestrator"})  # owns nothing, so that nothing ever comes back from it


class Sampler:
    """Takes samples while its block runs, and keeps them all."""

    def __init__(
        self,
        split: str,
        stage: Stage,
        applications: Applications,
        heard: Callable[[Sample], None],
    ) -> None:
        self.samples: list[Sample] = []
        self._split = split
        self._stage = stage
        self._applications = applications
        self._heard = heard
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="demo samples", daemon=True)
        self._connections: dict[str, Connection] = {}

    def __enter__(self) -> Sampler:
        """Begin."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            while not self._stop.wait(INTERVAL_S):
                try:
                    self._take()
                except WorkloadFailed:
                    return  # the main thread meets it too, and tells
        finally:
            self._disconnect()

    def _take(self) -> None:
        acknowledged, at = self._applications.stats().acknowledged, time.time()
        last = self.samples[-1] if self.samples else None
        per_s = (acknowledged - last.acknowledged) / (at - last.at) if last else 0.0
        phases, lag = self._look()
        sample = Sample(at=at, acknowledged=acknowledged, per_s=per_s, phases=phases, lag_bytes=lag)
        self.samples.append(sample)
        self._heard(sample)

    def _look(self) -> tuple[Mapping[str, str], Mapping[str, int]]:
        """Phase and lag of each service, of none if they cannot be had at this moment."""
        try:
            phases = state.phases(self._to(SOURCE), self._split)
            return (
                {service: phase.value for service, phase in phases.items()},
                {service: self._lag(service, phase) for service, phase in phases.items()},
            )
        except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
            return {}, {}  # not prepared yet, or complete
        except (psycopg.Error, SplitError):
            self._disconnect()
            return {}, {}

    def _lag(self, service: str, phase: Phase) -> int:
        source, target = self._to(SOURCE), self._to(service)
        if phase in (Phase.PLANNED, Phase.PREPARED, Phase.COMPLETED):
            return 0
        if phase is Phase.MOVED and service not in _FED:
            return stream_lag(target, source, names.back_stream(self._split, service))
        return stream_lag(source, target, names.stream(self._split, service))

    def _to(self, name: str) -> Connection:
        if name not in self._connections:
            connection = connect(self._stage.dsn(name), name="dbsplit demo")
            connection.execute("SELECT set_config('statement_timeout', %s, false)", [_MS])
            self._connections[name] = connection
        return self._connections[name]

    def _disconnect(self) -> None:
        for connection in self._connections.values():
            connection.close()
        self._connections.clear()


_MS: Final = str(_STATEMENT_MS_MAX)
