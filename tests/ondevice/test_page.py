"""The page of `hfcap export --web` in a headless Chromium: its pixels, captions and words, and what axe-core finds."""

import functools
import json
import os
import shutil
import subprocess
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageFilter

from hfcap.content_hashes import file_sha256
from hfcap.data.pictures import load_picture
from hfcap.hub.onnx_quantization import quantize
from hfcap.ondevice import Captioner
from hfcap.ondevice.web_page import find_archives, write_page
from tiny.onnx_export import change, make_export

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium: apt-get install chromium"),
    pytest.mark.skipif(shutil.which("npm") is None, reason="needs npm"),
]
AXE = "axe-core@4.14.1"
LONGEST = 180_000  # milliseconds of waiting, on a busy machine


@pytest.fixture(scope="module")
def packages():
    """The folder of the archives, from the cache or by npm; without a network the tests are skipped."""
    try:
        archives = find_archives(None)
    except ValueError as error:
        if "npm pack" not in str(error):
            raise
        pytest.skip(f"the npm packages are not here: {error}")
    return archives[0].parent


@pytest.fixture(scope="module", params=["encoder_decoder", "decoder_only"])
def site(request, packages, tmp_path_factory):
    folder = make_export(tmp_path_factory.mktemp("site") / "model", request.param)
    write_page(folder, packages)
    return folder


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def served():
    """Serve a folder; returns its address."""
    servers = []

    def serve(folder):
        handler = functools.partial(Quiet, directory=str(folder))
        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}/"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def playwright():
    with sync_api.sync_playwright() as playwright:
        yield playwright


@pytest.fixture(scope="module")
def browser(playwright):
    browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
    yield browser
    browser.close()


@pytest.fixture
def page(browser):
    """A page that may fetch from the test's own server alone."""
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    context.set_default_timeout(LONGEST)
    page = context.new_page()
    page.asked = []
    page.on("request", lambda request: page.asked.append(request.url))
    yield page
    context.close()


