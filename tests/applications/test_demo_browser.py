"""`hfcap demo` in Chromium, as a person uses it, and axe-core's judgement of each tab.

Needs `pip install playwright` (its client alone, no browser of its own), Debian's chromium and, for axe-core, npm.
"""

import json
import shutil
import subprocess
import sys
import tarfile

import pytest
import torch
from test_demo import free_port

from hfcap.applications.rows import empty_row, read_rows, write_rows
from hfcap.content_hashes import file_sha256
from moderation_rows import row, write_policy
from moderation_rows import write_rows as write_tags
from tiny.captioners import build_joined, captions_of

pytestmark = pytest.mark.slow

CHROMIUM = "/usr/bin/chromium"
SECONDS = 240  # on a busy machine
# What axe-core finds at Gradio's own upload button: its label says nothing of "- or -" and "Click to upload" in it.
OF_GRADIO = {("label-content-name-mismatch", "button.upload-container")}


@pytest.fixture
def axe(tmp_path_factory):
    """The source of axe-core, by npm."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed: no axe-core")
    place = tmp_path_factory.mktemp("axe")
    done = subprocess.run(["npm", "pack", "axe-core"], cwd=place, capture_output=True, text=True, timeout=SECONDS)
    if done.returncode:
        pytest.skip(f"npm cannot get axe-core: {done.stderr.strip()[-200:]}")
    (archive,) = place.glob("axe-core-*.tgz")
    with tarfile.open(archive) as package:
        return package.extractfile("package/axe.min.js").read().decode()


@pytest.fixture(scope="module")
def place(tmp_path_factory, scene_rows):
    """A folder with a captioner, a photo and a file that is none."""
    place = tmp_path_factory.mktemp("demo")
    torch.manual_seed(0)
    model, processor = build_joined("encoder_decoder", captions_of(scene_rows))
    model.generation_config.max_new_tokens = 12
    model.save_pretrained(place / "run" / "model")
    processor.save_pretrained(place / "run" / "model")
    scene_rows[0]["image"].save(place / "a.png")
    (place / "broken.png").write_bytes(b"no picture")
    return place


@pytest.fixture
def alts(place):
    """Three rows to decide on; the page reads them when it is loaded."""
    rows = [
        empty_row()
        | {"id": f"a.html:{line}:1", "file": "a.html", "line": line, "column": 1, "kind": "img", "src": image}
        | {"image": image, "role": "informative", "suggestion": f"Proposal {line}.", "context": {"before": "Before."}}
        for line, image in ((1, "a.png"), (2, "a.png"), (3, "broken.png"))
    ]
    return write_rows(place / "alts.jsonl", rows)


@pytest.fixture(scope="module")
def tags(place):
    """Two pictures that may show smoking; the page of all windows decides on them."""
    policy, rows = write_policy(place), []
    for name, score in (("pipe", 0.9), ("steam", 0.8)):
        shutil.copy(place / "a.png", place / f"{name}.png")
        decision = {"smoking": "review", "weapon": "none"}
        rows.append(
            row(policy, name, {"smoking": score, "weapon": 0.1}, path=f"{name}.png", decision=decision)
            | {"image_sha256": file_sha256(place / f"{name}.png")}
        )
    return write_tags(place / "tags.jsonl", rows)


@pytest.fixture(scope="module")
def address(place, tags):
    """The address of a running demo; it ends behind the last test."""
    pytest.importorskip("gradio", reason='needs pip install "hfcap[demo]"')
    write_rows(place / "alts.jsonl", [])
    command = [sys.executable, "-m", "hfcap.cli", "demo", "--model", "run", "--review", "alts.jsonl"]
    command += ["--tags", "tags.jsonl", "--port", str(free_port())]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=place) as process:
        yield process.stdout.readline().split()[0]
        process.terminate()
    assert process.returncode == 0


@pytest.fixture(scope="module")
def browser():
    """Debian's Chromium, headless."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs pip install playwright")
    if shutil.which(CHROMIUM) is None:
        pytest.skip(f"{CHROMIUM} is not there: apt-get install chromium")
    with playwright.sync_playwright() as client:
        browser = client.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def opened(browser, address, **context):
    """Return a page, and the hosts that it asks for anything."""
    page = browser.new_context(accept_downloads=True, **context).new_page()
    page.set_default_timeout(1000 * SECONDS)
    hosts = set()
    page.on("request", lambda request: hosts.add(request.url.split("/")[2]) if request.url[:4] == "http" else None)
    page.goto(address)
    return page, hosts


