"""Memory that was freed is used again and not mapped anew, and what stays is left alone."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

ROUNDS = 40
PAGES = 2048  # of eight megabytes

FAULTS = f"""
import resource
from cdc.memory import keep_freed
keep_freed()
for number in range({ROUNDS}):
    if number == 2:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [bytearray({PAGES} * 1024) for _ in range(4)]
    del blocks
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is the GNU C library's")
def test_blocks_of_megabytes_come_from_what_was_freed() -> None:
    command = [sys.executable, "-c", FAULTS]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    assert int(done.stdout) < PAGES  # otherwise some of them in each round


LOOKS = """
import gc
from cdc.memory import collect_seldom
collect_seldom()
looks = gc.get_stats()[0]["collections"]
kept = [[number] for number in range(20_000)]
print(gc.get_stats()[0]["collections"] - looks)
"""


def test_objects_that_stay_are_not_looked_through_for_cycles() -> None:
    command = [sys.executable, "-c", LOOKS]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    assert int(done.stdout) == 0  # otherwise one for each 700
