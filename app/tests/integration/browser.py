"""A headless Chromium, driven by the WebDriver protocol (W3C)."""

import base64
import json
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.integration.processes import Process, free_port, until

_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1200,1600",
)
# The driver is on loopback, whatever proxy the environment names.
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
# How WebDriver names the id of an element in JSON.
_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"


class Browser:
    """One session of a browser."""

    def __init__(self, driver: str, profile: Path) -> None:
        """Start a session by the driver at a URL, with a fresh profile."""
        self._driver = driver
        options = {
            "args": [*_FLAGS, f"--user-data-dir={profile}"],
            "perfLoggingPrefs": {"enableNetwork": True},
        }
        wanted = {
            "browserName": "chrome",
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"performance": "ALL", "browser": "ALL"},
        }
        session = self._ask("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self._session = f"/session/{session['sessionId']}"

    def open(self, url: str) -> None:
        """Go to a page, and wait until it is loaded."""
        self._ask("POST", f"{self._session}/url", {"url": url})

    def run(self, script: str) -> Any:
        """Run the body of a JavaScript function and return what it returns."""
        return self._ask("POST", f"{self._session}/execute/sync", {"script": script, "args": []})

    def click(self, selector: str) -> None:
        """Click an element, as a person would."""
        self._ask("POST", f"{self._session}/element/{self._find(selector)}/click", {})

    def type(self, selector: str, text: str) -> None:
        """Put a text into a field in the place of what is there."""
        element = f"{self._session}/element/{self._find(selector)}"
        self._ask("POST", f"{element}/clear", {})
        self._ask("POST", f"{element}/value", {"text": text})

    def text(self, selector: str) -> str:
        """Return the text of an element; nothing while it is not there."""
        found: str = self.run(f"return document.querySelector({json.dumps(selector)})?.innerText ?? ''")
        return found

    def log(self, kind: str) -> list[dict[str, Any]]:
        """Return what was logged since the last time: "browser" (errors), or "performance" (the network)."""
        entries: list[dict[str, Any]] = self._ask("POST", f"{self._session}/se/log", {"type": kind})
        return entries

    def screenshot(self, file: Path) -> None:
        """Write a picture of the page (PNG)."""
        file.write_bytes(base64.b64decode(self._ask("GET", f"{self._session}/screenshot")))

    def look(self, width: int, height: int, scheme: str) -> None:
        """Give the window a size in pixels, and the person a preference: "light" or "dark"."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._devtools("Emulation.setDeviceMetricsOverride", size)
        self._devtools("Emulation.setScrollbarsHidden", {"hidden": True})
        wanted = [{"name": "prefers-color-scheme", "value": scheme}]
        self._devtools("Emulation.setEmulatedMedia", {"features": wanted})

    def whole(self, file: Path) -> None:
        """Write a picture of the page (PNG), from its top to its end."""
        picture = self._devtools("Page.captureScreenshot", {"captureBeyondViewport": True})
        file.write_bytes(base64.b64decode(picture["data"]))

    def press(self, key: str) -> None:
        """Press a key (as WebDriver names it, a character) where the focus is."""
        strokes = [{"type": kind, "value": key} for kind in ("keyDown", "keyUp")]
        actions = {"actions": [{"type": "key", "id": "keyboard", "actions": strokes}]}
        self._ask("POST", f"{self._session}/actions", actions)

    def end(self) -> None:
        """End the browser."""
        self._ask("DELETE", self._session)

    def _devtools(self, command: str, parameters: dict[str, Any]) -> Any:
        asked = {"cmd": command, "params": parameters}
        return self._ask("POST", f"{self._session}/goog/cdp/execute", asked)

    def _find(self, selector: str) -> str:
        wanted = {"using": "css selector", "value": selector}
        identifier: str = self._ask("POST", f"{self._session}/element", wanted)[_ELEMENT]
        return identifier

    def _ask(self, method: str, path: str, content: Any = None) -> Any:
        body = None if content is None else json.dumps(content).encode()
        request = urllib.request.Request(f"{self._driver}{path}", body, method=method)  # noqa: S310
        request.add_header("Content-Type", "application/json")
        with _DIRECT.open(request, timeout=60) as answer:
            return json.load(answer)["value"]


@contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """Run a browser whose files are in `folder`."""
    port = free_port()
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(folder)}
    process = Process("chromedriver", ["chromedriver", f"--port={port}"], folder, environment)
    driver = f"http://127.0.0.1:{port}"

    def ready() -> bool:
        process.check_running()
        try:
            with _DIRECT.open(f"{driver}/status", timeout=5) as answer:
                return bool(json.load(answer)["value"]["ready"])
        except OSError:
            return False

    try:
        until("chromedriver is ready", ready)
        session = Browser(driver, folder / "profile")
        try:
            yield session
        finally:
            session.end()
    finally:
        process.terminate()
