"""kill -9 of `prepare` and `copy`: the same command again goes on, and nothing is lost."""

from __future__ import annotations

import random
import subprocess

from tests.crash.line import Line
from tests.crash.points import COPY, PREPARE
from tests.processes import KILLED
from tests.verbs import DBSPLIT

RANDOM_KILLS = 4


def test_prepare_and_copy_killed_at_every_point_under_load(line: Line) -> None:
    # No table is large; `test_copy_resumed` dies between chunks.
    points = [point for point in COPY if point != "copy.chunk"]
    line.traffic.start()
    for point in PREPARE:
        line.killed_at(point, "prepare")
        line.writes_flow()
    line.done("prepare")
    for point in points:
        # Not the first time, where it comes more often: some is done, some is not.
        nth = {"copy.table": 3, "copy.data": 4, "copy.built": 3, "copy.rest": 2}.get(point, 1)
        line.killed_at(point, "copy", nth=nth)
        line.writes_flow()
    line.done("copy")
    line.start_stream()
    line.prove()
    assert line.kills == len(PREPARE) + len(points)


def test_prepare_and_copy_killed_at_random_times_under_load(line: Line) -> None:
    line.traffic.start()
    for verb in ("prepare", "copy"):
        kills = 0
        while kills < RANDOM_KILLS:
            # From the first connection to the end, as far as a loaded machine can be foreseen.
            killed = line.killed_after(random.uniform(0.1, 1.5), verb)  # noqa: S311
            kills += killed
            line.writes_flow()
            if not killed:
                break
        line.done(verb)
    line.start_stream()
    line.prove()


def test_prepare_and_copy_killed_in_between_do_not_hide_a_second_split(line: Line) -> None:
    """What a killed copy has left does not look like a copy that is done."""
    line.traffic.start()
    line.done("prepare")
    line.killed_at("copy.data", "copy", nth=2)
    streamed = line.run("stream", "--until-caught-up")
    assert streamed.code == 4, streamed
    assert "not copied yet" in streamed.said
    line.done("copy")
    line.start_stream()
    line.prove()


def test_the_program_as_it_is_installed_killed_and_called_again(line: Line) -> None:
    """The other tests fork theirs, which spares the imports; a shell starts this one."""

    def run(verb: str, at: str) -> int:
        environment = line.environment | {"DBSPLIT_CRASH_AT": at}
        done = subprocess.run([DBSPLIT, verb, line.plan], env=environment, timeout=120, check=False)
        return done.returncode

    line.traffic.start()
    for verb, point in (
        ("prepare", "prepare.publication"),
        ("copy", "copy.data:2"),
        ("stream", "stream.committed:2"),
        ("stream", "stream.applied:2"),
    ):
        assert run(verb, at=point) == KILLED
        if verb != "stream":
            assert run(verb, at="") == 0
    line.start_stream()
    line.prove()
