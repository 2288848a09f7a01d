"""Options that a command would leave unread are refused in one line, before a model or data are looked for."""

import pytest

from hfcap import cli

CAPTION = ["caption", "a.png", "--model", "m"]
CAPTION_DATA = ["caption", "--data", "d", "--model", "m"]
SUGGEST = ["suggest", "a.png", "--model", "m"]
ALT_SUGGEST = ["alt", "suggest", "a.md", "--model", "m", "--output", "alts.jsonl"]
ALT_DATA = ["alt", "suggest", "--data", "d", "--model", "m", "--output", "alts.jsonl"]
SCORE = ["score", "p.jsonl", "--references", "r.jsonl"]
EVALUATE = ["evaluate", "m", "--data", "d"]


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ([*CAPTION, "--split", "x"], "--split: read only with --data; add --data, or remove it"),
        ([*CAPTION, "--keep_both"], "--keep_both: read only with --output"),
        ([*CAPTION, "--json", "--output", "o.jsonl"], "--json: --output writes JSON lines without it"),
        ([*CAPTION, "--ocr"], "--ocr: it has no effect without --describe"),
        ([*CAPTION, "--people", "as_seen"], "--people: it has no effect without --describe"),
        ([*CAPTION, "--describe", "--json"], "--json: --describe prints plain text only"),
        ([*CAPTION, "--describe", "--output", "o.jsonl"], "--output: --describe prints plain text only"),
        ([*CAPTION, "--describe", "--keep_both"], "--keep_both: --describe prints plain text only"),
        ([*CAPTION, "--describe", "--split", "x"], "--split: read only with --data"),
        ([*CAPTION_DATA, "--describe"], "--describe: it is for photos"),
        ([*CAPTION_DATA, "--keep_both", "--output", "o.jsonl"], "--keep_both: it is for photos"),
        ([*CAPTION_DATA, "--json", "--output", "o.jsonl"], "--json: --output writes JSON lines without it"),
        ([*SUGGEST, "--keep_both"], "--keep_both: read only with --output"),
        ([*SUGGEST, "--json", "--output", "o.jsonl"], "--json: --output writes JSON lines without it"),
        ([*ALT_SUGGEST, "--split", "x"], "--split: read only with --data"),
        ([*ALT_SUGGEST[:2], "a.png", *ALT_SUGGEST[3:], "--root", "."], "--root is '.': only paths in documents"),
        ([*ALT_DATA, "--ocr"], "--ocr: it is for documents"),
        ([*ALT_DATA, "--root", "."], "--root: it is for documents"),
        (
            ["alt", "review", "alts.jsonl", "--csv_export", "a", "--csv_import", "b"],
            "exclude each other; pass one",
        ),
        (["alt", "apply", "alts.jsonl", "--root", "."], "--root: read only with --metadata"),
        (["train", "--list", "scenes_base"], "--list: it stands alone"),
        ([*SCORE, "--images", "photos"], "--images is 'photos': only a report and metrics"),
        ([*SCORE, "--clip_model", "clip"], "--clip_model is 'clip': no metric asked for uses it"),
        ([*SCORE, "--idf", "i.npz", "--metrics", "bleu"], "--idf is 'i.npz': only CIDEr weighs words"),
        ([*SCORE, "--image_folder", "photos"], "--image_folder is 'photos': only for data sources"),
        (
            [*SCORE[:2], "--references", "scenes", "--image_column", "x"],
            "image_column is 'x', but the source 'scenes'",
        ),
        (["data", "check", "d", "--max_caption_tokens", "9"], "--max_caption_tokens: read only with --processor"),
        (["card", "write", "a", "b", "--to", "c"], "2 runs do not fit into one folder"),
        ([*EVALUATE, "--scenes_style", "alt_text"], "scenes_style is 'alt_text': only for the data 'scenes'"),
        ([*EVALUATE, "--scenes_image_size", "32"], "scenes_image_size is 32: only for the data 'scenes'"),
        ([*EVALUATE, "--clip_model", "clip"], "clip_model is 'clip': no metric asked for uses it"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_an_option_that_nothing_reads_is_refused(command, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        cli.main(command)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert end.value.code == 2 and says in line
