"""`hfcap alt check`: what is found where, the formats of the output, exit codes, and that it starts at once."""

import json
import subprocess
import sys

import pytest

from hfcap import cli
from refusals import refused, run_command

PAGE = """<h1>Trip</h1>
<p>We walked along the river.</p>
<img src="river.jpg">
<a href="/home"><img src="home.png" alt=""></a>
<img src="dsc.jpg" alt="DSC_0042.JPG"> <img src="b.jpg" alt="Photo of a boat on the river.">
<img src="line.png" alt="">
<img src="ok.jpg" alt="A heron stands in the shallow water.">
"""


def run(*arguments):
    with pytest.raises(SystemExit) as exit_:
        cli.main(["alt", *map(str, arguments)])
    return exit_.value.code


@pytest.fixture
def page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "page.html").write_text(PAGE)
    return "page.html"


def test_findings_name_file_line_column_and_rule(page, capsys):
    assert run("check", page) == 1
    shown = capsys.readouterr()
    assert [line.split()[:2] for line in shown.out.splitlines()] == [
        ["page.html:3:1", "missing-alt"],
        ["page.html:4:17", "empty-link"],
        ["page.html:5:1", "file-name"],
        ["page.html:5:40", "redundant"],
    ]
    assert shown.err == "1 file, 6 pictures\n3 errors, 1 warning, 0 notes\n"


def test_a_warning_is_no_failure(page, tmp_path, capsys):
    (tmp_path / page).write_text('<img src="b.jpg" alt="Photo of a boat on the river.">')
    cli.main(["alt", "check", page])
    assert "redundant" in capsys.readouterr().out


def test_json_and_sarif_hold_the_same_findings(page, capsys):
    assert run("check", page, "--format", "json") == 1
    rows = json.loads(capsys.readouterr().out)
    assert run("check", page, "--format", "sarif") == 1
    log = json.loads(capsys.readouterr().out)
    assert log["version"] == "2.1.0"
    results, driver = log["runs"][0]["results"], log["runs"][0]["tool"]["driver"]
    assert [driver["rules"][result["ruleIndex"]]["id"] for result in results] == [row["rule"] for row in rows]
    assert results[0]["locations"][0]["physicalLocation"] == {
        "artifactLocation": {"uri": "page.html"},
        "region": {"startLine": 3, "startColumn": 1},
    }
    assert [result["level"] for result in results] == ["error", "error", "error", "warning"]


def test_no_library_is_loaded(page):
    code = (
        "import sys; from hfcap import cli\n"
        "try: cli.main(['alt', 'check', 'page.html'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'numpy', 'PIL', 'datasets', 'huggingface_hub'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize(
    ("path", "says"), [("nowhere", "no such file"), ("a.xyz", ".html, "), ("empty", ("no document", ".html, "))]
)
def test_a_path_that_cannot_be_checked_is_one_line(page, tmp_path, path, says):
    (tmp_path / "a.xyz").write_text("")
    (tmp_path / "empty").mkdir()
    assert run("check", path) == 2
    with refused(option=path, says=says):
        run_command("alt", "check", path)


def test_a_document_counts_once_whatever_links_lead_to_it(page, tmp_path, capsys):
    (tmp_path / "latest.html").symlink_to(page)
    (tmp_path / ".hidden.html").write_text(PAGE)
    (tmp_path / "shown.html").symlink_to(".hidden.html")  # the only name that it has here
    assert run("check", "latest.html", ".", page) == 1
    shown = capsys.readouterr()
    assert {line.split(":")[0] for line in shown.out.splitlines()} == {"page.html", "shown.html"}
    assert "latest.html: page.html again, left out" in shown.err and "2 files, 12 pictures" in shown.err
