"""A link between a client and a server that counts bytes, and may be slow to answer.

Each piece of data is passed on `delay_ms` after it has come, in either direction, as on
a link with twice that as its round trip; pieces overtake nothing, and wait for nothing
but their time.  Connecting takes a round trip, too.
"""

from __future__ import annotations

import queue
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial

_PIECE = 1 << 16
_Pieces = queue.SimpleQueue[tuple[float, bytes]]


class Proxy:
    """Listens on a free port of the loopback while it is entered."""

    def __init__(self, port: int, delay_ms: float = 0) -> None:
        self.bytes = 0
        self.turns = 0  # how often the client spoke after the server had: round trips
        self._to = port
        self._delay_s = delay_ms / 1000
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])

    def __enter__(self) -> Proxy:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._to))
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            answered = threading.Event()
            answered.set()
            self._carry(client, server, partial(self._asked, answered), 2 * self._delay_s)
            self._carry(server, client, answered.set, 0.0)

    def _asked(self, answered: threading.Event) -> None:
        if answered.is_set():
            answered.clear()
            with self._lock:
                self.turns += 1

    def _carry(
        self,
        source: socket.socket,
        target: socket.socket,
        note: Callable[[], None],
        connecting_s: float,
    ) -> None:
        pieces: _Pieces = queue.SimpleQueue()
        ready_at = time.monotonic() + connecting_s
        threading.Thread(
            target=self._receive, args=(source, pieces, note, ready_at), daemon=True
        ).start()
        threading.Thread(target=self._send, args=(target, pieces), daemon=True).start()

    def _receive(
        self, source: socket.socket, pieces: _Pieces, note: Callable[[], None], ready_at: float
    ) -> None:
        data = b"-"
        while data:
            try:
                data = source.recv(_PIECE)
            except OSError:
                data = b""
            with self._lock:
                self.bytes += len(data)
            if data:
                note()
            pieces.put((max(ready_at, time.monotonic()) + self._delay_s, data))

    def _send(self, target: socket.socket, pieces: _Pieces) -> None:
        with suppress(OSError):  # who went away needs nothing more
            while True:
                due, data = pieces.get()
                time.sleep(max(0.0, due - time.monotonic()))
                if not data:
                    target.shutdown(socket.SHUT_WR)
                    return
                target.sendall(data)
