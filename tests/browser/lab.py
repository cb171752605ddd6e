"""A notebook in a real JupyterLab in a real browser, and what a test does with it.

A widget's test is a file `test_widgets_NN.py` beside this one. The fixture `notebook` has run the notebook from top to
bottom, once for all the tests that name it, and fails a test after which an output holds an error:

    import pytest

    from .lab import change, image_of, move_slider, press

    pytestmark = pytest.mark.parametrize("notebook", ["01_energy_and_sampling.ipynb"], indirect=True)

    def test_a_step_of_the_chain_redraws_the_picture(notebook):
        area = notebook.cell_output("gibbs-player")  # a tag of the cell, or text in its source
        picture = area.locator("img").first
        with change(lambda: image_of(picture)):  # fails if it is still the same after 20 s
            press(area, "Step")
        with change(area.inner_text):
            move_slider(area, "Temperature", +2)

Also: `select`, `tick`, `play`, `pause`, `keys`, and `notebook.screenshot("build/player.png", "gibbs-player")`.
What `area.locator(...)` and `expect(...)` can do: https://playwright.dev/python/docs/locators
"""

import base64
import json
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, Request, build_opener

from playwright.sync_api import Browser, Error, JSHandle, Locator, Page, TimeoutError, expect

from .server import STARTING

WIDTH, HEIGHT = 1400, 1000  # of the page, in pixels
HANGING = 300  # seconds after which a notebook is held to hang
ANSWERING = 20  # seconds that a widget may take to answer on a busy machine
POLLING = 100  # milliseconds; Playwright would look once a frame and so make the page draw 60 in a second
expect.set_options(timeout=ANSWERING * 1000)
UNSHOWN = re.compile(r"^\s*(Loading|Error displaying) widget")

STARTED = """() => window.jupyterapp?.restored.then(() => true)"""
OPEN = """name => { window.jupyterapp.commands.execute("docmanager:open", {path: name, factory: "Notebook"}); }"""
OPENED = """name => {
    const panel = window.jupyterapp?.shell?.currentWidget;
    return panel?.context?.path === name && panel.sessionContext.session?.kernel?.status === "idle";
}"""
# An error that a widget's callback raises is in no cell: the kernel sends it in answer to the widget's message.
LISTEN = """() => {
    const panel = window.jupyterapp.shell.currentWidget;
    window.raised = [];
    panel.sessionContext.iopubMessage.connect((_, {header, parent_header, content}) => {
        if (parent_header.msg_type === "execute_request") return;
        if (header.msg_type === "error") window.raised.push(`${content.ename}: ${content.evalue}`);
        if (header.msg_type === "stream" && content.text.includes("Traceback")) window.raised.push(content.text);
    });
    panel.sessionContext.statusChanged.connect((_, status) => {
        if (["autorestarting", "dead"].includes(status)) window.state = "ended when the kernel died";
    });
    return panel;
}"""
RUN = """() => {
    const {commands} = window.jupyterapp;
    window.state = null;
    commands.execute("notebook:clear-all-cell-outputs").then(() => commands.execute("notebook:run-all-cells"))
        .finally(() => { window.state ??= "ended"; });
}"""
# anywidget gives a widget two seconds to load, which a busy machine may not have.
PATIENT = """(() => {
    const timeout = AbortSignal.timeout.bind(AbortSignal);
    AbortSignal.timeout = milliseconds => timeout(10 * milliseconds);
})()"""
# Without what the cells show, which is megabytes in some notebooks.
CODE = """panel => Array.from(panel.content.model.cells, (cell, index) => ({cell, index}))
    .filter(({cell}) => cell.type === "code")
    .map(({cell, index}) => ({
        index,
        source: cell.sharedModel.getSource(),
        tags: cell.getMetadata("tags") ?? [],
        execution_count: cell.executionCount,
        outputs: Array.from({length: cell.outputs.length}, (_, i) => cell.outputs.get(i))
            .filter(({type}) => ["error", "stream"].includes(type)).map(output => output.toJSON()),
    }))
"""
# The kernel answers when it has dealt with all that it was sent before, unless it is busy for long.
SETTLE = """panel => Promise.race([
    panel.sessionContext.session?.kernel?.requestKernelInfo(),
    new Promise(resolve => setTimeout(resolve, 5000)),
]).then(() => window.raised)"""
# Not by Lab's command, which asks whether to save what has changed.
CLOSE = """() => window.jupyterapp.shell.currentWidget.dispose()"""
IMAGE = """async element => {
    if (element.tagName === "CANVAS") return element.toDataURL().split(",")[1];
    const bytes = new Uint8Array(await (await fetch(element.src)).arrayBuffer());
    return btoa(Array.from(bytes, byte => String.fromCharCode(byte)).join(""));
}"""


