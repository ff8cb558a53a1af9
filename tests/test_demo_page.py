"""The page in a browser: what streams, what stops, what is told, in light and dark, wide and narrow; and its queue."""

import dataclasses
import importlib.util
import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

import jam_jax
from jam_jax import demo_desk
from jam_jax.html import document_html
from tests import browser
from tests.models import make_model

pytest.importorskip("gradio", reason="needs Gradio")
from jam_jax import demo_page

ASKED = demo_desk.Asked("a red circle", "Go on with a text", 0, 0.7, 0.9, 0.9, 2.0, 1)
QUEUE = 8
HAS_BROWSER = bool(browser.CHROMIUM) and importlib.util.find_spec("websockets") is not None
needs_browser = pytest.mark.skipif(not HAS_BROWSER, reason="needs Chromium and the package websockets")
NOTE = "document.querySelector('#note').innerText"
# The ratio of contrast of WCAG 2: of an element's colour to that of the next element around it that has one.
CONTRAST = """(() => {
  const values = c => c.match(/[\\d.]+/g).map(Number);
  const part = v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const light = c => values(c).slice(0, 3).reduce((s, v, i) => s + part(v / 255) * [.2126, .7152, .0722][i], 0);
  const of = element => {
    let behind = element;
    const clear = e => { const v = values(getComputedStyle(e).backgroundColor); return v.length > 3 && v[3] == 0 };
    while (behind.parentElement && clear(behind)) behind = behind.parentElement;
    const [a, b] = [light(getComputedStyle(element).color), light(getComputedStyle(behind).backgroundColor)];
    return (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
  };
  return SELECTORS.map(s => of(document.querySelector(s)));
})()"""


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> demo_desk.Desk:
    root = tmp_path_factory.mktemp("demo")
    directory = make_model(root)
    (root / "downloads").mkdir()
    options = demo_desk.Options(str(directory), queue=QUEUE, most_tokens=40)
    return demo_desk.Desk(jam_jax.load(directory), options, root / "downloads")


@pytest.fixture(scope="module")
def address(desk: demo_desk.Desk) -> Iterator[str]:
    page = demo_page.build(desk)
    url = demo_page.serve(page, "127.0.0.1", 0, str(desk.downloads))
    assert url.startswith("http://127.0.0.1:")
    yield url
    page.close()


@pytest.fixture
def tab(address: str, tmp_path: Path) -> Iterator[browser.Tab]:
    with browser.tab(tmp_path / "profile") as tab:
        open_page(tab, address)
        yield tab


@dataclasses.dataclass
class Slow:
    """Answers that come part by part until they are let go, in place of the desk's own."""

    parts: int = 0
    go: threading.Event = dataclasses.field(default_factory=threading.Event)
    ended: threading.Event = dataclasses.field(default_factory=threading.Event)

    def answer(self, asked: demo_desk.Asked) -> Iterator[tuple[str, str, str, str | None]]:
        try:
            while not self.go.wait(0.05):
                self.parts += 1
                shown = document_html([f"{asked.question} " * min(self.parts, 60)])
                yield shown, '<p class="note">Retrieved for it:</p>', f"{self.parts} tokens …", None
            yield document_html(["whole"]), "", f"{self.parts} tokens, 0 pictures, seed 0", None
        finally:
            self.ended.set()


@pytest.fixture
def slow(desk: demo_desk.Desk, monkeypatch: pytest.MonkeyPatch) -> Iterator[Slow]:
    found = Slow()
    monkeypatch.setattr(desk, "answer", found.answer)
    yield found
    found.go.set()


def open_page(tab: browser.Tab, address: str) -> None:
    tab.send("Page.navigate", url=address)
    tab.wait("[...document.querySelectorAll('button')].some(b => b.innerText.trim() == 'Stop')")
    tab.wait("document.querySelector('textarea') && document.querySelector('#note') !== null")


def press(tab: browser.Tab, name: str) -> None:
    tab.run(f"[...document.querySelectorAll('button')].find(b => b.innerText.trim() == '{name}').click()")


def ask(tab: browser.Tab, question: str) -> None:
    """Write a question and press the button."""
    tab.run("document.querySelector('textarea').focus(); document.querySelector('textarea').select()")
    tab.send("Input.insertText", text=question)
    press(tab, "Ask")