def swapped_profile():
    """An ICC profile that turns red into blue: where it is applied, captions change."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return profile.replace(b"rXYZ", b"....", 1).replace(b"bXYZ", b"rXYZ", 1).replace(b"....", b"bXYZ", 1)


def picture(seed, size, color):
    """A soft picture of a color."""
    noise = np.random.default_rng(seed).normal(0, 60, (size[1], size[0], 3))
    return Image.fromarray((np.array(color) + noise).clip(0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(2))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    picture(0, (90, 60), (220, 40, 30)).save(folder / "icc.jpg", quality=90, icc_profile=swapped_profile())
    exif = Image.Exif()
    exif[0x0112] = 6
    half = picture(1, (91, 61), (30, 200, 40))
    half.paste((0, 0, 0), (0, 0, 40, 61))
    half.save(folder / "turned.jpg", quality=90, exif=exif)
    alpha = picture(2, (64, 80), (20, 40, 90)).convert("RGBA")
    alpha.putalpha(Image.linear_gradient("L").resize((64, 80)))
    alpha.save(folder / "alpha.png")
    picture(3, (17, 131), (200, 200, 20)).save(folder / "narrow.png")
    picture(4, (133, 19), (90, 20, 200)).save(folder / "wide.webp", lossless=True)
    picture(5, (40, 40), (128, 128, 128)).convert("L").save(folder / "grey.png")
    picture(6, (50, 70), (240, 240, 240)).save(folder / "two words & 'quotes'.jpg", quality=80)
    return sorted(folder.iterdir())


def read_captions(page, photos, num_unread=0):
    page.set_input_files("#chooser", [str(photo) for photo in photos])
    sync_api.expect(page.locator("#status")).to_contain_text(
        f"{len(photos) - num_unread} photos done.", timeout=LONGEST
    )
    return page.eval_on_selector_all("#photos textarea", "all => all.map(one => one.value)")


def open_page(page, address):
    page.goto(address)
    sync_api.expect(page.locator("#status")).not_to_contain_text("loading", timeout=LONGEST)


DECODED = """async (address) => {
  const { decode } = await import(new URL("web/pixels.js", document.baseURI));
  const image = await decode(await (await fetch(address)).blob());
  return [image.width, image.height, ...image.data];
}"""


def test_captions_are_those_of_python_and_all_is_local(site, photos, served, page, tmp_path):
    captioner = Captioner(site)
    expected = captioner.caption(photos, num_beams=1)
    assert len(set(expected)) > 3 and any("'s" in caption for caption in expected), expected
    address = served(site)
    open_page(page, address)
    assert page.text_content("#status").startswith("The model is ready")
    assert read_captions(page, photos) == expected
    assert page.eval_on_selector_all("#photos img", "all => all.map(one => one.alt)") == expected
    others = [url for url in page.asked if not url.startswith((address, f"blob:{address}", "data:"))]
    assert not others


@pytest.mark.parametrize(("variant", "dtype", "suffix"), [("float16", "fp16", "_fp16"), ("int8", "q8", "_quantized")])
def test_quantized_variants_are_loaded_by_their_names(
    packages, photos, served, page, tmp_path, variant, dtype, suffix
):
    """Operators of the variants, and the files that transformers.js asks for."""
    folder = make_export(tmp_path / "model")
    settings = json.loads((folder / "hfcap_ondevice.json").read_text(encoding="utf-8"))
    graphs = settings["variants"]["none"]
    for name in graphs:
        source, target = folder / "onnx" / f"{name}.onnx", folder / "onnx" / f"{name}{suffix}.onnx"
        quantize(source, target, variant)
        source.unlink()
        graphs[name] = {"file": f"onnx/{target.name}", "bytes": target.stat().st_size, "sha256": file_sha256(target)}
    change(folder, "hfcap_ondevice", variants={variant: graphs})
    change(folder, "config", **{"transformers.js_config": {"dtype": dtype}})
    write_page(folder, packages)
    open_page(page, served(folder))
    assert read_captions(page, photos) == Captioner(folder).caption(photos, num_beams=1)


def test_webgpu_gives_the_same_captions(site, photos, served, playwright):
    """In software, which takes no graphics card."""
    flags = ["--no-sandbox", "--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader"]
    browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
    try:
        page = browser.new_page()
        page.set_default_timeout(LONGEST)
        open_page(page, served(site))
        if not page.evaluate("(async () => Boolean(await navigator.gpu?.requestAdapter()))()"):
            pytest.skip("this Chromium has no WebGPU in software")
        assert page.text_content("#status").startswith("The model is ready (WebGPU)")
        assert read_captions(page, photos) == Captioner(site).caption(photos, num_beams=1)
    finally:
        browser.close()


def test_photos_are_decoded_as_by_pillow(site, photos, served, page):
    for photo in photos:
        shutil.copy(photo, site / photo.name)
    open_page(page, served(site))
    for photo in photos:
        wanted = load_picture(photo)
        width, height, *values = page.evaluate(DECODED, photo.name.replace("&", "%26"))
        assert (width, height) == wanted.size, photo.name
        difference = np.abs(np.array(values).reshape(height, width, 3) - np.asarray(wanted, int)).max()
        assert difference <= (1 if photo.name == "alpha.png" else 0), photo.name


@pytest.mark.parametrize("width", [1200, 360])
def test_people_can_use_it(site, photos, served, page, packages, tmp_path, width):
    page.set_viewport_size({"width": width, "height": 800})
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    open_page(page, served(site))
    (tmp_path / "text.jpg").write_text("no photo")
    captions = read_captions(page, [*photos[:2], tmp_path / "text.jpg"], num_unread=1)
    assert page.text_content("#status") == "2 photos done. 1 file could not be read."
    said = "This file cannot be read as a photo: save it as JPEG or PNG and choose it again."
    assert page.text_content(".failed .message") == said
    page.focus("#photo-1")
    page.keyboard.press("End")
    page.keyboard.type(" by hand")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    sync_api.expect(page.locator(".message").first).to_have_text("Copied.")
    assert page.evaluate("navigator.clipboard.readText()") == f"{captions[0]} by hand"
    page.click("#copy-all")
    sync_api.expect(page.locator("#status")).to_have_text("2 alt texts copied.")
    lines = [f"{photos[0].name}\t{captions[0]} by hand", f"{photos[1].name}\t{captions[1]}"]
    assert page.evaluate("navigator.clipboard.readText()") == "\n".join(lines)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert not serious_findings(page, tmp_path)
    if folder := os.environ.get("HFCAP_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"page-{width}.png", full_page=True)


def serious_findings(page, tmp_path):
    done = subprocess.run(["npm", "pack", AXE, "--pack-destination", tmp_path], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"axe-core is not here: {done.stderr[-300:]}")
    shutil.unpack_archive(next(tmp_path.glob("axe-core*.tgz")), tmp_path, "gztar")
    page.evaluate((tmp_path / "package" / "axe.min.js").read_text(encoding="utf-8"))
    found = page.evaluate("axe.run()")["violations"]
    return [(one["id"], one["nodes"][0]["html"]) for one in found if one["impact"] in ("serious", "critical")]


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (lambda folder: (folder / "onnx" / "decoder_model_merged.onnx").unlink(), "decoder_model_merged.onnx"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer.json"),
        (lambda folder: (folder / "hfcap_ondevice.json").unlink(), "hfcap_ondevice.json"),
        (lambda folder: (folder / "hfcap_ondevice.json").write_text('{"layout'), "is damaged"),
        (lambda folder: (folder / "web" / "pixels.js").unlink(), "missing or damaged"),
        (lambda folder: change(folder, "hfcap_ondevice", layout="other"), "another kind"),
    ],
)
def test_what_is_wrong_is_one_line_of_the_page(packages, served, page, tmp_path, break_it, said):
    folder = make_export(tmp_path / "model")
    write_page(folder, packages)
    break_it(folder)
    open_page(page, served(folder))
    problem = page.text_content("#problem")
    assert said in problem and "\n" not in problem and page.is_visible("#problem")
    assert page.is_disabled("#chooser")
    assert json.dumps(problem)
