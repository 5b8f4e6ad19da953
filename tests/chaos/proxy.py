"""A TCP proxy on 127.0.0.1 that cuts, stalls and truncates connections when it is told to."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from types import TracebackType
from urllib.parse import urlsplit, urlunsplit

HOST = "127.0.0.1"
CHUNK_BYTES = 1 << 16
CONNECT_S_MAX = 5.0
STALL_S_MAX = 60.0  # nothing that stalls does so for ever, whoever forgets it
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close() sends RST and drops what is queued


class _Pair:
    """A client's connection and the one to the server that goes with it."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client, self.server = client, server
        self._lock = threading.Lock()
        self._closed = False

    def close(self, *, reset: bool) -> None:
        """Close both; both sides see an end, or a reset if so wanted."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        for one in (self.client, self.server):
            with contextlib.suppress(OSError):
                if reset:
                    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                one.shutdown(socket.SHUT_RDWR)
            one.close()


class Proxy:
    """Stands before a server until closed; one thread accepts, two serve each connection."""

    def __init__(self, port: int) -> None:
        self._to = (HOST, port)
        self._flows = threading.Event()
        self._flows.set()
        self._lock = threading.Lock()
        self._pairs: set[_Pair] = set()
        self._left: int | None = None  # bytes until the connection that sends them is cut
        self._refuses = False
        self._listener = socket.create_server((HOST, 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def dsn(self, dsn: str) -> str:
        """`dsn`, by way of this proxy."""
        parts = urlsplit(dsn)
        login = f"{parts.username}:{parts.password}@" if parts.password else f"{parts.username}@"
        return urlunsplit(parts._replace(netloc=f"{login}{HOST}:{self.port}"))

    def cut(self) -> int:
        """Reset all connections; returns how many there were."""
        with self._lock:
            pairs, self._pairs = self._pairs, set()
        for pair in pairs:
            pair.close(reset=True)
        return len(pairs)

    def refuse(self) -> None:
        """Cut all connections, and take no new ones until `heal`."""
        self._refuses = True
        self.cut()

    def stall(self) -> None:
        """Pass nothing on, and lose nothing, until `heal`."""
        self._flows.clear()

    def truncate(self, after_bytes: int) -> None:
        """Cut one connection in the middle of what a server sends, after so many bytes."""
        with self._lock:
            self._left = after_bytes

    def heal(self) -> None:
        """Be a mere wire again."""
        with self._lock:
            self._left = None
        self._refuses = False
        self._flows.set()

    def close(self) -> None:
        """End everything."""
        self.heal()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        try:
            if self._refuses:
                raise ConnectionRefusedError
            server = socket.create_connection(self._to, CONNECT_S_MAX)
        except OSError:
            client.close()
            return
        server.settimeout(None)
        for one in (client, server):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        pair = _Pair(client, server)
        with self._lock:
            self._pairs.add(pair)
        threading.Thread(target=self._pump, args=(pair, client, server), daemon=True).start()
        self._pump(pair, server, client, counted=True)

    def _pump(
        self, pair: _Pair, giver: socket.socket, taker: socket.socket, *, counted: bool = False
    ) -> None:
        reset = False
        try:
            while data := giver.recv(CHUNK_BYTES):
                self._flows.wait(STALL_S_MAX)
                if counted and (part := self._last_part(data)) is not None:
                    taker.sendall(part)
                    break
                taker.sendall(data)
        except OSError:
            reset = True
        pair.close(reset=reset)
        with self._lock:
            self._pairs.discard(pair)

    def _last_part(self, data: bytes) -> bytes | None:
        """What is still to be sent before the cut; None if it does not come yet."""
        with self._lock:
            if self._left is None:
                return None
            if self._left >= len(data):
                self._left -= len(data)
                return None
            part, self._left = data[: self._left], None
            return part