def test_the_command_prints_the_address_where_it_serves(desk: demo_desk.Desk) -> None:
    command = [sys.executable, "-m", "jam_jax.demo", "--model", desk.options.model, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            found = re.fullmatch(r"the page: (http://127\.0\.0\.1:\d+)\n", process.stdout.readline())
            assert found and urllib.request.urlopen(found[1]).status == 200
        finally:
            process.terminate()


def test_a_port_in_use_is_one_line(desk: demo_desk.Desk, address: str) -> None:
    port = int(address.rsplit(":", 1)[1])
    with pytest.raises(ValueError, match=f"cannot listen at 127.0.0.1 port {port}") as error:
        demo_page.serve(demo_page.build(desk), "127.0.0.1", port, str(desk.downloads))
    assert "\n" not in str(error.value)


@needs_browser
def test_a_browser_asks_and_sees_the_answer(tab: browser.Tab, tmp_path: Path) -> None:
    ask(tab, "a red circle")
    tab.wait(f"/\\d+ tokens, .* seed 0/.test({NOTE})")
    assert tab.run("document.querySelectorAll('#answer .document').length") == 1
    assert tab.wait("[...document.querySelectorAll('button, a')].some(b => b.innerText.trim() == 'Download')")
    tab.screenshot(tmp_path / "page.png")
    assert (tmp_path / "page.png").stat().st_size > 10_000
    ask(tab, "a" * 100)
    tab.wait("document.querySelector('#note .fault')?.innerText.includes('the model has 64 positions')")
    assert tab.run("document.querySelectorAll('#answer .document').length") == 0, "an answer to another question"
    ask(tab, "a blue square")  # the page goes on
    tab.wait(f"/\\d+ tokens, .* seed 0/.test({NOTE})")


@needs_browser
def test_an_answer_that_streams_is_not_covered(tab: browser.Tab, slow: Slow) -> None:
    ask(tab, "a red circle")
    tab.wait(f"/^\\d+ tokens …/.test({NOTE})")
    for _ in range(10):
        found = tab.run(
            """(() => {
              const box = document.querySelector('#answer .document').getBoundingClientRect();
              const y = box.top + box.height / 2;
              const seen = [.1, .5, .9].map(x => document.elementFromPoint(box.left + x * box.width, y));
              const signs = [...document.querySelectorAll('[data-testid=status-tracker]')];
              const hidden = e => !e.checkVisibility({opacityProperty: true, visibilityProperty: true});
              return [seen.every(e => e.closest('#answer .document')),
                signs.every(e => e.closest('#note') ? !e.innerText : hidden(e))];
            })()"""
        )
        assert found == [True, True], found
        time.sleep(0.05)
    assert "Retrieved for it:" in tab.run("document.querySelector('#sources').innerText")


@needs_browser
def test_stop_keeps_what_has_come_and_the_page_goes_on(tab: browser.Tab, slow: Slow) -> None:
    ask(tab, "a red circle")
    tab.wait(f"/^\\d+ tokens …/.test({NOTE})")
    press(tab, "Stop")
    tab.wait(f"/^Stopped: \\d+ tokens$/.test({NOTE}.split('\\n').pop())")
    assert slow.ended.wait(20), "it is written on"
    parts = slow.parts
    assert "a red circle" in tab.run("document.querySelector('#answer').innerText")
    time.sleep(0.5)
    assert slow.parts == parts and tab.run(f"{NOTE}.includes('Stopped')")
    slow.go.set()
    ask(tab, "a blue square")
    tab.wait(f"/tokens, 0 pictures, seed 0/.test({NOTE})")


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_what_is_written_is_legible_and_fits_a_narrow_window(
    tab: browser.Tab, slow: Slow, address: str, scheme: str
) -> None:
    tab.send("Emulation.setDeviceMetricsOverride", width=390, height=844, deviceScaleFactor=1, mobile=False)
    tab.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    open_page(tab, address)
    ask(tab, "w" * 300)
    tab.wait(f"/^\\d+ tokens …/.test({NOTE})")
    selectors = ["#answer .document p", "#note .prose", "#sources .note", "h1", "textarea"]
    assert min(tab.run(CONTRAST.replace("SELECTORS", str(selectors)))) >= 4.5
    dark = tab.run("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).every(v => v < 60)")
    assert dark == (scheme == "dark")
    assert tab.run("document.documentElement.scrollWidth <= innerWidth")
    slow.go.set()
    tab.wait(f"/tokens, 0 pictures, seed 0/.test({NOTE})")


@needs_browser
def test_a_visitor_who_waits_sees_the_place_in_the_queue(tab: browser.Tab, slow: Slow, address: str) -> None:
    from gradio_client import Client

    client = Client(address, verbose=False)
    jobs = [client.submit(*dataclasses.astuple(ASKED), api_name="/respond")]
    deadline = time.monotonic() + 30
    while not slow.parts:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    jobs.append(client.submit(*dataclasses.astuple(ASKED), api_name="/respond"))
    time.sleep(0.5)
    ask(tab, "after two others")
    tab.wait(f"/queue: 2\\/2[^]*Waiting/.test({NOTE})")
    drawn = "(e => [e.clientHeight > 10, getComputedStyle(e.parentElement).overflow])"
    assert tab.run(f"{drawn}(document.querySelector('#note .progress-text'))") == [True, "visible"]
    assert tab.run("getComputedStyle(document.querySelector('#note .pending')).opacity") == "1"
    slow.go.set()
    assert slow.ended.wait(20)
    slow.go.clear()
    tab.wait(f"/queue: 1\\/1/.test({NOTE})")
    slow.go.set()
    tab.wait(f"/^\\d+ tokens, 0 pictures, seed 0$/.test({NOTE})")
    for job in jobs:
        job.result(timeout=60)


@needs_browser
def test_a_visitor_who_finds_the_queue_full_is_told_once(tab: browser.Tab, slow: Slow, address: str) -> None:
    from gradio_client import Client

    client = Client(address, verbose=False)
    jobs = [client.submit(*dataclasses.astuple(ASKED), api_name="/respond") for _ in range(QUEUE + 4)]
    deadline = time.monotonic() + 30
    while sum(job.done() for job in jobs) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    ask(tab, "one too many")
    tab.wait("document.body.innerText.includes('currently busy')")
    tab.wait(f"!{NOTE}.includes('Waiting')")
    slow.go.set()
    for job in jobs:
        job.exception(timeout=60)
    ask(tab, "again")
    tab.wait(f"/tokens, 0 pictures, seed 0/.test({NOTE})")


def test_a_hundred_at_once_are_answered_or_told_and_the_page_goes_on(address: str) -> None:
    from gradio_client import Client

    client = Client(address, verbose=False)
    asked = dataclasses.astuple(ASKED)
    jobs = [client.submit(*asked, api_name="/respond") for _ in range(100)]
    answered, told = 0, []
    for job in jobs:
        try:
            answered += "tokens" in job.result(timeout=300)[2]
        except Exception as error:  # whatever the client makes of the page's message
            told.append(str(error))
    assert answered >= QUEUE and answered + len(told) == 100
    assert all("queue" in message.lower() for message in told), set(told)
    assert "tokens" in client.predict(*asked, api_name="/respond")[2]
