"""kill -9 of `cutover` and `rollback`: repeated or left alone, the move ends well."""

from __future__ import annotations

import random
import signal
from pathlib import Path

import pytest

from tests.crash.line import Line
from tests.crash.points import MOVE
from tests.crash.traffic import BOOKS, DESK, SERVICES
from tests.processes import KILLED
from toolkit.servers_watchdog import wait_until

RANDOM_KILLS = 5
DECIDED = MOVE[MOVE.index("cutover.owns") :]
"""From here on a killed move is finished; before, it is given up."""

STREAM_ENDS_IT_S_MAX = 20.0


@pytest.mark.parametrize("point", MOVE)
def test_a_move_killed_and_called_again(following: Line, point: str) -> None:
    line = following
    for verb, there in (("cutover", set(SERVICES)), ("rollback", set())):
        line.killed_at(point, verb, nth=4 if point == "cutover.fence_table" else 1)
        ended = line.done(verb)
        assert ended.result["outcome"] == ("moved" if there else "returned")
        assert line.moved() == there
    line.prove()


@pytest.mark.parametrize("verb", ["cutover", "rollback"])
@pytest.mark.parametrize("point", ["cutover.fence_table", "cutover.sequences"])
def test_a_move_killed_within_the_pause_and_never_called_again(
    following: Line, verb: str, point: str
) -> None:
    """The stream process lets the writers in again where they were."""
    line = following
    if verb == "rollback":
        line.done("cutover")
    before, phases = line.moved(), line.phases()
    line.killed_at(point, verb, nth=3 if point == "cutover.fence_table" else 1)
    assert line.writes_flow() < STREAM_ENDS_IT_S_MAX
    line.await_phases(phases)
    assert line.moved() == before
    line.prove()
    if verb == "rollback":
        line.done("rollback")


@pytest.mark.parametrize("verb", ["cutover", "rollback"])
def test_a_move_killed_after_the_decision_and_never_called_again(
    following: Line, verb: str
) -> None:
    """The stream process opens the new side and switches the traffic."""
    line = following
    if verb == "rollback":
        line.done("cutover")
    line.killed_at("cutover.owns", verb)
    assert line.writes_flow() < STREAM_ENDS_IT_S_MAX
    moved = verb == "cutover"
    line.await_moved(set(SERVICES) if moved else set())
    line.await_phases(dict.fromkeys(SERVICES, "moved" if moved else "following"))
    line.prove()
    if moved:
        line.done("rollback")


def test_a_move_killed_while_it_announced_itself(following: Line) -> None:
    """What was told to make ready is told that nothing came of it."""
    line = following
    told = len(line.switched())
    ended = line.run("cutover", DBSPLIT_TEST_KILL="prepare:parent")
    assert ended.code == KILLED, ended
    line.await_phases(dict.fromkeys(SERVICES, "following"))
    line.await_switched(told + 2)
    assert line.switched()[told:] == ["prepare", "back"]
    line.prove()


def test_a_move_killed_while_it_switched(following: Line) -> None:
    line = following
    ended = line.run("cutover", DBSPLIT_TEST_KILL="switch:parent")
    assert ended.code == KILLED, ended
    line.done("cutover")
    line.prove()
    ended = line.run("rollback", DBSPLIT_TEST_KILL="back:parent")
    assert ended.code == KILLED, ended
    line.done("rollback")
    line.prove()


def test_the_stream_killed_just_before_the_pause(following: Line) -> None:
    """Without a stream nothing drains: the move is given up, and the source writable."""
    line = following
    ended = line.run("cutover", DBSPLIT_TEST_KILL=f"prepare:{line.stream_pid}")
    assert ended.code == 8, ended
    assert line.await_stream() == KILLED
    assert line.moved() == set()
    line.writes_flow()
    line.start_stream()
    line.done("cutover")
    line.prove()
    line.done("rollback")


def test_both_killed_within_the_pause(following: Line) -> None:
    """Nobody is left to let the writers in; a stream that is started does it."""
    line = following
    kill = f"prepare:{line.stream_pid}"
    line.killed_at("cutover.fenced", "cutover", DBSPLIT_TEST_KILL=kill)
    assert line.await_stream() == KILLED
    line.start_stream()
    line.writes_flow()
    assert line.moved() == set()
    line.prove()


def test_both_killed_after_the_decision(following: Line) -> None:
    """Nobody is left to open the new side; the same command does it, and needs no stream."""
    line = following
    kill = f"switch:{line.stream_pid}"
    line.killed_at("cutover.switched", "cutover", DBSPLIT_TEST_KILL=kill)
    assert line.await_stream() == KILLED
    line.start_stream()
    line.done("cutover")
    line.prove()
    line.done("rollback")


def test_a_move_called_again_while_the_stream_is_ending_it(following: Line) -> None:
    """The command waits for the recovery instead of refusing."""
    line = following
    line.kill_stream()
    line.start_stream(DBSPLIT_TEST_SLOW="4")
    line.killed_at("cutover.owns", "cutover")
    assert line.done("cutover").result["outcome"] == "moved"
    line.prove()
    line.done("rollback")


def test_a_process_that_lost_its_role_changes_nothing(following: Line) -> None:
    """One that was asleep while it was given up and another took its place wakes too late."""
    line = following
    with line.running("cutover", DBSPLIT_TEST_STOP="prepare:parent") as asleep:
        told = len(line.switched())
        line.await_switched(told + 1)
        assert wait_until(lambda: _is_stopped(asleep.pid), timeout_s=10)
        assert line.cut("cutover") == 1
        line.await_switched(told + 2)  # the stream process has given it up
        line.done("cutover")
        asleep.send_signal(signal.SIGCONT)
        code = asleep.wait(60)
    assert line.phases() == dict.fromkeys(SERVICES, "moved")
    assert "has moved to service books" in line.try_to_write_to_source()
    assert code == 9
    line.prove()
    line.done("rollback")


def _is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def test_a_move_of_one_service_killed_while_the_other_stays(following: Line) -> None:
    """Tables of which both own a part are fenced in part, and opened in part."""
    line = following
    for point, verb, service, there in (
        ("cutover.fenced", "cutover", BOOKS, {BOOKS}),
        ("cutover.opened", "cutover", DESK, {BOOKS, DESK}),
        ("cutover.owns", "rollback", BOOKS, {DESK}),
        ("cutover.sequences", "rollback", DESK, set()),
    ):
        line.killed_at(point, verb, "--service", service)
        if point == "cutover.sequences":  # the books write to the source, the desk to its own
            line.await_phases({BOOKS: "following", DESK: "moved"})
            assert line.step_of_numbers() > 1, "both would be given the same numbers"
        line.done(verb, "--service", service)
        assert line.moved() == there
        line.writes_flow()
    line.prove()


@pytest.mark.release
def test_moves_killed_at_random_times(following: Line) -> None:
    line = following
    took_s = line.done("cutover").took_s
    line.done("rollback")
    killed = 0
    for number in range(RANDOM_KILLS):
        verb = "rollback" if line.moved() else "cutover"
        place = (number + random.random()) / RANDOM_KILLS  # noqa: S311
        killed += line.killed_after(took_s * (0.05 + 0.95 * place), verb)
        line.done(verb)
    line.prove()
    assert killed >= RANDOM_KILLS // 2
