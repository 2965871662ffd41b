"""The raters' page in a real browser, from a file, without any server."""

import json
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from deid.study.answers import read_answers, read_key
from deid.study.build import Plan, build
from tests import test_page
from tests.conftest import ROOT
from tests.test_page import DESK, PHONE

pytestmark = test_page.pytestmark
browser, axe = test_page.browser, test_page.axe


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    samples = sorted((ROOT / "data/samples").glob("*.png"))[:4]
    for method in ("original", "mask"):
        (folder / method).mkdir()
        for file in samples:
            with Image.open(file) as picture:
                made = picture if method == "original" else Image.new("RGB", picture.size, "gray")
                made.convert("RGB").save(folder / method / file.name)
    build(folder, folder / "study", Plan(pictures=6, raters=3))
    return folder / "study"


def opened(
    browser: Browser, study: Path, size: dict[str, int] = DESK, scheme: str = "light"
) -> Page:
    context = browser.new_context(
        viewport=size,
        color_scheme=scheme,
        bypass_csp=True,
        offline=True,  # type: ignore[arg-type]
    )
    page = context.new_page()
    page.on("pageerror", lambda error: pytest.fail(str(error)))
    page.goto(f"{(study / 'index.html').as_uri()}#2")
    return page


def exported(page: Page, kind: str, to: Path) -> Path:
    with page.expect_download() as download:
        page.get_by_role("button", name=f"Export as {kind}").click()
    file = to / download.value.suggested_filename
    download.value.save_as(file)
    return file


def test_a_rater_answers_by_keys_alone_goes_back_and_exports(
    browser: Browser, study: Path, tmp_path: Path
) -> None:
    page, key = opened(browser, study), read_key(study / "key.json")
    assert page.get_by_label("Your number").input_value() == "2"
    page.get_by_role("button", name="Begin").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Picture 1 of 6")).to_be_focused()
    for answer in "ynynn":
        page.keyboard.press(answer)
    page.keyboard.press("ArrowLeft")
    expect(page.get_by_role("button", name="Not altered")).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("y")
    page.keyboard.press("n")
    expect(page.get_by_role("heading", name="Thank you")).to_be_focused()
    names = page.evaluate("STUDY.orders[1]")
    said = dict(zip(names, (letter == "y" for letter in "ynynyn"), strict=True))
    for kind in ("JSON", "CSV"):
        file = exported(page, kind, tmp_path)
        assert read_answers([file], key) == {2: said}
    page.context.close()


def test_answers_stay_in_the_browser_and_another_rater_starts_afresh(
    browser: Browser, study: Path
) -> None:
    page = opened(browser, study)
    page.get_by_role("button", name="Begin").click()
    page.get_by_role("button", name="Altered", exact=False).first.click()
    page.get_by_role("button", name="Not altered").click()
    page.reload()
    page.get_by_role("button", name="Begin").click()
    expect(page.get_by_role("heading", name="Picture 3 of 6")).to_be_visible()
    page.reload()
    page.get_by_label("Your number").select_option("3")
    page.get_by_role("button", name="Begin").click()
    expect(page.get_by_role("heading", name="Picture 1 of 6")).to_be_visible()
    kept = page.evaluate("JSON.stringify(localStorage)")
    assert len(json.loads(kept)) == 1
    page.context.close()


def test_a_page_that_cannot_keep_answers_says_so_and_still_exports(
    browser: Browser, study: Path, tmp_path: Path
) -> None:
    page = opened(browser, study)
    page.evaluate("() => { Storage.prototype.setItem = () => { throw new Error('full'); }; }")
    page.get_by_role("button", name="Begin").click()
    page.keyboard.press("y")
    expect(page.get_by_role("status")).to_contain_text("export before you close")
    assert len(json.loads(exported(page, "JSON", tmp_path).read_text())["answers"]) == 1
    page.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])
def test_axe_finds_nothing_and_all_is_on_the_screen(
    browser: Browser, study: Path, axe: str, scheme: str, size: dict[str, int]
) -> None:
    page = opened(browser, study, size, scheme)
    page.evaluate(axe)
    for stage in ("welcome", "rating", "done"):
        if stage == "rating":
            page.get_by_role("button", name="Begin").click()
            box = page.get_by_role("button", name="Not altered").bounding_box()
            assert box is not None
            assert box["y"] + box["height"] <= size["height"]  # no scrolling between pictures
        if stage == "done":
            for _ in range(6):
                page.keyboard.press("n")
        expect(page.locator(f"#{stage}")).to_be_visible()
        found = page.evaluate("axe.run()")["violations"]
        assert [(v["id"], [n["html"] for n in v["nodes"]]) for v in found] == []
        assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
    page.context.close()
