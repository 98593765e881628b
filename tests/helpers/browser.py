"""Pages as a real browser shows them: headless Chromium, where the machine has it."""

import html.parser
import json
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome")


@dataclass
class Page(html.parser.HTMLParser):
    """The document that a browser made of a page.

    Attributes:
        dom: Its text after loading.
        console: What it wrote to the console.
        requests: The addresses that it asked for.
        width: Width of its content at the width of the window.
    """

    dom: str
    console: list[str]
    requests: list[str]
    width: int
    tables: list[list[list[str]]] = field(default_factory=list)
    headings: list[str] = field(default_factory=list)
    pictures: list[dict[str, str]] = field(default_factory=list)
    tags: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    _open: str | None = None

    def __post_init__(self):
        super().__init__()
        self.feed(self.dom)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self._open = "cell"
        elif tag in ("h1", "h2", "h3"):
            self.headings.append(f"{tag} ")
            self._open = "heading"
        elif tag == "svg":
            self.pictures.append(dict(attrs))

    def handle_endtag(self, tag):
        if tag in ("td", "th", "h1", "h2", "h3"):
            self._open = None

    def handle_data(self, data):
        if self._open == "cell":
            self.tables[-1][-1][-1] += " ".join(data.split())
        elif self._open == "heading":
            self.headings[-1] += data


def opened(path, width=1100):
    """The page as a browser shows it in a window of some width."""
    chromium = next((found for name in _NAMES if (found := shutil.which(name))), None)
    if chromium is None:
        pytest.skip("needs Chromium, in Debian the package `chromium`")
    with tempfile.TemporaryDirectory() as folder:
        copy, log = Path(folder, "page.html"), Path(folder, "net.json")
        # Chromium's windows are 500 wide or more, a frame is not.
        frame = f'<iframe src="inner.html" style="border:0;width:{width}px;height:900px"></iframe>'
        measure = (
            "<script>addEventListener('load', () => document.title = "
            "document.querySelector('iframe').contentDocument.documentElement.scrollWidth)</script>"
        )
        copy.write_text(f"<!DOCTYPE html><title>0</title>{frame}{measure}")
        Path(folder, "inner.html").write_bytes(Path(path).read_bytes())
        title = _run(chromium, copy, folder, "--allow-file-access-from-files")[0]
        dom, messages = _run(chromium, Path(path), folder, f"--log-net-log={log}")
        text = log.read_text()
    size = int(title.partition("<title>")[2].partition("<")[0])
    console = [line for line in messages.splitlines() if "CONSOLE" in line]
    return Page(dom, console, sorted(_addresses(text)), size)


def tables(text):
    """The tables in a piece of HTML, which no browser has seen."""
    return Page(text, [], [], 0).tables


def _run(chromium, path, folder, *options):
    command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
    quiet = ("--disable-background-networking", "--disable-component-update", "--no-first-run")
    command += [*quiet, f"--user-data-dir={folder}/profile", *options, "--dump-dom", path.as_uri()]
    process = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return process.stdout, process.stderr


def _addresses(log):
    """The addresses in a log of the network that a page, and not the browser itself, asked for."""
    events = json.loads(log if log.rstrip().endswith("}") else log.rstrip().rstrip(",") + "]}")
    for event in events["events"]:
        parameters = event.get("params", {})
        # The browser's own requests, such as for the time, come from no page.
        if parameters.get("initiator", "not an origin") != "not an origin":
            yield parameters["url"]
