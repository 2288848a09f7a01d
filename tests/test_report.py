import base64
import io
import re
from html.parser import HTMLParser
from itertools import pairwise

import pytest
from PIL import Image

from hfcap.charts import histogram
from hfcap.report import Example, thumbnail_uri, write_report

METRICS = {
    "schema_version": 1,
    "metrics": {
        "bleu_4": {"value": 0.2, "ci95": [0.15, 0.25]},
        "cider": {"value": 0.531, "ci95": [0.5, 0.56]},
        "novelty": {"value": 0.9, "ci95": [0.9, 0.9]},
    },
    "num_images": 3,
    "tokenizer": "ptb",
    "idf": "references",
    "decoding": {"num_beams": 3},
    "model_artifact": "merged",
}
BEFORE = METRICS | {"metrics": {"cider": {"value": 0.631, "ci95": [0.6, 0.66]}}}
EXAMPLES = [
    Example("b", "a dog runs", ["the dog runs", "one dog"], 0.8),
    Example("a", "a cat", ["the cat", "one cat"], 1.234),
    Example("c", "a bird", ["the fish"], 0.0),
]
VOID = {"meta", "img"}


class _Page(HTMLParser):
    """Collects elements and visible text; fails on elements that are not closed in order."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.elements, self.open, self.text = [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, tag

    def handle_data(self, data):
        if data.strip() and "style" not in self.open and "table" not in self.open:
            self.text.append(" ".join(data.split()))

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def _write(tmp_path, *arguments, **settings):
    arguments = arguments or ("Title", METRICS, EXAMPLES)
    path = write_report(tmp_path / "report.html", *arguments, **settings)
    return path.read_text(encoding="utf-8")


def _picture(image_id, size=(400, 300)):
    return Image.new("RGB", size, {"a": "red", "b": "green"}.get(image_id, "blue"))


# The page


def test_the_whole_text_of_a_small_report(tmp_path):
    page = _Page(_write(tmp_path, details={"learning_rate": 0.1, "absent": None}))
    assert page.text == [
        *["Title", "Title", "3 images, 1 to 2 references each"],
        *["Figures", "Distributions", "Best", "Worst", "Random"],
        *["Figures", "× 100, with 95 % intervals over images"],
        *["CIDEr", "53.1", "50.0 to 56.0", "BLEU-4", "20.0", "15.0 to 25.0", "novelty", "90.0", "90.0 to 90.0"],
        *["How the captions were made", "captions by", "merged model", "num beams", "3"],
        *["tokenizer of the metrics", "ptb", "document frequencies", "references", "learning rate", "0.1"],
        "Distributions",
        *["CIDEr of each image", "captions, median 80", "10 %", "20 %", "30 %", "40 %"],
        *["0 to 10: 33.3 % (1)", "10 to 20: 0.0 % (0)", "20 to 30: 0.0 % (0)", "30 to 40: 0.0 % (0)"],
        *["40 to 50: 0.0 % (0)", "50 to 60: 0.0 % (0)", "60 to 70: 0.0 % (0)", "70 to 80: 0.0 % (0)"],
        *["80 to 90: 33.3 % (1)", "90 to 100: 0.0 % (0)", "100 to 110: 0.0 % (0)", "110 to 120: 0.0 % (0)"],
        *["120 to 130: 33.3 % (1)", "0", "30", "60", "90", "120", "CIDEr × 100", "As a table"],
        *["Caption length", "captions, median 2", "references, median 2", "20 %", "40 %", "60 %", "80 %"],
        *["0: 0.0 % (0)", "1: 0.0 % (0)", "2: 66.7 % (2)", "3: 33.3 % (1)", "0", "1", "2", "3", "words", "As a table"],
        *["Best", "highest CIDEr"],
        *["CIDEr 123.4", "a cat", "the cat", "one cat", "a"],
        *["CIDEr 80.0", "a dog runs", "the dog runs", "one dog", "b"],
        *["Worst", "lowest CIDEr", "CIDEr 0.0", "a bird", "the fish", "c"],
        *["Random", "drawn with seed 0"],
        *["CIDEr 80.0", "a dog runs", "the dog runs", "one dog", "b"],
        *["CIDEr 0.0", "a bird", "the fish", "c"],
        *["CIDEr 123.4", "a cat", "the cat", "one cat", "a"],
    ]


def test_a_figure_of_nothing_has_a_bar_without_width(tmp_path):
    for value in (0.0, 1e-10):
        metrics = METRICS | {"metrics": {"bleu_4": {"value": value, "ci95": [value, value]}}}
        assert 'style="left:0.00%;width:0.00%"' in _write(tmp_path, "Title", metrics, EXAMPLES)


def test_the_same_input_gives_the_same_page(tmp_path):
    first = _write(tmp_path, load_image=_picture)
    assert _write(tmp_path, "Title", METRICS, EXAMPLES[::-1], load_image=_picture) == first
    assert _write(tmp_path, load_image=_picture, seed=1) != first


def test_captions_of_two_models_stand_side_by_side(tmp_path):
    examples = [
        Example("a", "new a", ["r"], 0.5, "old a", 0.1),
        Example("b", "new b", ["r"], 0.2, "old b", 0.9),
        Example("c", "new c", ["r"], 0.3, "old c", 0.3),
    ]
    difference = {"cider": {"value": -0.1, "ci95": [-0.15, -0.05], "p_value": 0.002}}
    text = _Page(
        _write(
            tmp_path,
            *("Title", METRICS, examples),
            before_metrics=BEFORE,
            names=("stage 1", "stage 2"),
            differences=difference,
        )
    ).text
    joined = " | ".join(text)
    assert "3 images, 1 reference each; “stage 2” beside “stage 1”" in text
    assert "53.1 | 50.0 to 56.0 | stage 1 63.1, | −10.0 | 95 % −15.0 to −5.0, p = 0.002" in joined
    assert "stage 2, median 30 | stage 1, median 30" in joined
    # One image gained, one lost, and the one that stayed is in neither.
    gained = joined.index(
        "Gained most | rise of CIDEr | stage 2 · | CIDEr 50.0 | new a | stage 1 · | CIDEr 10.0 | old a"
    )
    lost = joined.index("Lost most | fall of CIDEr | stage 2 · | CIDEr 20.0 | new b | stage 1 · | CIDEr 90.0 | old b")
    random = joined.index("Random | drawn")
    assert gained < lost < random
    assert "new c" not in joined[gained:random]


def test_nothing_in_a_caption_becomes_markup(tmp_path):
    evil = "<script>alert('x')</script> \"><img src=x onerror=y> & {{ 7 * 7 }}"
    example = Example(evil, evil, [evil], 0.5, evil, 0.4)
    plain = _write(tmp_path, "Title", METRICS, [Example("a", "b", ["c"], 0.5, "d", 0.4)], load_image=_picture)
    text = _write(tmp_path, evil, METRICS, [example], load_image=_picture, names=(evil, evil), details={evil: evil})
    page = _Page(text)
    tags = {tag for tag, _ in page.elements}
    assert tags == {tag for tag, _ in _Page(plain).elements}
    assert "script" not in tags
    assert {image["alt"] for image in page.all("img")} == {evil}
    assert page.text.count(evil) >= 4


def test_the_page_needs_nothing_else(tmp_path):
    page = _Page(_write(tmp_path, load_image=_picture))
    loaded = [attributes[key] for _, attributes in page.elements for key in ("src", "href") if key in attributes]
    assert loaded
    assert all(target.startswith(("data:image/jpeg;base64,", "#")) for target in loaded)
    assert any("default-src 'none'" in meta.get("content", "") for meta in page.all("meta"))


def test_the_page_is_accessible(tmp_path):
    page = _Page(_write(tmp_path, load_image=_picture))
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = [link["href"][1:] for link in page.all("a")] + [item["aria-labelledby"] for item in page.all("section")]
    assert set(targets) <= set(ids)
    assert {image["alt"] for image in page.all("img")} == {"a dog runs", "a cat", "a bird"}
    assert all(drawing.get("aria-label") or drawing.get("aria-hidden") for drawing in page.all("svg"))
    assert page.all("html") == [{"lang": "en"}]
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


def _contrast(one, other):
    def luminance(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


def test_text_has_contrast_in_light_and_dark(tmp_path):
    # WCAG 2.2, 1.4.3: 4.5 for text.
    themes = re.findall(r":root \{(.*?)\}", _write(tmp_path), re.S)
    assert len(themes) == 2
    for theme in themes:
        colours = dict(re.findall(r"--(\w+): (#\w{6})", theme))
        for text in ("ink", "soft", "main", "other"):
            for ground in ("page", "card"):
                assert _contrast(colours[text], colours[ground]) >= 4.5, (text, ground, theme)


def test_pictures_are_loaded_only_where_shown_and_may_be_absent(tmp_path):
    asked = []

    def load(image_id):
        asked.append(image_id)
        return _picture(image_id) if image_id != "00" else None

    examples = [Example(f"{n:02}", "c", ["r"], n / 100) for n in range(50)]
    page = _Page(_write(tmp_path, "Title", METRICS, examples, load_image=load, num_shown=2))
    assert len(asked) == len(set(asked)) <= 6
    assert {"00", "01", "48", "49"} <= set(asked)
    assert len(page.all("img")) == 5 - ("00" in page.text[page.text.index("drawn with seed 0") :])


def test_a_caption_may_be_empty_and_scores_may_be_unknown(tmp_path):
    text = _Page(_write(tmp_path, "Title", METRICS, [Example("a", " ")], load_image=_picture)).text
    assert "(empty caption)" in text
    assert "Best" not in text
    assert "CIDEr of each image" not in text


def test_best_and_worst_do_not_share_images(tmp_path):
    text = " | ".join(_Page(_write(tmp_path, "Title", METRICS, EXAMPLES[:2])).text)
    assert "Best | highest CIDEr | CIDEr 123.4 | a cat" in text
    assert "Worst | lowest CIDEr | CIDEr 80.0 | a dog runs" in text


def test_a_report_without_examples_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no examples"):
        _write(tmp_path, "Title", METRICS, [])
    assert not list(tmp_path.iterdir())


# Thumbnails


def _decode(uri):
    return Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/jpeg;base64,"))))


def test_thumbnails_are_small_upright_and_without_metadata():
    picture = Image.new("RGB", (1000, 500), "red")
    picture.paste("blue", (0, 0, 500, 500))
    exif = picture.getexif()
    exif[0x0112] = 6  # the camera was turned: show it rotated by 90 degrees clockwise
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", exif=exif)
    uri, width, height = thumbnail_uri(Image.open(buffer), pixels=100)
    small = _decode(uri)
    assert small.size == (width, height) == (50, 100)
    assert not small.getexif()
    red, _, blue = small.getpixel((25, 10))
    assert blue > 200 > 50 > red  # what was left is on top


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "CMYK", "I;16", "1"])
def test_any_mode_becomes_a_jpeg(mode):
    picture = Image.new(mode, (20, 10))
    if mode == "P":
        picture.info["transparency"] = 0
    uri, width, height = thumbnail_uri(picture)
    assert (width, height) == (20, 10)  # nothing is enlarged
    transparent = mode in ("RGBA", "LA", "P")
    assert (min(_decode(uri).convert("RGB").getpixel((5, 5))) > 250) == (transparent or mode == "CMYK")


# Charts


def test_every_value_is_counted_and_the_tail_shares_the_last_bin():
    chart = histogram({"a": [*range(100), 5000.0], "b": [0, 0]})
    first, second = chart.series
    assert sum(first.counts) == 101
    assert first.counts[-1] == 6  # 95 to 99, and the one far out
    assert chart.bins[-1] == "95 or more"
    assert second.counts == [2] + [0] * 19
    assert sum(first.shares) == pytest.approx(100)
    assert max(second.shares) <= chart.y_max


def test_whole_numbers_have_bins_of_their_own():
    chart = histogram({"a": [2, 3, 3]}, whole=True)
    assert chart.bins == ["0", "1", "2", "3"]
    assert chart.series[0].counts == [0, 0, 1, 2]
    assert chart.x_ticks[2] == (62.5, "2")  # under the middle of its bar
    assert chart.series[0].outline == "M0 100V100.00H25.00V100.00H50.00V58.33H75.00V16.67H100.00V100"
    assert chart.y_max == 80
    assert histogram({"a": [0, 40]}, whole=True).bins[:2] == ["0 to 1", "2 to 3"]


@pytest.mark.parametrize(("values", "got"), [([], "none"), ([1, -1], "-1.0")])
def test_values_that_cannot_be_drawn_are_refused(values, got):
    with pytest.raises(ValueError, match=f"'a' wants one or more values >= 0, got {got}"):
        histogram({"a": values})


def test_equal_values_can_be_drawn():
    assert histogram({"a": [0, 0]}).series[0].counts == [2]
    assert sum(histogram({"a": [0.7]}).series[0].counts) == 1
