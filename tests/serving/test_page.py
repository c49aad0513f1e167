"""The chat page in headless Chromium. `LMCRAFT_SCREENSHOTS=folder` keeps pictures of it."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from headless import chromium

from lmcraft.inference import Sampling
from lmcraft.inference.batch import Row

pytestmark = pytest.mark.browser


@pytest.fixture
def browser(tmp_path: Path) -> Iterator:
    with chromium(tmp_path / "profile") as driver:
        yield Page(driver)
        complaints = [
            entry
            for entry in driver.get_log("browser")
            if entry["level"] == "SEVERE" and "status of 4" not in entry["message"]
        ]
        assert complaints == []  # among them every breach of the Content-Security-Policy


class Page:
    def __init__(self, driver) -> None:
        self.driver = driver

    def open(self, url: str) -> None:
        self.driver.get(url)
        self.until(lambda: self.text("#name") == "tiny")
        self.set("#temperature", "0")
        self.set("#tokens", "24")

    def all(self, css: str) -> list:
        return self.driver.find_elements("css selector", css)

    def text(self, css: str, index: int = -1) -> str:
        found = self.all(css)
        return found[index].get_property("textContent") if found else ""

    def set(self, css: str, value: str) -> None:
        self.driver.execute_script("document.querySelector(arguments[0]).value = arguments[1]", css, value)

    def write(self, *keys: str) -> None:
        self.all("#message")[0].send_keys(*keys)

    def click(self, css: str) -> None:
        self.all(css)[-1].click()

    def until(self, condition, seconds: float = 20) -> None:
        from selenium.webdriver.support.ui import WebDriverWait

        WebDriverWait(self.driver, seconds, poll_frequency=0.02).until(lambda _: condition())

    def answered(self, count: int) -> None:
        self.until(lambda: len(self.all(".assistant")) == count and self.text("#send") == "Send")

    def picture(self, name: str) -> None:
        if folder := os.environ.get("LMCRAFT_SCREENSHOTS"):
            self.driver.save_screenshot(str(Path(folder) / f"{name}.png"))


def _answer(served, *messages: tuple[str, str], max_tokens: int = 24) -> str:
    prompt = served.engine.tokenizer.encode_prompt([{"role": role, "content": content} for role, content in messages])
    return served.engine.generate([prompt], Sampling(temperature=0, max_tokens=max_tokens))[0].text


def test_a_conversation(browser: Page, served, slow_steps) -> None:
    """Typed with the keyboard, streamed, several turns, settings, copy and a new chat."""
    browser.open(served.url)
    assert "can be wrong" in browser.text("#hint")
    assert "96 tokens" in browser.text("#size")
    browser.picture("page-welcome")
    browser.write("Paris")
    browser.driver.switch_to.active_element.send_keys("\ue007")  # Enter
    seen = set()
    browser.until(lambda: seen.add(browser.text(".assistant .text")) or browser.text("#send") == "Stop")
    browser.until(lambda: seen.add(browser.text(".assistant .text")) or browser.text("#send") == "Send")
    first = _answer(served, ("user", "Paris"))
    assert browser.text(".assistant .text") == first
    assert len(seen) > 3 and all(first.startswith(part) for part in seen)  # it was seen growing
    assert browser.text("#spoken") == first
    browser.write("Où", "\ue008\ue007\ue000", "?")  # Shift-Enter
    browser.click("#send")
    browser.answered(2)
    assert browser.text(".user .text") == "Où\n?"
    assert browser.text(".assistant .text") == _answer(
        served, ("user", "Paris"), ("assistant", first), ("user", "Où\n?"), max_tokens=24
    )
    browser.click("#gear")
    browser.set("#system", "Be brief.")
    browser.click("#fresh")
    assert browser.all(".turn") == []
    browser.write("Paris\ue007")
    browser.answered(1)
    assert browser.text(".assistant .text") == _answer(served, ("system", "Be brief."), ("user", "Paris"))
    browser.click(".assistant button")
    browser.until(lambda: browser.text(".assistant button") in ("Copied", "Selected"))


def test_the_stop_button_ends_the_answer_and_the_generation(browser: Page, served, slow_steps) -> None:
    browser.open(served.url)
    browser.set("#tokens", "80")
    browser.write("Paris\ue007")
    browser.until(lambda: browser.text(".assistant .text"))
    browser.click("#send")
    browser.until(lambda: browser.text("#send") == "Send")
    browser.until(lambda: served.scheduler.running == 0, 3)
    assert "stopped" in browser.text(".assistant .tools")
    part = browser.text(".assistant .text")
    assert part and _answer(served, ("user", "Paris"), max_tokens=80).startswith(part)


def test_markup_is_shown_and_never_run(browser: Page, served, monkeypatch: pytest.MonkeyPatch) -> None:
    attack = "<img src=x onerror=document.title=1><script>document.title=1</script>"
    accept = Row.accept

    def hostile(self: Row, token: int) -> str:
        accept(self, token)
        self.finish = "stop"
        return attack

    browser.open(served.url)
    monkeypatch.setattr(Row, "accept", hostile)
    browser.write(attack[:36], "\ue007")
    browser.answered(1)
    assert browser.text(".assistant .text") == attack and browser.text(".user .text") == attack[:36]
    assert browser.driver.title == "tiny" and browser.all("main img, main script") == []


def test_a_full_context_and_a_message_that_cannot_fit(browser: Page, served) -> None:
    browser.open(served.url)
    for count in range(1, 5):
        browser.write("Paris is the capital of France\ue007")
        browser.answered(count)
    assert "oldest turns are forgotten" in browser.text("#talk .note")
    browser.write("Paris xyz " * 60, "\ue007")
    browser.until(lambda: "context of the model is 96 tokens" in browser.text("#status"))
    assert len(browser.all(".turn")) == 8
    assert browser.all("#message")[0].get_property("value").startswith("Paris xyz")


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_the_window(browser: Page, served, width: int, scheme: str) -> None:
    browser.driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 500},
    )
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    browser.open(served.url)
    browser.picture(f"welcome-{width}-{scheme}")
    for count, message in enumerate(("What is Paris?", "word " * 3 + "x" * 20), 1):
        browser.write(message, "\ue007")
        browser.answered(count)
    browser.picture(f"talk-{width}-{scheme}")
    browser.click("#gear")
    browser.picture(f"settings-{width}-{scheme}")
    overflow = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert browser.driver.execute_script(overflow) <= 0
    for field in browser.driver.find_elements("css selector", "button, input, textarea"):
        if field.is_displayed():
            assert field.accessible_name and field.rect["height"] >= 20
