"""Headless Chromium, driven through a pair of pipes: pages as they are seen, and what they complain about."""

import base64
import fcntl
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time

CHROMIUM = next((path for path in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if path), None)
_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--hide-scrollbars", "--remote-debugging-pipe",
)  # fmt: skip
_PATIENCE_S = 60


class Browser:
    """A browser with one page; a context manager.

    Attributes:
      problems: texts of the errors and warnings that pages wrote to the console, or threw.
    """

    def __enter__(self):
        self.problems, self._count, self._unread = [], 0, b""
        self._folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        theirs, self._write = _high_pipe()
        self._read, their_answers = _high_pipe()

        def connect():
            os.dup2(theirs, 3)
            os.dup2(their_answers, 4)

        command = [CHROMIUM, *_FLAGS, f"--user-data-dir={self._folder.name}", "about:blank"]
        self._process = subprocess.Popen(
            command, preexec_fn=connect, pass_fds=(3, 4), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        os.close(theirs)
        os.close(their_answers)
        targets = self._send("Target.getTargets", session=None)["targetInfos"]
        page = next(target for target in targets if target["type"] == "page")["targetId"]
        self._session = None
        self._session = self._send("Target.attachToTarget", targetId=page, flatten=True, session=None)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._send(f"{domain}.enable")
        return self

    def __exit__(self, *_):
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._read)
        os.close(self._write)
        self._folder.cleanup()

    def open(self, path, *, width, height=800, dark=False, media=""):
        """Shows a file in a window of a size in CSS pixels."""
        self._send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._send("Emulation.setEmulatedMedia", media=media, features=[scheme])
        self._send("Page.navigate", url=path.resolve().as_uri())
        self._wait_for("Page.loadEventFired")

    def run(self, script):
        """Returns the value of an expression in the page, of a promise when it is kept."""
        answer = self._send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def hover(self, x, y):
        """Moves the mouse."""
        self._send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def screenshot(self, path, whole=True):
        """Writes a PNG of the whole page, or of the window."""
        picture = self._send("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(picture["data"]))

    def pdf(self, path):
        """Prints the page."""
        path.write_bytes(base64.b64decode(self._send("Page.printToPDF", preferCSSPageSize=True)["data"]))

    def _send(self, method, session="own", **parameters):
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters}
        if session and self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        answer = self._wait_for(self._count)
        assert "error" not in answer, answer
        return answer["result"]

    def _wait_for(self, what):
        """Reads messages until the answer with this id, or the event of this name."""
        until = time.monotonic() + _PATIENCE_S
        while time.monotonic() < until:
            message = self._next()
            event, details = message.get("method"), message.get("params", {})
            if event == "Runtime.exceptionThrown":
                self.problems.append(str(details["exceptionDetails"]))
            if event == "Log.entryAdded" and details["entry"]["level"] in ("error", "warning"):
                self.problems.append(str(details["entry"]))
            if event == "Runtime.consoleAPICalled" and details["type"] in ("error", "warning", "assert"):
                self.problems.append(str(details["args"]))
            if event == "Network.requestWillBeSent" and not details["request"]["url"].startswith(("file:", "data:", "about:")):
                self.problems.append(f"request: {details['request']['url']}")
            if what in (event, message.get("id")):
                return message
        raise TimeoutError(what)

    def _next(self):
        while b"\0" not in self._unread:
            piece = os.read(self._read, 1 << 20)
            assert piece, "the browser went away"
            self._unread += piece
        message, _, self._unread = self._unread.partition(b"\0")
        return json.loads(message)


def _high_pipe():
    """A pipe whose ends are not among the numbers that the browser's own get."""
    ends = os.pipe()
    high = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends]
    for end in ends:
        os.close(end)
    return high