def wait_for_text(page, selector, text):
    page.locator(selector).filter(has_text=text).wait_for()


def wait_for_checked(radio):
    radio.and_(radio.page.locator(":checked")).wait_for()


def decisions(alts):
    return [(row["status"], row["alt"]) for row in read_rows(alts)]


def test_read_a_description_choose_correct_and_save(address, browser, place, alts):
    page, hosts = opened(browser, address)
    wait_for_text(page, "#description [role=status]", "Choose a photo first.")
    page.get_by_role("button", name="Describe").click()
    wait_for_text(page, "#description", "There is no photo yet: choose one first.")
    page.locator("#describe-photo input[type=file]").set_input_files(place / "broken.png")
    wait_for_text(page, "#description", "This photo cannot be read: no picture, or a format that cannot be read.")
    page.get_by_role("button", name="Remove Image").click()
    wait_for_text(page, "#description", "Choose a photo first.")
    page.locator("#describe-photo input[type=file]").set_input_files(place / "a.png")
    wait_for_text(page, "#description", "Automatic description, may be wrong.")
    page.locator("#description").get_by_role("heading", level=3).wait_for()
    assert page.locator("#describe-photo img").get_attribute("alt") == "The photo to describe"

    page.get_by_role("tab", name="Suggest").click()
    page.locator("#suggest-photo input[type=file]").set_input_files(place / "a.png")
    wait_for_text(page, "#suggest-status", "Press Suggest.")
    page.get_by_label("Short, up to 8 words").check()  # which ends captions that a tiny model hardly ever ends
    page.get_by_role("button", name="Suggest").click()
    wait_for_text(page, "#suggest-status", "suggestions by a program, may be wrong.")
    second = page.locator("#suggestions").get_by_role("radio").nth(1)
    second.focus()
    page.keyboard.press("Space")
    caption = page.get_by_label("Your caption")
    page.wait_for_function("document.querySelector('#caption textarea').value")
    chosen = page.locator("#suggestions label").nth(1).inner_text().strip()
    assert caption.input_value() == chosen and second.is_checked()
    first, others = page.get_by_label("2 captions"), page.get_by_role("radio", name="captions")
    first.check()
    for number in (1, 2, 1):  # where each button is a group of its own, arrow keys do nothing
        page.keyboard.press("ArrowLeft" if others.nth(2).is_checked() else "ArrowDown")
        wait_for_checked(others.nth(number))
    caption.fill("A house by the sea.")
    with page.expect_download() as download:
        page.get_by_role("button", name="Save as text").click()
    wait_for_text(page, "#suggest-status", "Saved by the browser as a text file.")
    assert download.value.suggested_filename == "a.txt"
    assert download.value.path().read_text() == "A house by the sea.\n"
    assert hosts == {address.split("/")[2]}


def test_review_accept_edit_undo_in_two_windows(address, browser, place, alts):
    page, _ = opened(browser, address)
    other, _ = opened(browser, address)
    for window in (page, other):
        window.get_by_role("tab", name="Review").click()
        wait_for_text(window, "#review-row h2", "a.html:1:1")
    text = page.get_by_label("Alt text")
    assert text.input_value() == "Proposal 1."
    assert page.locator("#review-picture img").get_attribute("alt") == "The picture to decide on, a.png"
    page.get_by_role("button", name="Accept this text").press("Enter")  # by keyboard alone
    wait_for_text(page, "#review-status [role=status]", "Accepted: “Proposal 1.”. Row 2 of 3; 2 pending.")
    assert decisions(alts)[0] == ("accepted", "Proposal 1.")
    text.fill("The ferry at dawn.")
    page.get_by_role("button", name="Accept this text").click()
    wait_for_text(page, "#review-status", "Edited: “The ferry at dawn.”.")
    wait_for_text(page, "#review-row", "The picture cannot be shown: broken.png")
    assert decisions(alts)[1] == ("edited", "The ferry at dawn.")

    other.get_by_role("button", name="Decorative").click()
    wait_for_text(other, "#review-status", "decided elsewhere meanwhile: accepted as “Proposal 1.”. That stays.")
    assert decisions(alts)[0] == ("accepted", "Proposal 1.")
    other.get_by_role("button", name="Decorative").click()
    wait_for_text(other, "#review-status", "Nothing is left to decide: 1 accepted, 1 edited, 1 decorative.")
    page.get_by_role("button", name="Undo").click()
    wait_for_text(page, "#review-status", "Undone: a.html:2:1 is to be decided again.")
    page.get_by_role("button", name="Skip").click()
    wait_for_text(page, "#review-status", "Nothing is left to decide: 1 accepted, 1 decorative, 1 skipped.")
    assert decisions(alts) == [("accepted", "Proposal 1."), ("skipped", None), ("decorative", None)]


