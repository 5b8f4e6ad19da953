"""kill -9 of a server while changes are streamed: the stream goes on, or can be started again."""

from __future__ import annotations

import os
import signal
import time

import pytest

from tests.crash.line import Line
from toolkit.servers import Server

DOWN_S = 2.0


@pytest.fixture
def servers(source_server: Server, target_server: Server) -> dict[str, Server]:
    return {"source": source_server, "target": target_server}


@pytest.mark.parametrize("moved", [False, True], ids=["following", "moved"])
@pytest.mark.parametrize("side", ["source", "target"])
def test_a_server_killed_under_load(
    line: Line,
    servers: dict[str, Server],
    side: str,
    moved: bool,  # noqa: FBT001
) -> None:
    line.follow()
    if moved:
        line.done("cutover")
    servers[side].kill()
    time.sleep(DOWN_S)
    servers[side].start()
    time.sleep(DOWN_S)
    line.ensure_stream()
    line.writes_flow()
    line.prove()
    line.done("rollback" if moved else "cutover")
    line.prove()


@pytest.mark.parametrize("cut", [False, True], ids=["whole", "cut"])
def test_a_target_and_the_cutover_killed_within_the_pause(
    line: Line, target_server: Server, *, cut: bool
) -> None:
    """To let the writers into the source again, no target has to answer.

    Not even to a stream that has lost its sessions, and cannot begin anew without one.
    """
    line.follow()
    stop = f"prepare:{line.stream_pid}"  # or it would be quicker than we are
    line.killed_at("cutover.fenced", "cutover", DBSPLIT_TEST_STOP=stop)
    target_server.kill()
    if cut:
        assert line.cut("stream") == 1
    os.kill(line.stream_pid, signal.SIGCONT)
    line.writes_flow()
    target_server.start()
    line.ensure_stream()
    line.await_beat()
    line.done("cutover")
    line.prove()
