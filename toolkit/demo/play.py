"""The steps of the demo, one after the other.

The steps that a user would do are the user's own commands (`toolkit.demo.verbs`).  The
rest is what surrounds them: applications that never stop writing, and a look afterwards
for each write that was acknowledged to them.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from cdc.connect import connect
from plans.crm_shop.workload.check import check_history
from plans.errors import GateClosed, GivenUp, RowsDiffer
from toolkit.demo import evidence, stage
from toolkit.demo.applications import Applications, applications_at_work, switch_command
from toolkit.demo.facts import Facts
from toolkit.demo.orders import move_orders
from toolkit.demo.report import table_rows
from toolkit.demo.sampling import Sampler
from toolkit.demo.stage import SOURCE, Stage
from toolkit.demo.telling import Began, Ended, Said, Sample, Tell
from toolkit.demo.verbs import Verbs
from toolkit.report.amounts import many
from toolkit.report.model import Event

WRITERS: Final = 6
RATE: Final = 120.0  # transactions a second; two cores have a split to do beside them
READY_S_MAX: Final = 180.0
_POLL_S: Final = 1.0  # each look is a process that loads the plan and four catalogs
_ATTEMPTS: Final = 3  # of a move that a busy machine makes give up
_AWAITED: Final = frozenset({"stream", "lag", "retained_wal", "dirty_keys"})


@dataclass(slots=True, kw_only=True)
class Play:
    """What is needed for the steps, and what they found out."""

    directory: Path
    plan: Path
    dwell_s: float
    tell: Tell
    follower: Sequence[str]
    facts: Facts = field(default_factory=Facts)
    samples: Sequence[Sample] = ()
    stage: Stage = field(init=False)
    verbs: Verbs = field(init=False)
    applications: Applications = field(init=False)

    def run(self) -> None:
        """From the first application at work to the orchestrator's first order."""
        directory = self.directory
        stage.write_plan(self.plan, switch_command(directory))
        self.facts.split = stage.SPLIT
        self.verbs = Verbs(self.plan, directory / "log", self.stage.environment)
        shared = dict.fromkeys(("crm", "shop"), self.stage.dsn(SOURCE))
        with ExitStack() as stack:
            with self.step("writers", "Let six applications write to it, as three roles"):
                work = applications_at_work(directory, shared, writers=WRITERS, rate=RATE)
                self.applications = stack.enter_context(work)
            sampler = Sampler(stage.SPLIT, self.stage, self.applications, self.tell)
            self.samples = stack.enter_context(sampler).samples
            try:
                self._split(stack)
            except RowsDiffer as differ:
                self.facts.stopped = str(differ)
            self._rest()

    def _split(self, stack: ExitStack) -> None:
        self._check_plan()
        with self.step("prepare", "Prepare: schemas, publication, slot"):
            self._verb("prepare")
        with self.step("copy", "Copy all rows as of one moment") as said:
            self.facts.rows = self._verb("copy")["rows"]
            said.append(f"{self.facts.rows:,} rows")
        with self.step("stream", "Follow what the applications change meanwhile") as said:
            stack.enter_context(self.verbs.following(self.follower))
            self._await_ready("stream")
            said.append("caught up")
        self._compare("validate", "Compare every row, while they write")
        self._move("cutover", "cutover 1", "Cut over: each service leads in its own database")
        self._dwell("own", "The applications write to the new databases")
        self._compare("validate-back", "Compare every row, the other way round")
        self._move("rollback", "rollback", "Roll back: the shared database leads again")
        self._dwell("shared", "The applications write to the shared database again")
        self._move("cutover", "cutover 2", "Cut over again")
        self._dwell("own-again", "The applications write to the new databases")
        self._rest()
        try:
            self._compare("validate-end", "Compare every row, with all at rest")
        except RowsDiffer:
            self._look_for_writes()  # whether it was one that somebody relies on
            raise
        self._look_for_writes()
        self._complete()

    def _check_plan(self) -> None:
        with self.step("check", "Check the plan against the database") as said:
            lists = self._verb("plan", "check")["lists"]
            said += [f"{one['total']:,} {one['name'].replace('_', ' ')} listed" for one in lists]

    def _compare(self, step: str, title: str) -> None:
        """RowsDiffer unless every row is proven equal."""
        with self.step(step, title) as said:
            for _ in range(_ATTEMPTS):
                result = self._verb("validate", allowed={RowsDiffer.exit_code}, step=step)
                self.facts.comparison, self.facts.tables = result, table_rows(result)
                if self.facts.differences is not None:
                    break  # else a busy machine kept it from finding out
            self._require_equal()
            rows = sum(table.rows or 0 for table in self.facts.tables)
            said.append(f"{rows:,} rows of {len(self.facts.tables)} tables are equal")

    def _require_equal(self) -> None:
        unequal = [f"{t.service}.{t.table}" for t in self.facts.tables if not t.is_equal]
        differences = self.facts.differences
        if differences is None:
            raise RowsDiffer(f"could not be compared to the end: {', '.join(unequal)}")
        if differences or unequal:
            differ = many(differences, "row differs", "rows differ")
            raise RowsDiffer(f"{differ}, in {', '.join(unequal)}")

    def _move(self, verb: str, what: str, title: str) -> None:
        with self.step(what.replace(" ", "-"), title) as said:
            result = self._try_to_move(verb, what)
            self.facts.moves.append((what, result))
            said.append(f"nobody could write for {result['write_pause_ms']:,.0f} ms")

    def _try_to_move(self, verb: str, what: str) -> dict[str, Any]:
        """Move, again if it was given up: nothing is lost by that."""
        attempt = 1
        while True:
            try:
                options = ("--yes", "--certificates", str(self.directory))
                return self._verb(verb, options=options, step=what)
            except (GateClosed, GivenUp) as error:
                self._note(f"{what}, attempt {attempt}: {error}")
                if attempt == _ATTEMPTS:
                    raise
            attempt += 1
            self._await_ready(what)

    def _dwell(self, step: str, title: str) -> None:
        with self.step(step, title) as said:
            done = self.applications.work(self.dwell_s, self.verbs.require_stream)
            said.append(f"{done:,} writes acknowledged")

    def _rest(self) -> None:
        self.facts.acknowledged = self.applications.rest().acknowledged

    def _look_for_writes(self) -> None:
        history = self.applications.history
        with self.step("history", "Look for every write that was acknowledged") as said:
            places = {service: self.stage.dsn(service) for service in ("crm", "shop")}
            found = self.facts.history = check_history(history, places)
            said.append(
                f"{found.acknowledged:,} acknowledged, {found.missing} missing,"
                f" {found.doubled} doubled"
            )

    def _complete(self) -> None:
        """The end of the split, unless something is wrong: then the source is kept as it is."""
        history = self.facts.history
        self.facts.changes = evidence.read_changes(self.stage)
        with connect(self.stage.dsn("orchestrator"), name="dbsplit demo") as orchestrator:
            self.facts.resolved = evidence.count_resolved(orchestrator)
            if (listed := self.facts.listed("contradictions")) is not None:
                self.facts.contradictions = evidence.read_contradictions(orchestrator, listed)
        if history is None or not history.whole:
            return
        with self.step("complete", "Complete: retire the shared tables") as said:
            steps = self._verb("complete", options=("--yes",))["steps"]
            said.append(f"{len(steps)} steps")
        with self.step("orders", "Let the orchestrator move orders") as said:
            dsn = self.stage.dsn("orchestrator", role="orchestrator")
            moves = self.facts.orders = move_orders(dsn)
            said += [moves.accepted, f"refused: {moves.refused}"]

    def look_back(self, *, began: float, ended: float) -> None:
        """Read what the databases say of the whole."""
        facts = self.facts
        facts.servers = evidence.read_servers(self.stage)
        if not facts.changes:
            facts.changes = evidence.read_changes(self.stage)
        if (listed := facts.listed("illegal_transitions")) is not None:
            facts.transitions = evidence.illegal_transitions(listed)
        with connect(self.stage.dsn(SOURCE), name="dbsplit demo") as source:
            facts.phases = evidence.read_phases(
                source, facts.split, stage.SERVICES, began=began, ended=ended
            )
            facts.pauses = evidence.read_pauses(source, facts.split, facts.moves)

    def _await_ready(self, step: str) -> None:
        """Wait until the stream is near enough to its source for a move to begin."""
        deadline = time.monotonic() + READY_S_MAX
        while True:
            self.verbs.require_stream()
            status = self._verb("status", step=step)
            closed = [g for g in status["gates"] if g["gate"] in _AWAITED and not g["ok"]]
            if status["gates"] and not closed:
                return
            if time.monotonic() > deadline:
                said = "; ".join(f"{g['gate']} is {g['observed']}" for g in closed)
                raise GateClosed(
                    f"not ready after {READY_S_MAX:.0f} s: {said or 'still ' + status['phase']}",
                    hint="the machine is too busy for the applications and the split",
                )
            time.sleep(_POLL_S)

    def _verb(
        self,
        *words: str,
        options: Sequence[str] = (),
        allowed: Collection[int] = (),
        step: str = "",
    ) -> dict[str, Any]:
        return self.verbs.run(
            *words,
            options=options,
            allowed=allowed,
            hear=lambda line: self.hear(step or words[-1], line),
        )

    def hear(self, step: str, line: dict[str, Any]) -> None:
        """Pass on what a verb says."""
        self.tell(Said(step, line))

    def _note(self, text: str) -> None:
        self.facts.events.append(Event(at=time.time(), text=text))

    @contextmanager
    def step(self, step: str, title: str) -> Iterator[list[str]]:
        """Tell of a step before and after; what is put into the list sums it up."""
        self.tell(Began(step, title))
        began, said = time.monotonic(), list[str]()
        yield said
        summary = ", ".join(said)
        self.tell(Ended(step, title, time.monotonic() - began, summary))
        self._note(f"{title}: {summary}" if summary else title)
