"""`hfcap alt suggest`: rows for pictures without an alt, captions for informative ones, and broken runs."""

import io
import json
import os
import subprocess
import sys
import tarfile
import zipfile

import pytest

from hfcap import cli
from hfcap.applications.markdown import markdown_pictures
from hfcap.applications.proposals import merged
from hfcap.applications.suggest import ImageRows, propose
from hfcap.applications.suggest_data import row_of_picture
from hfcap.atomic_files import only_writer
from hfcap.generation.caption import caption_rows
from refusals import refused, run_command

PAGE = """<h1>A day out</h1><p>We met two dogs.</p>
<figure><img src="a.png"><figcaption>At the river</figcaption></figure>
<a href="/map"><img src="b.png"></a>
<img src="img/spacer.gif"><img src="https://example.org/c.png"><img src="data:image/png;base64,x">
<img src="none.png"><img src="chart.png"><img src="d.png" alt="A dog."> <img src="{{ url }}">
"""


@pytest.fixture
def site(tmp_path, monkeypatch, scene_rows, build_tiny):
    """A folder with a page, a Markdown text with the same picture, an EPUB and a captioner."""
    monkeypatch.chdir(tmp_path)
    model, processor = build_tiny("llava")
    model.save_pretrained("model")
    processor.save_pretrained("model")
    (tmp_path / "site").mkdir()
    for number, name in enumerate(("a", "b", "chart", "e f")):
        scene_rows[number]["image"].save(tmp_path / "site" / f"{name}.png")
    (tmp_path / "site" / "page.html").write_text(PAGE)
    (tmp_path / "site" / "text.md").write_text("![](/a.png) ![](<e f.png>) ![](broken.png)\n")
    (tmp_path / "site" / "broken.png").write_bytes(b"no picture")
    with zipfile.ZipFile("site/book.epub", "w") as archive:
        archive.writestr("text/1.xhtml", '<html><body><img src="../images/e.png"/></body></html>')
        archive.write("site/e f.png", "images/e.png")
    return model.eval(), processor


def suggest(*options, paths=("site",)):
    run_command("alt", "suggest", *paths, "--model", "model", "--output", "alts.jsonl", *options)
    with open("alts.jsonl") as file:
        return {row["id"].partition("site/")[2] or row["id"]: row for row in map(json.loads, file)}


@pytest.fixture
def captions(monkeypatch):
    """Replace the captioner's words, and count the pictures that it is asked about."""
    asked = []

    def stream(_model, _processor, loads, _prompt, _batch_size, skip, *_):
        for index, load in enumerate(loads):
            asked.append(image_of(load))
            try:
                load()
            except OSError as error:
                skip(index, error)
            else:
                yield index, f"a photo of a man number {len(asked)} ."

    monkeypatch.setattr("hfcap.generation.caption.caption_loaded", stream)
    return asked


def image_of(load):
    """The picture that a function for captioners loads."""
    return load.func.__self__.images[load.args[0]]


def test_the_role_decides_who_proposes_and_nothing_is_fetched(site, captions, capsys):
    rows = suggest()
    found = {key: (row["role"], row["image"], row["suggestion"]) for key, row in rows.items()}
    assert found == {
        "book.epub!text/1.xhtml:1:13": ("informative", "site/book.epub!images/e.png", "A person number 1."),
        "page.html:2:9": ("informative", "site/a.png", "A person number 2."),
        "page.html:3:16": ("link", "site/b.png", None),
        "page.html:4:1": ("maybe_decorative", None, None),
        "page.html:4:27": ("informative", None, None),
        "page.html:4:64": ("informative", None, None),
        "page.html:5:1": ("informative", None, None),
        "page.html:5:21": ("chart", "site/chart.png", None),
        "text.md:1:1": ("informative", "site/a.png", "A person number 2."),  # the same picture is captioned once
        "text.md:1:13": ("informative", "site/e f.png", "A person number 1."),
        "text.md:1:28": ("informative", "site/broken.png", None),
    }
    assert captions == ["site/book.epub!images/e.png", "site/a.png", "site/broken.png"]
    assert rows["page.html:2:9"]["context"] == {
        "before": "A day out We met two dogs.",
        "after": "At the river",
        "caption": "At the river",
        "link": "",
    }
    assert rows["page.html:3:16"]["context"]["link"] == "/map"
    assert rows["page.html:4:27"]["notes"] == ["remote picture, not read"]
    assert rows["page.html:4:64"]["notes"] == ["data: picture, not read"]
    assert rows["page.html:5:1"]["notes"] == ["no such file: none.png"]
    assert rows["text.md:1:28"]["notes"] == [
        "the picture cannot be read: no picture, or a format that cannot be read"
    ]  # and no address in memory, which would change with each run
    assert all((row["status"], row["alt"]) == ("pending", None) for row in rows.values())
    shown = capsys.readouterr()
    assert "1 picture that hfcap does not write to" in shown.err
    assert "11 rows (0 known), 4 proposals, 6 for a person to write, 1 perhaps decorative" in shown.out


