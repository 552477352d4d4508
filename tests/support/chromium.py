"""A real Chromium without a window, driven over its debugging pipe (Chrome DevTools Protocol): no other package is needed."""

import base64
import json
import os
import select
import shutil
import signal
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

PROGRAM = shutil.which("chromium")
needs_chromium = pytest.mark.skipif(PROGRAM is None, reason="needs chromium (scripts/prerequisites.sh peers)")
_PATIENCE = 60.0
# Without a sandbox: tests run as root, and load pages of their own only. No look-ups, updates or reports to anybody.
_FLAGS = (
    "--headless=new", "--no-sandbox", "--remote-debugging-pipe", "--no-first-run", "--disable-gpu", "--disable-dev-shm-usage",
    "--disable-background-networking", "--disable-component-update", "--disable-default-apps", "--disable-extensions",
    "--disable-sync", "--disable-breakpad", "--metrics-recording-only", "--no-proxy-server", "--hide-scrollbars",
)  # fmt: skip


class PageError(AssertionError):
    """A page's script failed."""


class Browser:
    """A browser until the end of the `with`. flags: more of its command line. directory: where it keeps its profile."""

    def __init__(self, directory: Path, *flags: str) -> None:
        command = [str(PROGRAM), *_FLAGS, f"--user-data-dir={directory}", *flags, "about:blank"]
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        null = os.open(os.devnull, os.O_RDWR)
        # Copies with numbers above those that it expects, so that no copy overwrites another.
        copies = [os.dup(one) for one in (theirs_in, theirs_out)]
        actions = [
            (os.POSIX_SPAWN_DUP2, null, 0), (os.POSIX_SPAWN_DUP2, null, 1), (os.POSIX_SPAWN_DUP2, null, 2),
            (os.POSIX_SPAWN_DUP2, copies[0], 3), (os.POSIX_SPAWN_DUP2, copies[1], 4),
        ]  # fmt: skip
        assert min(copies) > 4
        # A group of its own: its processes are ended together.
        self.pid = os.posix_spawn(command[0], command, os.environ, file_actions=actions, setpgroup=0)
        for one in (theirs_in, theirs_out, null, *copies):
            os.close(one)
        self._number = 0
        self._buffer = b""
        self.events: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        self.version = self.call("Browser.getVersion")["product"]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        os.killpg(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self._in)
        os.close(self._out)

    def call(self, method: str, session: str = "", **parameters: Any) -> dict[str, Any]:
        """Call a method; its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters} | ({"sessionId": session} if session else {})
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._out, data) :]
        deadline = time.monotonic() + _PATIENCE
        while True:
            found = self._next(deadline, method)
            if found.get("id") == self._number:
                if "error" in found:
                    raise PageError(f"{method}: {found['error']}")
                return found["result"]
            self.events.append(found)

    def _next(self, deadline: float, what: str) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready = select.select([self._in], [], [], max(0.0, deadline - time.monotonic()))[0]
            data = os.read(self._in, 1 << 20) if ready else b""
            if not data:
                raise PageError(f"{what}: no answer of the browser")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(line)

    def page(self, url: str, *, width: int = 1000, height: int = 900, dark: bool = False, phone: bool = False) -> "Page":
        """A new page of this size that shows this address."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        page = Page(self, self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"], target)
        page.call("Page.enable")
        page.call("Runtime.enable")
        page.call("Log.enable")
        page.look(width=width, height=height, dark=dark, phone=phone)
        page.go(url)
        return page


class Page:
    """A page of a browser."""

    def __init__(self, browser: Browser, session: str, target: str) -> None:
        self._browser = browser
        self._session = session
        self._target = target

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method for this page."""
        return self._browser.call(method, self._session, **parameters)

    def look(self, *, width: int, height: int, dark: bool = False, phone: bool = False) -> None:
        """Show the page on a screen of this size."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=2 if phone else 1, mobile=phone
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def go(self, url: str) -> None:
        """Load an address. Raises PageError where it cannot be."""
        found = self.call("Page.navigate", url=url)
        if found.get("errorText"):
            raise PageError(f"{url}: {found['errorText']}")
        self.until("document.readyState === 'complete'")

    def value(self, script: str) -> Any:
        """What an expression gives; a promise's result."""
        found = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in found:
            raise PageError(f"{script}: {found['exceptionDetails']}")
        return found["result"].get("value")

    def until(self, condition: str, patience: float = _PATIENCE) -> Any:
        """Wait until an expression gives something true; what it gives. The page looks once a frame."""
        look = f"new Promise(done => {{ const look = () => {{ const found = ({condition}); found ? done(found)"
        look += ": setTimeout(look, 50); }; look(); })"
        deadline = time.monotonic() + patience
        while True:
            try:
                return self.value(look)
            except PageError:
                # A page that is just being replaced.
                if time.monotonic() > deadline:
                    raise

    def complaints(self) -> list[str]:
        """What the browser has said against this page: errors of scripts, and what its policy has blocked."""
        mine = [event for event in self._browser.events if event.get("sessionId") == self._session]
        found = [event["params"]["exceptionDetails"]["text"] for event in mine if event["method"] == "Runtime.exceptionThrown"]
        entries = [event["params"]["entry"] for event in mine if event["method"] == "Log.entryAdded"]
        return found + [f"{one['text']} ({one.get('url', '')})" for one in entries if one["level"] in ("error", "warning")]

    def picture(self, file: Path) -> None:
        """A picture of the whole page as PNG."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        data = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)["data"]
        file.write_bytes(base64.b64decode(data))

    def close(self) -> None:
        """Close the page."""
        self._browser.call("Target.closeTarget", targetId=self._target)
