"""The page at /, in a real browser without a window: people's way to a safe picture."""

import hashlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.conftest import ROOT
from tests.serving import PAIR, SAMPLES, Served, pixels, serving

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed"),
]
TOKEN = "a token of the page"
expect.set_options(timeout=60_000)  # on a busy machine
PHONE = {"width": 375, "height": 720}
DESK = {"width": 1200, "height": 900}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("serve")
    tokens = folder / "tokens"
    tokens.write_text(hashlib.sha256(TOKEN.encode()).hexdigest())
    with serving(folder, "--tokens", str(tokens)) as server:
        yield server


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as play:
        options = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        found = play.chromium.launch(executable_path=CHROMIUM, args=options)
        yield found
        found.close()


@pytest.fixture(scope="session")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """axe-core, which judges a page's accessibility; fetched by npm."""
    npm, folder = shutil.which("npm"), tmp_path_factory.mktemp("axe")
    if npm is None:
        pytest.skip("no npm, which fetches axe-core")
    command = [npm, "install", "--silent", "--no-audit", "--ignore-scripts", "axe-core@4"]
    done = subprocess.run(command, cwd=folder, capture_output=True, timeout=120)
    script = folder / "node_modules/axe-core/axe.min.js"
    if done.returncode or not script.is_file():
        pytest.skip("npm could not fetch axe-core")
    return script.read_text()


def opened(
    browser: Browser, served: Served, size: dict[str, int], **options: Any
) -> tuple[Page, list[str]]:
    """The page, its token given; and the addresses that it asks for, filled as it does."""
    context = browser.new_context(viewport=size, **options)  # type: ignore[arg-type]
    context.set_default_timeout(60_000)
    page, asked = context.new_page(), []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: print(message.text))
    page.goto(served.url)
    page.get_by_label("Token of this service").fill(TOKEN)
    page.get_by_role("button", name="Continue").click()
    expect(page.get_by_role("radio", name="Cover")).to_be_visible()
    return page, asked


def added(page: Page, *files: Path) -> None:
    page.get_by_label("Choose pictures").set_input_files(files)
    for number in range(len(files)):
        expect(page.locator(".card").nth(number).locator(".verdict")).to_contain_text(
            "verified", timeout=60_000
        )


def downloaded(page: Page) -> bytes:
    with page.expect_download() as download:
        page.locator(".download").first.click()
    return Path(download.value.path()).read_bytes()


def test_a_person_makes_a_picture_safe_keeps_a_face_and_takes_it_home(
    browser: Browser, served: Served
) -> None:
    page, asked = opened(browser, served, DESK)
    added(page, PAIR)
    before, after = pixels(PAIR.read_bytes()), pixels(downloaded(page))
    boxes = [(189, 15, 247, 93), (71, 116, 136, 195)]
    for x0, y0, x1, y1 in boxes:
        middle = slice(y0 + 20, y1 - 20), slice(x0 + 15, x1 - 15)
        assert (before[middle] != after[middle]).mean() > 0.5
    keep = page.locator(".faces").get_by_role("button", name="Keep face 2")
    keep.focus()
    page.keyboard.press("Enter")
    expect(page.locator(".verdict")).to_have_text("1 face changed and verified, 1 kept by you")
    expect(keep).to_be_focused()
    expect(page.locator("#said")).to_contain_text("1 kept by you")
    after = pixels(downloaded(page))
    kept = [
        np.array_equal(
            before[y0 + 20 : y1 - 20, x0 + 15 : x1 - 15],
            after[y0 + 20 : y1 - 20, x0 + 15 : x1 - 15],
        )
        for x0, y0, x1, y1 in boxes
    ]
    assert kept == [False, True]
    page.locator(".boxes").get_by_role("button", name="Keep face 2").click()
    expect(page.locator(".verdict")).to_have_text("2 faces changed and verified")
    assert {
        url.split("/v1")[0].split("/page")[0] for url in asked if not url.startswith("blob:")
    } == {served.url, served.url.rstrip("/")}
    assert page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]") == [
        0,
        0,
        "",
    ]
    page.context.close()


def test_another_method_is_applied_to_what_is_there_and_the_slider_moves_by_keys(
    browser: Browser, served: Served
) -> None:
    page, _ = opened(browser, served, DESK)
    added(page, PAIR)
    page.get_by_role("radio", name="Cover").check()
    expect(page.locator(".verdict")).to_contain_text("2 of them covered")
    slider = page.get_by_label("how much of the original is shown")
    slider.focus()
    page.keyboard.press("End")
    assert page.locator(".compare").evaluate("e => e.style.getPropertyValue('--at')") == "100%"
    page.get_by_role("radio", name="Noise", exact=False).first.check()
    expect(page.get_by_label("Strength of the noise")).to_be_visible()
    page.context.close()


def test_what_is_no_picture_is_said_and_gives_no_download(
    browser: Browser, served: Served, tmp_path: Path
) -> None:
    page, _ = opened(browser, served, DESK)
    (tmp_path / "torn.png").write_bytes(PAIR.read_bytes()[:900])
    page.get_by_label("Choose pictures").set_input_files([tmp_path / "torn.png"])
    expect(page.locator(".verdict.bad")).to_have_text("Not a whole picture")
    expect(page.locator(".download")).to_be_hidden()
    expect(page.locator(".compare")).to_be_hidden()
    page.context.close()


def test_a_service_that_keeps_no_face_offers_none_to_keep(browser: Browser, tmp_path: Path) -> None:
    with serving(tmp_path, "--no-keep") as server:
        page = browser.new_context(viewport=DESK).new_page()  # type: ignore[arg-type]
        page.goto(server.url)
        added(page, PAIR)
        expect(page.locator(".verdict")).to_have_text("2 faces changed and verified")
        expect(page.locator(".faces li")).to_have_count(2)
        for offered in page.get_by_role("button", name="Keep").all():
            expect(offered).to_be_hidden()
        expect(page.get_by_text("Every face is changed unless you keep it.")).to_be_hidden()
        page.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])
def test_axe_finds_nothing_and_nothing_is_wider_than_the_screen(
    browser: Browser, served: Served, axe: str, scheme: str, size: dict[str, int]
) -> None:
    page, _ = opened(browser, served, size, color_scheme=scheme, bypass_csp=True)
    for stage in ("empty", "filled"):
        if stage == "filled":
            added(page, PAIR, SAMPLES / "portrait.png")
        page.evaluate(axe)
        found = page.evaluate("axe.run()")["violations"]
        assert [(v["id"], [n["html"] for n in v["nodes"]]) for v in found] == []
        width = page.evaluate("document.documentElement.scrollWidth")
        assert width <= size["width"]
    page.context.close()


def test_the_page_names_nothing_outside() -> None:
    for file in (ROOT / "deid/serve/page").iterdir():
        text = file.read_text().replace('xmlns="http://www.w3.org/2000/svg"', "")
        assert "http" not in text.replace("http-equiv", ""), file