class Lab:
    """The JupyterLab at `url`, seen in `browser`: one page, in which one notebook after the other is opened."""

    def __init__(self, url: str, token: str, browser: Browser):
        self.url, self.token, self.browser = url, token, browser
        self._page: Page | None = None

    @contextmanager
    def open_notebook(self, name: str) -> Iterator["Notebook"]:
        """The notebook with a kernel of its own; both are closed with the block."""
        page, self._page = self._page or self._new_page(), None  # kept if all goes well
        try:
            page.evaluate(OPEN, name)
            page.wait_for_function(OPENED, arg=name, polling=POLLING, timeout=STARTING * 1000)
            notebook = Notebook(name, page, page.evaluate_handle(LISTEN))
            yield notebook
            page.evaluate(CLOSE)
            notebook.closed()
            self._page = page
        finally:
            if self._page is None:
                page.close()
            for kernel in self._api("GET", "kernels"):
                self._api("DELETE", f"kernels/{kernel['id']}")

    def _new_page(self) -> Page:
        page = self.browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        page.set_default_timeout(ANSWERING * 1000)
        page.add_init_script(PATIENT)
        page.goto(f"{self.url}lab?reset&token={self.token}", timeout=STARTING * 1000)
        page.wait_for_function(STARTED, polling=POLLING, timeout=STARTING * 1000)
        return page

    def write(self, name: str, notebook: dict[str, Any]) -> None:
        """Put a notebook beside those that the server has."""
        self._api("PUT", f"contents/{name}", {"type": "notebook", "content": notebook})

    def _api(self, method: str, path: str, body: Any = None) -> Any:
        data = json.dumps(body).encode() if body else None
        headers = {"Authorization": f"token {self.token}"}
        request = Request(f"{self.url}api/{path}", data, headers, method=method)
        with build_opener(ProxyHandler({})).open(request, timeout=STARTING) as answer:
            return json.loads(answer.read() or "null")


class Notebook:
    """A notebook open in JupyterLab; `seconds` is what its last run took, `ran` its cells as that run left them."""

    def __init__(self, name: str, page: Page, panel: JSHandle):
        self.name, self.page, self._panel = name, page, panel
        self.seconds = 0.0
        self.ran: list[dict[str, Any]] = []
        self.known_errors: Counter[str] = Counter()  # that a test has been told of
        self._page_errors: list[str] = []
        page.on("pageerror", self._note)

    def _note(self, error: Error) -> None:
        self._page_errors.append(str(error))

    def closed(self) -> None:
        """What the page raises from now on is no longer this notebook's."""
        self.page.remove_listener("pageerror", self._note)

    def run_all(self, limit: float = HANGING) -> None:
        """Run every cell afresh. AssertionError says which cell raised, killed the kernel or took too long."""
        __tracebackhide__ = True
        began = time.monotonic()
        self.page.evaluate(RUN)
        try:
            state = "() => window.state"
            end = self.page.wait_for_function(state, polling=POLLING, timeout=limit * 1000).json_value()
        except TimeoutError:
            end = f"had not ended after {limit:g} s"
        self.seconds = time.monotonic() - began
        self.ran = self.cells()
        if waiting := [cell for cell in self._code() if cell["source"].strip() and cell["execution_count"] is None]:
            first = f"{self.name}: the run {end}, and {_name(waiting[0])} is the first that was not run to its end"
            raise AssertionError("\n".join([first, *self.outputs_with_errors()]))

    def cells(self) -> list[dict[str, Any]]:
        """The cells as they stand, as a notebook file holds them."""
        return self._panel.evaluate("panel => panel.content.model.toJSON()")["cells"]

    def _code(self) -> list[dict[str, Any]]:
        """The code cells, each with its `index` among all cells; of their outputs only text and errors."""
        return self._panel.evaluate(CODE)

    def settle(self) -> list[str]:
        """Wait until the kernel has dealt with all that it was sent; what widgets' callbacks have raised so far."""
        return self._panel.evaluate(SETTLE)

    def outputs_with_errors(self) -> list[str]:
        """What went wrong and where: in a cell, in a widget's callback, in a widget's view or in the page."""
        found = [f"a widget's callback: {text}" for text in self.settle()]
        for cell in self._code():
            for output in cell["outputs"]:
                if output["output_type"] == "error" and "raises-exception" not in cell["tags"]:
                    found.append(f"{_name(cell)}: {output['ename']}: {output['evalue']}")
                if output.get("name") == "stderr" and "Traceback" in (text := "".join(output["text"])):
                    found.append(f"{_name(cell)}: {text}")
        unshown = self.page.locator(".jp-OutputArea-output").filter(has_text=UNSHOWN)
        try:
            expect(unshown).to_have_count(0)
        except AssertionError:
            found += [f"a widget that is not shown: {text}" for text in unshown.all_inner_texts()]
        for box in self.page.locator(".jupyter-widgets-error-widget").all():
            box.click()  # shows the reason
            found.append(f"a widget that cannot be shown: {box.inner_text()}")
        for mime in ("error", "stderr"):  # of Output widgets
            within = self.page.locator(f'.jupyter-widgets [data-mime-type="application/vnd.jupyter.{mime}"]')
            found += [f"an Output widget: {text}" for text in within.all_inner_texts() if "Traceback" in text]
        return found + [f"the page: {text}" for text in self._page_errors]

    def images_without_alt(self) -> list[str]:
        """Each picture that says nothing to who cannot see it; `widgets.Image` has no alt text to set."""
        images = self.page.locator(".jp-Notebook img:not(.widget-image)")
        return images.evaluate_all("all => all.filter(i => !i.alt.trim()).map(i => i.outerHTML.slice(0, 200))")

    def cell(self, key: str) -> Locator:
        """The one code cell that has the tag `key`, or else the one with the text `key` in its source."""
        code = self._code()
        tagged = [cell["index"] for cell in code if key in cell["tags"]]
        found = tagged or [cell["index"] for cell in code if key in cell["source"]]
        if len(found) != 1:
            raise LookupError(f"{self.name}: {len(found)} code cells have the tag or the text {key!r}: name one cell.")
        return self.cell_at(found[0])

    def cell_at(self, index: int) -> Locator:
        """The cell at this place, markdown counted, from 0."""
        return self.page.locator(".jp-Notebook .jp-Cell").nth(index)

    def cell_output(self, key: str) -> Locator:
        """What the cell shows."""
        return self.cell(key).locator(".jp-Cell-outputArea")

    def screenshot(self, path: str | Path, cell: str | None = None) -> None:
        """A PNG of the whole notebook at its full height, or of the cell named as in `cell`."""
        hidden = self._scroller.evaluate("s => s.scrollHeight - s.clientHeight")
        self.page.set_viewport_size({"width": WIDTH, "height": HEIGHT + hidden})
        self._scroller.evaluate("s => { s.scrollTop = 0; }")
        self.page.wait_for_timeout(500)  # Lab lays the page out anew
        (self.cell(cell) if cell else self.page).screenshot(path=path)
        self.page.set_viewport_size({"width": WIDTH, "height": HEIGHT})

    def screens(self, folder: Path) -> list[Path]:
        """PNGs of what fits on the screen, from the top of the notebook to its end."""
        height, step = self._scroller.evaluate("s => [s.scrollHeight, s.clientHeight]")
        paths = []
        for number, top in enumerate(range(0, max(height - 40, 1), step - 40)):
            self._scroller.evaluate("(s, top) => { s.scrollTop = top; }", top)
            self.page.wait_for_timeout(300)
            paths.append(folder / f"{Path(self.name).stem}-{number:02d}.png")
            self.page.screenshot(path=paths[-1])
        return paths

    @property
    def _scroller(self) -> Locator:
        return self.page.locator(".jp-WindowedPanel-outer")


