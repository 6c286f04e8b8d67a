"""Looks at the status page with headless Chromium, driven by its DevTools protocol over a pipe.

    browser.py URL PREFIX TUNNEL

Opens URL wide and at 360 px, light and dark, walks with the keyboard, searches, opens TUNNEL, and writes screenshots to
PREFIX-*.png. What was found is printed as one JSON object; judging it is the caller's.
"""

import base64
import json
import os
import subprocess
import sys
import tempfile
import time


class Browser:
    def __init__(self, directory):
        ours_read, theirs_write = os.pipe()
        theirs_read, ours_write = os.pipe()

        def pipes():
            # Chromium reads commands from descriptor 3 and writes to 4; both may be one of these pipes now.
            read, write = os.dup(theirs_read), os.dup(theirs_write)
            os.dup2(read, 3)
            os.dup2(write, 4)

        self.process = subprocess.Popen(
            ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
             "--disable-extensions", "--disable-background-networking", "--disable-component-update", "--hide-scrollbars",
             "--remote-debugging-pipe", f"--user-data-dir={directory}", "about:blank"],
            preexec_fn=pipes, close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(theirs_read)
        os.close(theirs_write)
        self.read, self.write = os.fdopen(ours_read, "rb", buffering=0), os.fdopen(ours_write, "wb", buffering=0)
        self.buffer, self.number, self.session, self.events = b"", 0, None, []

    def message(self):
        while b"\0" not in self.buffer:
            more = self.read.read(1 << 16)
            if not more:
                raise SystemExit("chromium has ended")
            self.buffer += more
        line, self.buffer = self.buffer.split(b"\0", 1)
        return json.loads(line)

    def call(self, method, **parameters):
        self.number += 1
        command = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            command["sessionId"] = self.session
        self.write.write(json.dumps(command).encode() + b"\0")
        while True:
            answer = self.message()
            if answer.get("id") == self.number:
                if "error" in answer:
                    raise SystemExit(f"{method}: {answer['error']}")
                return answer["result"]
            self.events.append(answer)

    def evaluate(self, script):
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            raise SystemExit(f"{script}: {result['exceptionDetails']}")
        return result["result"].get("value")

    def until(self, condition, seconds=20):
        end = time.monotonic() + seconds
        while not self.evaluate(condition):
            if time.monotonic() > end:
                raise SystemExit(f"in vain: {condition}; the page: {self.evaluate('document.body.innerText')[:2000]}")
            # The page asks every two seconds; this is only how often we look.
            time.sleep(0.05)

    def key(self, key, code=None, text=None):
        down = {"type": "keyDown", "key": key, "code": code or key, "windowsVirtualKeyCode": CODES.get(key, 0)}
        if text:
            down["text"] = text
        self.call("Input.dispatchKeyEvent", **down)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key, code=code or key)

    def size(self, width, height):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)

    def scheme(self, value):
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": value}])

    def shot(self, path, whole=False):
        data = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"]
        with open(path, "wb") as file:
            file.write(base64.b64decode(data))


CODES = {"Tab": 9, "Enter": 13, "Escape": 27, "ArrowDown": 40, "ArrowUp": 38, "/": 191}

WHERE = """(() => { const at = document.activeElement;
  return at.id || at.className || at.value || at.tagName; })()"""
ROWS = """[...document.querySelectorAll('#rows .row')].map(row =>
  ['state', 'name', 'peer', 'rate', 'note'].map(cell => row.querySelector('.' + cell).innerText.trim()))"""
WIDER = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
# The slowest of ten searches, and how long all of them take.
SEARCH = """(() => { const words = document.getElementById('words'); const took = [];
  for (const text of ['s', 'si', 'sit', 'site', 'site-7', 'xyz', '', '1', 'down', '']) {
    const begin = performance.now(); words.value = text; words.dispatchEvent(new Event('input', { bubbles: true }));
    document.body.offsetHeight; took.push(performance.now() - begin); } return Math.max(...took); })()"""


def main(url, prefix, tunnel):
    found = {}
    # The browser's helpers write on while they end.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
        browser = Browser(directory)
        try:
            target = browser.call("Target.createTarget", url="about:blank")["targetId"]
            browser.session = browser.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            for domain in ("Page", "Runtime", "Log", "Network"):
                browser.call(f"{domain}.enable")
            browser.size(1280, 900)
            browser.scheme("light")
            browser.call("Page.navigate", url=url)
            browser.until("document.querySelectorAll('#rows .row').length > 0")
            # The second answer makes rates.
            browser.until("[...document.querySelectorAll('#rows .rate')].some(cell => cell.textContent.includes('b/s'))")
            found["rows"] = browser.evaluate(ROWS)
            found["sum"] = browser.evaluate("document.getElementById('sum').innerText")
            found["title"] = browser.evaluate("document.title")
            found["live"] = browser.evaluate("document.getElementById('live').innerText")
            found["drawn"] = browser.evaluate("document.querySelectorAll('#picture .site').length")
            found["described"] = browser.evaluate("document.querySelector('#picture svg').getAttribute('aria-label')")
            found["images"] = browser.evaluate("document.images.length")
            browser.shot(f"{prefix}-wide.png")
            browser.scheme("dark")
            browser.shot(f"{prefix}-dark.png")
            browser.scheme("light")

            # With the keyboard: the order of the focus, then into the list, a tunnel, and back.
            order = []
            for _ in range(6):
                browser.key("Tab")
                order.append(browser.evaluate(WHERE))
            found["order"] = order
            browser.key("/", "Slash", "/")
            found["slash"] = browser.evaluate(WHERE)
            browser.key("ArrowDown")
            found["arrow"] = browser.evaluate(WHERE)
            browser.key("Enter", text="\r")
            browser.until("document.activeElement.id === 'tunnel-title'")
            browser.key("Escape")
            browser.until("!document.getElementById('overview').hidden")
            browser.until("document.activeElement.className === 'row'")
            found["search"] = browser.evaluate(SEARCH)

            browser.evaluate(f"location.hash = '#/tunnel/' + encodeURIComponent({json.dumps(tunnel)})")
            browser.until("document.querySelectorAll('#tunnel .card').length > 2")
            browser.until("document.querySelector('#tunnel .flow').innerText.includes('b/s')")
            found["tunnel"] = browser.evaluate("document.getElementById('tunnel').innerText")
            browser.shot(f"{prefix}-tunnel.png", True)
            browser.size(360, 740)
            found["wider-tunnel"] = browser.evaluate(WIDER)
            browser.shot(f"{prefix}-phone-tunnel.png", True)
            browser.evaluate("location.hash = ''")
            browser.until("!document.getElementById('overview').hidden")
            browser.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
            found["wider"] = browser.evaluate(WIDER)
            browser.shot(f"{prefix}-phone.png")
            found["elements"] = browser.evaluate("document.querySelectorAll('*').length")
            found["requests"], found["errors"] = [], []
            for event in browser.events:
                parameters = event.get("params", {})
                match event.get("method"):
                    case "Network.requestWillBeSent":
                        found["requests"].append(parameters["request"]["url"])
                    case "Runtime.exceptionThrown":
                        found["errors"].append(parameters["exceptionDetails"])
                    case "Log.entryAdded":
                        found["errors"].append(parameters["entry"])
                    case "Runtime.consoleAPICalled":
                        found["errors"].append(parameters["args"])
        finally:
            browser.process.kill()
            browser.process.wait()
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