def test_captions_are_those_of_caption_rows(site, scene_rows):
    model, processor = site
    rows = suggest(paths=["site/page.html"])
    caption = caption_rows(model, processor, [scene_rows[0]])[0]
    wanted = {"text_in_image": [], "notes": [], "suggestion": None, "lint": []}
    propose(wanted, caption, {"people": "neutral"})
    assert rows["page.html:2:9"]["suggestion"] == wanted["suggestion"]
    assert len(rows["page.html:2:9"]["model"]["weights_sha256"]) == 64


def test_a_second_run_keeps_decisions_and_asks_about_what_is_new(site, captions, tmp_path, capsys):
    rows = suggest()
    rows["page.html:2:9"] |= {"status": "edited", "alt": "Mine."}
    (tmp_path / "alts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows.values()))
    captions.clear()
    (tmp_path / "site" / "text.md").write_text("# New\n![](<e f.png>) ![](b.png)\n")
    again = suggest()
    assert again["page.html:2:9"] == rows["page.html:2:9"]
    assert captions == ["site/b.png"]  # the document has changed, and the picture has not
    assert again["text.md:2:1"]["suggestion"] == "A person number 1."
    assert {key for key in again if key.startswith("text")} == {"text.md:2:1", "text.md:2:16"}


@pytest.mark.parametrize("put_off", [1, 2])
def test_a_decision_stays_with_its_picture_when_apply_moves_it(site, captions, tmp_path, put_off):
    """An alt is written in front of two pictures, of which the first is now where the second was."""
    (tmp_path / "site" / "text.md").write_text("![](a.png) ![](a.png) ![](a.png)\n")
    rows = list(suggest(paths=["site/text.md"]).values())
    rows[0] |= {"status": "edited", "alt": "eleven long"}
    rows[put_off] |= {"status": "skipped"}
    (tmp_path / "alts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    cli.main(["alt", "apply", "alts.jsonl"])
    again = suggest(paths=["site/text.md"])
    found = [(row["column"], row["status"]) for row in again.values()]
    assert sorted(found) == sorted(
        [(1, "edited"), ([12, 23, 34][put_off], "skipped"), ([12, 34, 23][put_off], "pending")]
    )


def test_what_was_captioned_before_a_break_is_not_captioned_again(site, captions, monkeypatch, tmp_path):
    def breaks(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("hfcap.applications.suggest.write_rows", breaks)
    with pytest.raises(KeyboardInterrupt):
        suggest()
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    with open("alts.jsonl.part-0", "ab") as file:
        file.write(b'{"id": "ha')
    asked = []
    monkeypatch.setattr(
        "hfcap.generation.caption.caption_loaded",
        lambda _m, _p, loads, *_: asked.extend(map(image_of, loads)) or iter(()),
    )
    rows = suggest()
    assert asked == ["site/broken.png"]
    assert rows["page.html:2:9"]["suggestion"] == "A person number 2."
    assert not (tmp_path / "alts.jsonl.part-0").exists()


def test_another_model_or_another_wording_needs_another_file(site, captions):
    suggest()
    with refused(option="--output", got="alts.jsonl", says="another people"):
        suggest("--people", "as_seen")


def test_photos_that_are_named_have_rows_of_their_own(site, captions):
    rows = suggest(paths=["site/a.png", "./site/a.png"])
    assert [(row["kind"], row["suggestion"]) for row in rows.values()] == [("photo", "A person number 1.")]


@pytest.fixture
def shards(tmp_path, scene_rows):
    """Five pictures in two tar files."""
    (tmp_path / "shards").mkdir()
    for shard in range(2):
        with tarfile.open(tmp_path / "shards" / f"{shard}.tar", "w") as archive:
            for number in range(shard, 5, 2):
                file = io.BytesIO()
                scene_rows[number]["image"].save(file, "PNG")
                member = tarfile.TarInfo(f"{number}.png")
                member.size = len(file.getvalue())
                archive.addfile(member, io.BytesIO(file.getvalue()))


def suggest_for_shards(*options):
    return suggest("--data", "shards", *options, paths=())


def test_pictures_of_a_data_source_have_rows(site, shards, capsys, monkeypatch):
    def stream(_model, _processor, loads, *_):
        for number, load in enumerate(loads):
            assert load()["image"].size == (32, 32)
            yield number, f"a photo of a man number {number} ."

    monkeypatch.setattr("hfcap.generation.caption.caption_loaded", stream)
    rows = suggest_for_shards()
    found = {key: (row["src"], row["kind"], row["status"], row["suggestion"]) for key, row in rows.items()}
    assert found == {
        f"shards#{image_id}": (image_id, "data", "pending", f"A person number {number}.")
        for number, image_id in enumerate("02413")
    }
    decided = rows["shards#2"] | {"status": "edited", "alt": "Mine."}
    with open("alts.jsonl", "w") as file:
        file.writelines(json.dumps(row) + "\n" for row in (rows | {"shards#2": decided}).values())
    again = suggest_for_shards()
    assert again == rows | {"shards#2": decided}
    assert "5 of 5 pictures have a caption, 5 of them before" in capsys.readouterr().out
    cli.main(["alt", "apply", "alts.jsonl"])
    assert "1 row about a data source: read `alt` from this file by `src`" in capsys.readouterr().err


def test_copies_of_a_picture_in_a_data_source_keep_their_own_rows():
    captions = [{"image_id": name, "sha256": "0" * 64, "path": ""} for name in "ab"]
    first, second = (row_of_picture("shards", caption) for caption in captions)
    decided = first | {"status": "edited", "alt": "Mine."}
    assert merged([first, second], [decided, second], ["shards"])[0] == [decided, second]


@pytest.mark.parametrize(
    ("options", "paths", "fields"),
    [
        (["--data", "shards"], ["site"], {"option": "PATH or --data", "reason": "both are given"}),
        ([], [], {"option": "PATH or --data", "reason": "neither is given"}),
        (["--data", "shards", "--ocr"], [], {"option": "--ocr", "fix": "remove it or --data"}),
        (["--data", "shards", "--root", "."], [], {"option": "--root", "fix": "remove it or --data"}),
    ],
)
def test_options_of_files_are_refused_for_a_data_source(site, shards, options, paths, fields):
    with refused(**fields):
        suggest(*options, paths=paths)


@pytest.mark.slow
@pytest.mark.parametrize("source", [["site"], ["--data", "shards"]])
def test_two_processes_write_the_rows_of_one(site, shards, tmp_path, source):
    (tmp_path / "site" / "broken.png").unlink()
    arguments = ["alt", "suggest", *source, "--model", "model", "--output"]
    cli.main([*arguments, "alts.jsonl"])
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "hfcap.cli"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.run(
        [*command, *arguments, "two.jsonl"], capture_output=True, text=True, env=environment, timeout=300
    )
    assert process.returncode == 0, process.stderr[-2000:]
    assert (tmp_path / "two.jsonl").read_text() == (tmp_path / "alts.jsonl").read_text()
    assert not list(tmp_path.glob("*.part-*")) and process.stdout.count("two.jsonl: ") == 1


def test_ocr_that_is_not_installed_is_one_line(site, captions, monkeypatch):
    monkeypatch.setitem(sys.modules, "rapidocr", None)
    with refused(option="--ocr", fix='pip install "hfcap[ocr]"'):
        suggest("--ocr")


def test_sure_texts_are_quoted_and_unsure_ones_are_kept_beside(site, captions, monkeypatch):
    from types import SimpleNamespace

    def engine(pixels):
        assert pixels.shape == (32, 32, 3)
        return SimpleNamespace(txts=("STOP", "maybe", "--", "x" * 100), scores=(0.97, 0.89, 0.99, 0.99))

    monkeypatch.setitem(__import__("sys").modules, "rapidocr", SimpleNamespace(RapidOCR=lambda params: engine))
    rows = suggest("--ocr")
    assert rows["page.html:2:9"]["suggestion"] == "A person number 2. Text: “STOP”."
    assert [text["quoted"] for text in rows["page.html:2:9"]["text_in_image"]] == [True, False, False, False]
    assert rows["text.md:1:28"]["text_in_image"] == []


def test_image_rows_load_from_archives(site):
    assert ImageRows(["site/book.epub!images/e.png"])[0]["image"].size == (32, 32)


def test_suggest_leaves_a_file_to_the_command_that_works_on_it(site, captions):
    with only_writer("alts.jsonl"), refused(option="alts.jsonl", fix="wait until it ends"):
        suggest()
    assert not captions


def test_backslashes_in_a_source_are_slashes_as_in_browsers(site, captions, tmp_path):
    (tmp_path / "site" / "page.html").write_text('<img src="sub\\a.png">')
    os.makedirs("site/sub")
    os.rename("site/a.png", "site/sub/a.png")
    assert suggest(paths=["site/page.html"])["page.html:1:1"]["image"] == "site/sub/a.png"


@pytest.mark.parametrize(
    ("markup", "words"),
    [
        ("**bold** and _it_, ~~old~~ 3*4 snake_case", "bold and it, old 3*4 snake_case"),
        ("See [the *map*](https://x.org/a_b(c)).", "See the map."),
        ('[a](<b c> "title") [d][r] [r] [sic]', "a d r [sic]"),
        ("[![small](b.png)](/go) after", "after"),
        ("# Title #\nText", "Title Text"),
        ("- [ ] task\n* two\n1. one\n> quote", "task two one quote"),
        ("| a | b |\n|---|:-:|\n| 1 | 2 |", "a b 1 2"),
        (r"\*star\* &amp; co [^1]", "*star* & co"),
        ("<b>loud</b> <https://x.org>", "loud"),
        ("text ![[wiki.png|200]] text", "text text"),
        ("Heading\n=======\ntext {.lead}\n\n---", "Heading text"),
    ],
)
@pytest.mark.parametrize("picture", ["![](a.png)", '<img src="a.png">'])
def test_the_context_is_text_without_markup(markup, words, picture):
    text = f"{markup}\n\n{picture}\n\n{markup}\n\n[r]: http://ref.example/x 'title'\n"
    context = next(found for found in markdown_pictures(text) if found.src == "a.png").context
    assert (context.before, context.after) == (words, words)


def test_a_link_that_begins_far_before_a_picture_leaves_no_rest_of_itself():
    text = f"[far {'word ' * 20}](https://example.com/{'x' * 500}) tail ![](a.png) [front {'y' * 300}](z)"
    (picture,) = markdown_pictures(text)
    assert picture.context.before == f"far {'word ' * 20}tail"
    assert picture.context.after == f"front {'y' * 154}"


def test_a_caption_below_is_text_without_markup():
    (picture,) = markdown_pictures("![](a.png)\n\n*The [old](x.md) town*\n")
    assert picture.context.caption == "The old town"
