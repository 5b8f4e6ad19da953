"""Chromium without a window, driven through the pipe that its DevTools speak on."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser")
MISSING = "no chromium: apt-get install -y --no-install-recommends chromium"


@dataclass
class Page:
    """One page; `said` is what it wrote to its console, errors included."""

    read: int
    write: int
    session: str = ""
    number: int = 0
    buffer: bytes = b""
    said: list[str] = field(default_factory=list)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A command of the DevTools protocol, and its answer."""
        self.number += 1
        told: dict[str, Any] = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            told["sessionId"] = self.session
        os.write(self.write, json.dumps(told).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self.number:
                assert "error" not in answer, answer
                return dict(answer.get("result", {}))
            self._hear(answer)

    def value(self, expression: str) -> Any:
        """What an expression is on the page."""
        done = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    def press(self, key: str) -> None:
        """Press a key and let it go."""
        code = {"Enter": 13, "Escape": 27}[key]
        for kind in ("keyDown", "keyUp"):
            text = {"text": "\r"} if key == "Enter" and kind == "keyDown" else {}
            self.call(
                "Input.dispatchKeyEvent",
                type=kind, key=key, code=key, windowsVirtualKeyCode=code, **text,
            )  # fmt: skip

    def _hear(self, event: dict[str, Any]) -> None:
        if event.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
            self.said.append(json.dumps(event["params"]))

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self.buffer:
            block = os.read(self.read, 65536)
            assert block, "chromium has ended"
            self.buffer += block
        one, _, self.buffer = self.buffer.partition(b"\0")
        return dict(json.loads(one))


@contextmanager
def opened(path: Path, profile: Path) -> Iterator[Page]:
    """A page that has loaded; the browser ends with the block."""
    assert PROGRAM is not None, MISSING
    to_browser, ours_out = os.pipe()
    ours_in, from_browser = os.pipe()
    # DevTools read from descriptor 3 and write to 4.  Only bash knows descriptors of two digits.
    process = subprocess.Popen(
        [
            "/bin/bash", "-c", f'exec "$0" "$@" 3<&{to_browser} 4>&{from_browser}', PROGRAM,
            "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe",
            f"--user-data-dir={profile}", "--window-size=1480,1100", "about:blank",
        ],
        pass_fds=(to_browser, from_browser),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(to_browser)
    os.close(from_browser)
    try:
        page = Page(ours_in, ours_out)
        target = page.call("Target.createTarget", url="about:blank")["targetId"]
        attached = page.call("Target.attachToTarget", targetId=target, flatten=True)
        page.session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            page.call(f"{domain}.enable")
        page.call("Page.navigate", url=path.as_uri())
        while (
            page.value("document.readyState") != "complete"
            or page.value("location.href") == "about:blank"
        ):
            pass
        yield page
    finally:
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        os.close(ours_in)
        os.close(ours_out)