def tab_to(page, name):
    """Press Tab until what is called `name` has the focus."""
    for _ in range(100):
        page.keyboard.press("Tab")
        focused = "e => [e.ariaLabel, e.innerText, e.labels?.[0]?.innerText].map(t => (t ?? '').trim())"
        if name in page.evaluate(f"({focused})(document.activeElement)"):
            return
    raise AssertionError(f"no {name} in 100 presses of Tab")


def test_moderation_by_keyboard_alone_blurred_until_asked_for(address, browser, place):
    page, _ = opened(browser, address)
    picture = page.locator("#moderation-picture img")

    def press(name, status):
        tab_to(page, name)
        page.keyboard.press("Enter")
        wait_for_text(page, "#moderation-status [role=status]", status)

    tab_to(page, "Moderation")
    page.keyboard.press("Enter")
    wait_for_text(page, "#moderation-item h2", "pipe, may show: smoking")
    assert picture.get_attribute("alt") == "The picture to decide on, blurred: pipe"
    press("Show the original", "The picture is shown as it is.")
    assert picture.get_attribute("alt") == "The picture to decide on, as it is: pipe"
    press("Disagree", "Not saved: give a reason")
    tab_to(page, "Reason, needed unless you agree")
    page.keyboard.type("a pencil")
    press("Disagree", "Disagree: pipe, smoking. 1 decided now, 1 waiting.")
    wait_for_text(page, "#moderation-item h2", "steam, may show: smoking")
    page.get_by_alt_text("The picture to decide on, blurred: steam").wait_for()
    press("Undo", "Undone: pipe, smoking. 0 decided now, 2 waiting.")
    page.get_by_alt_text("The picture to decide on, blurred: pipe").wait_for()
    press("Agree: it shows that", "Agree: pipe, smoking. 1 decided now, 1 waiting.")
    lines = [json.loads(line) for line in (place / "decisions.jsonl").read_text().splitlines()]
    assert [line["kind"] for line in lines] == ["decision", "undo", "decision"]
    assert [line.get("reason") for line in lines] == ["a pencil", None, ""]


def test_axe_finds_nothing_serious_but_gradios_upload_button(address, browser, place, alts, axe):
    for scheme in ("light", "dark"):
        page, _ = opened(browser, address, color_scheme=scheme, viewport={"width": 390, "height": 844})
        page.locator("#describe-photo button.upload-container").wait_for()  # seconds, on a busy machine
        found = {"Describe": serious(page, axe)}
        page.locator("#describe-photo input[type=file]").set_input_files(place / "a.png")
        page.locator("#description h3").wait_for()
        found["Describe, with a photo"] = serious(page, axe)
        page.get_by_role("tab", name="Suggest").click()
        found["Suggest"] = serious(page, axe)
        open_last_tab(page, "Review")
        wait_for_text(page, "#review-row h2", "a.html")
        found["Review"] = serious(page, axe)
        open_last_tab(page, "Moderation")
        wait_for_text(page, "#moderation-item h2", "may show: smoking")
        found["Moderation"] = serious(page, axe)
        expected = {"Describe": OF_GRADIO, "Describe, with a photo": set(), "Suggest": OF_GRADIO, "Review": set()}
        expected["Moderation"] = set()
        assert found == expected, scheme
        assert page.evaluate("document.documentElement.scrollWidth") <= 390


def open_last_tab(page, name):
    """Open a tab that a phone shows in a menu."""
    page.get_by_role("button", name="More tabs").click()
    page.get_by_role("button", name=name, exact=True).click()


def serious(page, axe):
    """Return rule and place of what axe-core calls serious or critical on what a page shows."""
    page.wait_for_timeout(1000)  # colours that fade in are judged half-way
    page.evaluate(axe)
    violations = page.evaluate("async () => (await axe.run(document)).violations")
    return {
        (violation["id"], _place(node["html"]))
        for violation in violations
        if violation["impact"] in ("serious", "critical")
        for node in violation["nodes"]
    }


def _place(html):
    return "button.upload-container" if html.startswith('<button class="upload-container') else html