def _name(cell: dict[str, Any]) -> str:
    return f"cell {cell['index']} ({cell['source'].strip().partition(chr(10))[0]!r})"


def image_of(picture: Locator) -> bytes:
    """The file that an <img> or `widgets.Image` shows at this moment, or a <canvas> as a PNG."""
    end = time.monotonic() + ANSWERING
    while True:
        try:
            return base64.b64decode(picture.evaluate(IMAGE))
        except Error:  # the picture changed while it was read
            if time.monotonic() > end:
                raise


@contextmanager
def change(read: Callable[[], Any], limit: float = ANSWERING) -> Iterator[None]:
    """What `read()` gives before the block is not what it gives after it, `limit` seconds later at most."""
    __tracebackhide__ = True
    before = read()
    yield
    end = time.monotonic() + limit
    while read() == before:
        assert time.monotonic() < end, f"nothing changed within {limit:g} s: it is still {before!r:.100}"
        time.sleep(0.05)


def press(area: Locator, name: str, key: str | None = None) -> None:
    """Click the button with this text or tooltip, or press `key` ("Enter", "Space") on it."""
    button = _button(area, name)
    button.click() if key is None else keys(button, key)


def _button(area: Locator, name: str) -> Locator:
    text = re.compile(rf"^\s*{re.escape(name)}\s*$")
    return area.locator("button").filter(has_text=text).or_(area.locator(f'button[title="{name}"]'))


def move_slider(area: Locator, label: str, steps: int) -> None:
    """Move the slider with this description by so many steps, with the arrow keys."""
    slider = area.locator(".widget-slider").filter(has=area.page.get_by_text(label, exact=True))
    keys(slider.get_by_role("slider"), *["ArrowRight" if steps > 0 else "ArrowLeft"] * abs(steps))


def keys(place: Locator, *names: str) -> None:
    """Press the keys, one after the other, with the focus on `place`."""
    for name in names:
        place.press(name)


def select(area: Locator, label: str, option: str) -> None:
    """Choose the option in the dropdown with this description; for toggle buttons, `press` the one."""
    area.get_by_label(label, exact=True).select_option(label=option)


def tick(area: Locator, label: str) -> None:
    """Click the checkbox with this description."""
    area.get_by_role("checkbox", name=label).click()


def play(area: Locator) -> None:
    """Start the Play widget."""
    area.locator(".widget-play button:has(.fa-play)").click()


def pause(area: Locator) -> None:
    """Halt the Play widget."""
    area.locator(".widget-play button:has(.fa-pause)").click()
