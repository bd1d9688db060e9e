"""The page at / in a real browser: headless Chromium uploads, asks, listens, stops, errs, on a desk and a phone."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

CHROMIUM = next(
    (path for path in ("/usr/bin/chromium", "/usr/bin/google-chrome") if Path(path).exists()), None
)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
FLAGS += ["--disable-background-networking", "--disable-component-update"]
EXAMPLES = Path(__file__).parents[2] / "service" / "page" / "examples"
PATIENCE = 120_000  # milliseconds

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: install Debian's chromium")


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield running
        running.close()


class Page:
    """The page in one tab, in the words of somebody who uses it."""

    def __init__(self, tab) -> None:
        self.tab = tab
        self.awaited = 1

    @property
    def answers(self) -> list[str]:
        return self.tab.locator("#chat .bot.message").all_inner_texts()

    @property
    def conversation(self) -> str:
        return self.tab.locator("#chat").inner_text()

    def photograph(self, path: Path) -> None:
        self.tab.set_input_files("#image input[type=file]", path)
        self.tab.wait_for_selector("#image img")

    def recording(self, path: Path) -> None:
        self.tab.click("#audio [aria-label='Upload file']")
        self.tab.set_input_files("#audio input[type=file]", path)
        self.tab.wait_for_selector("#audio [data-testid^='waveform'], #audio audio")

    def ask(self, question: str = "") -> None:
        self.awaited = len(self.answers) + 1
        self.tab.fill("#question textarea", question)
        self.tab.click("#ask")

    def wait_for_the_end(self) -> None:
        """Until the answer to the last `ask` stands there whole."""
        self.tab.wait_for_function(
            """awaited => document.querySelectorAll("#chat .bot.message").length >= awaited
                && !document.querySelector("#ask").disabled && document.querySelector("#stop").disabled""",
            arg=self.awaited,
        )


def open_page(browser, url: str, **device) -> Iterator[Page]:
    context = browser.new_context(**device)
    context.set_default_timeout(PATIENCE)
    tab = context.new_page()
    elsewhere: list[str] = []
    tab.on("request", lambda request: elsewhere.append(request.url))
    tab.goto(url)
    tab.wait_for_selector("#question textarea")
    yield Page(tab)
    context.close()
    assert [one for one in elsewhere if not one.startswith((url, "data:", "blob:"))] == []


@pytest.fixture
def page(browser, service) -> Iterator[Page]:
    service.wait_page()
    yield from open_page(browser, service.url, viewport={"width": 1280, "height": 860})


@pytest.fixture
def phone(browser, service) -> Iterator[Page]:
    service.wait_page()
    device = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}
    yield from open_page(browser, service.url, **device)


def test_a_photograph_and_a_question_that_streams(page):
    page.photograph(EXAMPLES / "photographer.jpg")
    page.tab.evaluate(
        """() => {
            window.seen = new Set();
            new MutationObserver(() => {
                const bots = document.querySelectorAll("#chat .bot.message");
                if (bots.length) window.seen.add(bots[bots.length - 1].innerText.trim());
            }).observe(document.querySelector("#chat"), {childList: true, subtree: true, characterData: true});
        }"""
    )
    page.ask("What is in this picture?")
    page.wait_for_the_end()
    assert "man is taking a picture" in page.answers[-1].lower()
    final = page.answers[-1].strip()
    pieces = [text for text in page.tab.evaluate("[...window.seen]") if text and final.startswith(text)]
    assert len(pieces) > 2, "the answer came at once, not in pieces"
    assert re.search(r"[\d.]+ s · .*answering .* tokens", page.tab.inner_text("#status"))
    assert page.tab.locator("#chat img").count() >= 1
    assert page.tab.input_value("#question textarea") == ""


def test_a_follow_up_goes_into_the_same_dialogue(page):
    page.photograph(EXAMPLES / "photographer.jpg")
    page.ask("What is in this picture?")
    page.wait_for_the_end()
    page.ask("How many people are there?")
    page.tab.wait_for_function("document.querySelectorAll('#chat .bot.message').length == 2")
    page.wait_for_the_end()
    assert len(page.answers) == 2 and page.answers[1].strip()
    page.tab.click("#new")
    page.tab.wait_for_function("document.querySelectorAll('#chat .bot.message').length == 0")


def test_speech_is_heard_and_answered(page):
    page.photograph(EXAMPLES / "photographer.jpg")
    page.recording(EXAMPLES / "question.wav")
    page.ask()
    page.wait_for_the_end()
    assert "how many people are there" in page.conversation.lower()
    assert "Heard:" in page.conversation
    assert "one" in page.answers[-1].lower()
    assert "listening" in page.tab.inner_text("#status")


def test_an_example_fills_the_fields(page):
    page.tab.get_by_text("No photograph").first.click()
    page.tab.wait_for_function(
        "document.querySelector('#question textarea').value == 'What is the capital of France?'"
    )
    page.tab.click("#ask")
    page.wait_for_the_end()
    assert "Paris" in page.answers[-1]


def test_errors_are_said_in_words(page, tmp_path: Path):
    page.ask("   ")
    page.wait_for_the_end()
    assert "Nothing was asked" in page.answers[-1]
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"this is no photograph")
    page.tab.set_input_files("#image input[type=file]", broken)
    page.tab.wait_for_selector("#image img")
    page.ask("What is this?")
    page.wait_for_the_end()
    assert "That did not work" in page.answers[-1] and "image" in page.answers[-1]
    assert str(tmp_path) not in page.conversation
    assert page.tab.input_value("#question textarea") == "What is this?", "the question can be sent again"


def test_stop_frees_the_engine(page, service):
    page.tab.click("#sampling button")
    for label, value in (("Temperature", "2"), ("Longest answer, in tokens", "500")):
        page.tab.get_by_label(f"number input for {label}").fill(value)
        page.tab.keyboard.press("Tab")
    page.ask("Write a very long story.")
    page.tab.wait_for_function("document.querySelectorAll('#chat .bot.message').length == 1")
    page.tab.click("#stop")
    page.tab.wait_for_function("document.querySelector('#status').innerText.includes('Stopped')")
    page.wait_for_the_end()
    service.until(lambda: service.metric("service_running") == 0)
    service.until(lambda: service.metric("service_requests_in_progress") == 0)
    assert page.tab.inner_text("#status") == "Stopped.", "what came late was shown"


def test_new_in_mid_answer_clears_the_page_for_good(page, service):
    page.ask("Write a very long story about the sea, the wind and the ships.")
    page.tab.wait_for_function("document.querySelectorAll('#chat .bot.message').length == 1")
    page.tab.click("#new")
    page.tab.wait_for_function("document.querySelectorAll('#chat .message').length == 0")
    service.until(lambda: service.metric("service_requests_in_progress") == 0)
    page.ask("What is the capital of France?")
    page.wait_for_the_end()
    assert len(page.answers) == 1 and "Paris" in page.answers[0]


def test_closing_the_tab_frees_the_engine(page, service):
    page.ask("Write a very long story about the sea, the wind and the ships.")
    service.until(lambda: service.metric("service_running") == 1)
    page.tab.close()
    service.until(lambda: service.metric("service_requests_in_progress") == 0)
    service.until(lambda: service.metric("service_running") == 0)
    assert service.client.get("/ready").status_code == 200


def test_a_phone(phone):
    assert phone.tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    phone.photograph(EXAMPLES / "photographer.jpg")
    phone.ask("What is the man looking at?")
    phone.wait_for_the_end()
    assert "camera" in phone.answers[-1].lower()
    assert phone.tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    for selector in ("#ask", "#stop", "#new", "#question textarea"):
        box = phone.tab.locator(selector).bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 390 and box["height"] >= 36, selector


def test_paths_beside_the_page_keep_to_themselves(service, repository: Path):
    service.wait_page()
    secret = repository / "pyproject.toml"
    assert service.client.get(f"/gradio_api/file={secret}").status_code in (403, 404)
    for path in ("/nowhere", "/gradio_api/nowhere", "/v1/nowhere"):
        assert service.client.get(path).json()["error"]["code"] == "not_found"
    assert service.client.get("/generate").status_code == 405
    assert "default-src 'self'" in service.client.get("/").headers["content-security-policy"]
