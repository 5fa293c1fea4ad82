"""A headless Chromium for tests of pages: opens a file at a width and colour scheme, and tells what went wrong."""

import base64
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any, Self

INSTALL = "apt-get update && apt-get install -y chromium chromium-driver"
_FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--hide-scrollbars",
)  # fmt: skip


def missing() -> str | None:
    """What to install, or None when everything is there."""
    if shutil.which("chromium") and shutil.which("chromedriver"):
        return None
    return f"needs Chromium: {INSTALL}"


class Browser:
    """One Chromium with a fresh profile, for a `with` block."""

    def __enter__(self) -> Self:
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service

        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        options = webdriver.ChromeOptions()
        options.binary_location = shutil.which("chromium") or ""
        for flag in (*_FLAGS, f"--user-data-dir={self._profile.name}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self._driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
        return self

    def __exit__(self, *_: object) -> None:
        self._driver.quit()
        self._profile.cleanup()

    def open(self, page: Path, *, width: int, scheme: str = "light", fragment: str = "") -> None:
        self.visit(page.resolve().as_uri() + fragment, width=width, scheme=scheme)

    def visit(self, address: str, *, width: int, scheme: str = "light") -> None:
        """Open an address."""
        self.resize(width)
        self.emulate(features=[{"name": "prefers-color-scheme", "value": scheme}])
        self._driver.get("about:blank")  # a fragment of the page already shown would not load it again
        self._driver.get_log("browser")
        self._driver.get_log("performance")
        self._driver.get(address)

    def resize(self, width: int) -> None:
        """Of the window, in CSS pixels."""
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self._driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def emulate(self, **media: Any) -> None:
        self._driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)

    def script(self, source: str, *arguments: Any) -> Any:
        """What the function body `source` returns in the page."""
        return self._driver.execute_script(source, *arguments)

    def press(self, key: str, holding: str = "") -> None:
        """A key, or text, to whatever has the focus. holding: a key such as Ctrl that is down meanwhile."""
        from selenium.webdriver import ActionChains

        chain = ActionChains(self._driver)
        if holding:
            chain.key_down(holding).send_keys(key).key_up(holding).perform()
        else:
            chain.send_keys(key).perform()

    def complaints(self) -> list[str]:
        """Everything on the console since the page was opened."""
        return [entry["message"] for entry in self._driver.get_log("browser")]

    def requests(self) -> list[str]:
        """Every address asked for since the page was opened, its own first."""
        events = [json.loads(entry["message"])["message"] for entry in self._driver.get_log("performance")]
        return [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]

    def screenshot(self, to: Path) -> None:
        """The whole page as PNG."""
        shot = self._driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "format": "png"})
        to.write_bytes(base64.b64decode(shot["data"]))
