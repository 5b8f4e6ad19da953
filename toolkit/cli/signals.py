"""What a signal does to a verb: it stops in order, or is interrupted as by Ctrl-C."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


def stop_on_signals() -> threading.Event:
    """An event that SIGTERM and Ctrl-C set, from now on; nothing is interrupted."""
    stop = threading.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: stop.set())
    return stop


@contextmanager
def interrupted_by(
    *signums: signal.Signals, first: Callable[[], object] = lambda: None
) -> Iterator[None]:
    """Let these signals raise KeyboardInterrupt, once `first` was called."""

    def interrupt(*_: object) -> None:
        first()
        raise KeyboardInterrupt

    before = {signum: signal.signal(signum, interrupt) for signum in signums}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
