"""Hostile documents: each picture without an alt is found, and no byte outside the alts changes.

In a case, what stands between « and » is what `apply` is to write; without it, it is the document. What is listed
behind are the rules of the findings that stay: pictures that are reported and not written.
"""

import os
from pathlib import Path

import pytest

from hfcap.applications.apply import plan_change, write_change
from hfcap.applications.check import check_documents
from hfcap.applications.documents import read_document
from hfcap.applications.texts import DocumentError

ALT = 'A cat & a "dog" [1] <x>.'
IN_TAG = '« alt="A cat &amp; a &quot;dog&quot; [1] &lt;x&gt;."»'
IN_MARKDOWN = '«A cat &amp; a "dog" \\[1\\] &lt;x&gt;.»'

HTML = {
    "simple": (f'<p>Hi</p>\n<img src="a.png"{IN_TAG}>\n', []),
    "no quotes": (f"<img src=a.png{IN_TAG}>", []),
    "slash without quotes": (f"<img src=a/b.png/{IN_TAG}>", []),
    "single quotes": (f"<img class='x' src='a b.png'{IN_TAG} />", []),
    "upper case": (f'<IMG SRC="a.png"{IN_TAG} WIDTH=20>', []),
    "line breaks and CRLF": (f'<img\r\n  src="a.png"{IN_TAG}\r\n  width="20"\r\n>\r\n', []),
    "old Mac line breaks": (f'<p>a</p>\r<img src="a.png"{IN_TAG}>\r<p>b', []),
    "entities and spaces in src": (f'<img src="a &amp; b &lt;1&gt;.png"{IN_TAG}>', []),
    "a > in an attribute": (f'<img data-x="1 > 0" src="a.png"{IN_TAG}><img src="b.png" alt="a > b, c">', []),
    "spaces round the equals sign": (f'<img src = "a.png"{IN_TAG} ><img src="b.png" alt = "Two boats.">', []),
    "alt without value": ("<img src=a.png alt><img src=b.png alt=''><img alt src=c.png>", []),
    "two alts": ('<img src="a.png" alt="Two boats." alt="x">', ["repeated-alt"]),
    "two srcs": (f'<img src="a.png"{IN_TAG} src="b.png">', []),
    "no src": (f"<img{IN_TAG}><img{IN_TAG} class=x>", []),
    "lazy loading": (
        f'<img data-src="a.png"{IN_TAG}><img src="data:x" data-src="a.png"{IN_TAG}>'
        f'<img src="" srcset="a.png 2x"{IN_TAG}>',
        [],
    ),
    "srcset with commas": (
        f'<img srcset=", a,b.png, c.png 2x"{IN_TAG}><img srcset=","{IN_TAG}><img srcset{IN_TAG}>',
        [],
    ),
    "unclosed quote": ('<img src="a.png>\n<p class="x">Text</p><img src="b.png" alt="Two boats.">', ["broken-tag"]),
    "unclosed quote before a picture": ('<img src="a.png><img src=b>', ["broken-tag"] * 2),
    "unclosed quote at the end": ('<img src="a.png>', ["broken-tag"]),
    "unclosed tag": ('<p>x</p><img src="a.png" ', ["broken-tag"]),
    "picture in a broken tag": ('<p class=x <img src="a.png">', ["broken-tag"]),
    "comments": (f'<!-- <img src=a> --><!--><img src="b"{IN_TAG}><!-- > <img src=c> --!><!-- <img src=d>', []),
    "scripts and texts": (
        '<script>"<img src=a>"</script><style>/*<img src=b>*/</style><textarea><img src=c></textarea>'
        f"<title><img src=d></title><SCRIPT>'<img src=e>'</script ><img src=f{IN_TAG}>",
        [],
    ),
    "template elements": (f"<template><template><img src=a{IN_TAG}></template></template>", []),
    "jinja": ('<img src="{% static "a.png" %}">{# <img src=b> #}{% if a > b %}<p>x</p>{% endif %}', ["template"]),
    "jinja beside": (f'{{% if a %}}<img src="a.png"{IN_TAG}>{{% endif %}}<img src=b alt="{{{{ x }}}}">', []),
    "jinja comment": ("{% comment %}<img src=a>{% endcomment %}", []),
    "mustache in the tag": ("<img src=a {{ attributes }}>", ["template"]),
    "unclosed mustache": (f"{{{{ x <img src=a{IN_TAG}> {{{{ y", []),
    "php": (f'<?php echo "<img src=a>"; ?><img src="b"{IN_TAG}><img src="<?= $x ?>">', ["template", "template"]),
    "erb": (f'<%= link_to "<b>" %><img src="b"{IN_TAG}>', []),
    "picture and srcset": (
        f'<picture><source srcset="a.webp 1x, b.webp 2x"><img srcset="c.png 1x, d.png 2x"{IN_TAG}></picture>',
        [],
    ),
    "svg": (
        '<svg role="img"><path d=""/></svg><svg role=img aria-label="Two boats"></svg><svg><path/></svg>'
        "<svg role=img><title>Two boats</title></svg>",
        ["svg"],
    ),
    "images of svg": (
        "<svg><image href=a /><image href=b /></svg><svg><title>Two boats</title><image href=a /></svg>"
        f"<svg aria-hidden=true><image href=a /></svg><svg role=img><image href=b /></svg><image src=c{IN_TAG}>",
        ["svg", "svg"],
    ),
    "tags in attributes": (
        f"""<div title="<img src='a'>"><iframe srcdoc='<p><img src="b"></p>'></iframe><img src=c{IN_TAG}>"""
        '<a href="x>y</a><img src="d">',
        ["template", "template", "broken-tag"],
    ),
    "input": (f'<input type="image" src="go.png"{IN_TAG}><input type=text>', []),
    "area": (f'<map><area{IN_TAG} href="/a" shape="rect"></map>', []),
    "hidden or named": (
        '<img role="presentation" src=a><img role=none src=b><img aria-hidden=true src=c><img aria-label="Two" src=d>',
        [],
    ),
    "old image tag": (f"<image src=a{IN_TAG}>", []),
    "component": ("<amp-img src=a></amp-img>", ["component"]),
    "NUL bytes": (f'\0<p>\0</p><img src="a\0.png"{IN_TAG}>\0', []),
    "stray <": (f"1 < 2 <3 <img src=a{IN_TAG}> << </ > <", []),
    "empty": ("", []),
    "text alone": ("no picture at all", []),
}

MARKDOWN = {
    "simple": (f"# A\n\n![{IN_MARKDOWN}](a.png)\n", []),
    "CRLF": (f"# A\r\n\r\n![{IN_MARKDOWN}](a.png)\r\nText  \r\n", []),
    "fences": (
        "```\n![](a)\n```\n~~~~ md\n```\n![](b)\n~~~\n~~~~\n> ```\n> ![](c)\n\n"
        f"![{IN_MARKDOWN}](d.png)\n- x\n  ```\n  ![](e)\n\n  ![](f)\n  ```\n"
        f"1. ```\n   ![](g)\n![{IN_MARKDOWN}](h.png)\n",
        [],
    ),
    "unclosed fence": (f"![{IN_MARKDOWN}](a.png)\n```\n![](b)\n", []),
    "indented code": (f"text\n\n    ![](a)\n\n    ![](b)\n\n- item\n\n    ![{IN_MARKDOWN}](c.png)\n", []),
    "code spans": (f"`![](a)` ``b ` ![](c)`` `` ` `` ![{IN_MARKDOWN}](d.png) `e\n\n![{IN_MARKDOWN}](f.png)`\n", []),
    "comments": (
        f"<!-- ![](a)\n```\n--> ![](a)\n![{IN_MARKDOWN}](b.png) <!-- x\n\n"
        f"![{IN_MARKDOWN}](c.png) <!-- ![](d)\n-->\n<!-- ![](e)",
        [],
    ),
    "escapes": (f"\\![](a) \\\\![{IN_MARKDOWN}](b.png) \\`![{IN_MARKDOWN}](c.png)\\`\n", []),
    "front matter": (f"---\ncover: ![](a)\n---\n![{IN_MARKDOWN}](b.png)\n", []),
    "destinations": (
        f"![{IN_MARKDOWN}](<a b.png> \"T\") ![{IN_MARKDOWN}](a(b).png 't') ![{IN_MARKDOWN}](\n  a.png\n) "
        f"![{IN_MARKDOWN}](a\\).png) ![](a b.png) ![]()\n".replace("![]()", f"![{IN_MARKDOWN}]()"),
        [],
    ),
    "destinations that look like tags": (
        f"![{IN_MARKDOWN}](<img/a b.png>) [map](<img/a b.png>) [map]( <area/a.pdf> 'T')\n"
        f"[x]\\](<img src='a'{IN_TAG}>)\n\n"
        f"](<img src='a'{IN_TAG}>) ![{IN_MARKDOWN}][r]\n\n[r]: <img/c d.png>\n",
        [],
    ),
    "definitions below headings and breaks": (
        "# A\n[a]: 1.png\nTitle\n===\n[b]: 2.png\nTitle\n---\n[c]: 3.png\n\n* * *\n[d]: 4.png\n\n"
        "words\n[e]: 5.png\n\n"
        f"![{IN_MARKDOWN}][a] ![{IN_MARKDOWN}][b] ![{IN_MARKDOWN}][c] ![{IN_MARKDOWN}][d] ![][e]\n",
        [],
    ),
    "references": (f"![{IN_MARKDOWN}][Ref] ![Two boats][ref] ![ref] ![][] ![][no]\n\n[ref]: a.png 'T'\n", []),
    "attribute lists": (
        f'![{IN_MARKDOWN}](a.png){{.wide width=50%}} ![](b.png){{alt="Two boats."}} '
        "![](c.png){: role=presentation}\n",
        [],
    ),
    "brackets in an alt": ("![a [b] c](a.png) ![a \\] c](b.png)\n![[b]](c.png)\n![two\nlines](d.png)\n", []),
    "wikilinks and shortcodes": (
        '![[a.png]] ![[a.png|100]]\n{{< figure src="a.png" >}}\n{% image a.png %}\n',
        ["component"] * 4,
    ),
    "templates": (f"![]({{{{ page.image }}}}) ![{IN_MARKDOWN}](a.png)\n", ["template"]),
    "liquid code block": ("{% highlight md %}\n![](a)\n<img src=b>\n{% endhighlight %}\n", []),
    "HTML": (
        f'<p align="center">\n  <img src="a.png"{IN_TAG}>\n</p>\n\n<pre>![](b)\n\n![](c)</pre>\n\n'
        f"<a href=x>\n![](c)\n</a>\n\n<div>\n![](d)\n\n![{IN_MARKDOWN}](e.png)\n</div>\n\n`<img src=c>`\n"
        f"> <div>\n> ![](f)\n![{IN_MARKDOWN}](g.png)\n",
        [],
    ),
    "a link": (f"[![{IN_MARKDOWN}](a.png)](/home) [![{IN_MARKDOWN}](b.png) Home](/home)\n", []),
    "many open brackets": ("![" * 3000 + "\n" + "`" * 10 + "``" * 1000 + "\n", []),
}
MDX = {
    "expressions": ("<img src={x} />\n<Image src={x} />\n", ["template", "template"]),
    "component": ('<Image src="a.png" />\n', ["component"]),
    "plain tag": (f'export const a = {{ b: 1 }}\n\n<img src="a.png"{IN_TAG} />\n![{IN_MARKDOWN}](b.png)\n', []),
    "comment and code": ("{/* ![](a) <img src=b> */}\n{show && <img src='c' />}\n", ["template"]),
}
CASES = [
    pytest.param(suffix, *case, id=f"{suffix} {name}")
    for suffix, cases in ((".html", HTML), (".md", MARKDOWN), (".mdx", MDX))
    for name, case in cases.items()
]


@pytest.fixture(autouse=True)
def in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def rows_of(document, alt=ALT):
    return [
        {
            "id": document.id_of(picture),
            "file": document.path.as_posix(),
            "part": picture.part,
            "line": picture.line,
            "column": picture.column,
            "kind": picture.kind,
            "src": picture.src,
            "status": "accepted",
            "alt": alt,
            "before": None,
            "file_sha256": document.sha256,
        }
        for picture in document.pictures
        if picture.wants_alt
    ]


def apply_all(path, alt=ALT):
    document = read_document(path)
    rows = rows_of(document, alt)
    change = plan_change(path.as_posix(), rows) if rows else None
    if change is not None:
        write_change(change)
    return change


def written(path, marked, encoding="utf-8"):
    """Write a case without its alts, apply them, and return what is in the file and what should be."""
    pieces = marked.replace("»", "«").split("«")
    path.write_bytes("".join(pieces[::2]).encode(encoding))
    change = apply_all(path)
    assert sum(piece != "" for piece in pieces[1::2]) == (change.num_alts if change else 0)
    return path.read_bytes(), "".join(pieces).encode(encoding)


@pytest.mark.parametrize(("suffix", "marked", "rules"), CASES)
def test_every_picture_is_found_and_nothing_else_changes(tmp_path, suffix, marked, rules):
    path = tmp_path / f"page{suffix}"
    found, wanted = written(path, marked)
    assert found == wanted
    assert [finding.rule for finding in check_documents([str(path)])[0]] == rules


def test_an_alt_closes_no_code_span_and_opens_no_template(tmp_path):
    path = tmp_path / "page.md"
    path.write_text("a ` and ![](a.png)\n")
    apply_all(path, "Type `{{ x }}`.")
    assert path.read_text() == "a ` and ![Type &#96;&#123;&#123; x &#125;&#125;&#96;.](a.png)\n"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-8"])
def test_unicode_encodings_stay_and_hold_any_alt(tmp_path, encoding):
    path = tmp_path / "page.html"
    before = '<p>Zürich</p>\r\n<img src="ü.png">'.encode(encoding)
    path.write_bytes(before)
    apply_all(path, "Zürich, 東京.")
    assert path.read_bytes() == before.decode(encoding).replace('"ü.png"', '"ü.png" alt="Zürich, 東京."').encode(
        encoding
    )


@pytest.mark.parametrize(
    ("head", "encoding"),
    [('<meta charset="windows-1252">', "cp1252"), ("", "cp1252"), ('<meta charset="shift_jis">', "shift_jis")],
)
def test_other_encodings_stay_and_get_character_references(tmp_path, head, encoding):
    path = tmp_path / "page.html"
    word = "東京" if encoding == "shift_jis" else "Zürich"
    before = f'{head}<p>{word}</p><img src="a.png">'.encode(encoding)
    path.write_bytes(before)
    apply_all(path, "Zürich.")
    assert path.read_bytes() == before.replace(b'"a.png"', b'"a.png" alt="Z&#252;rich."')


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("a.html", "<img src=a>".encode("utf-16-le"), "UTF-16 without a byte-order mark"),
        ("a.html", b"\xff\xfe<\0i", None),
        ("a.html", b"\xff\xfe<\0i\0m", None),
        ("a.html", b"\xff\xfe\0\xd8\0", "broken UTF-16"),
        ("a.docx", b"PK no archive", "a broken archive"),
        ("a.epub", b"", "a broken archive"),
    ],
)
def test_what_cannot_be_read_is_one_finding(tmp_path, name, data, said):
    (tmp_path / name).write_bytes(data)
    findings, _ = check_documents([name])
    if said:
        assert [finding.rule for finding in findings] == ["unreadable"]
        assert said in findings[0].message


def test_a_huge_line_is_read_and_its_diff_is_short(tmp_path):
    path = tmp_path / "page.html"
    filler = "<p class=x>" * 100_000
    path.write_text(f"{filler}<img src=a>{filler}")
    change = apply_all(path)
    assert path.read_text() == f'{filler}<img src=a alt="A cat &amp; a &quot;dog&quot; [1] &lt;x&gt;.">{filler}'
    assert len(change.diff) < 1000


N = 200_000  # where the time grows with the square of it, or with 4,000 times it, a case takes minutes
REPEATED = {
    "opening brackets": (".md", "![[" * N, 0),
    "nested pictures": (".md", "![" * N + "a" + "](b)" * N, 1),  # the alts of the outer ones are too long
    "brackets": (".md", "[" * N + "]" * N, 0),
    "destinations of blanks": (".md", ("[a](" + " " * 3_990) * (N // 1_000), 0),
    "links in angle brackets": (".md", "- [a](<b>)\n" * N + "![](a)", 1),
    "comments without an end": (".md", "a <!-- " * N + "![](a)", 1),
    "list items in a line": (".md", "- " * N + "![](a)", 1),
    "blocks of templates without an end": (".html", "{% comment %}" * N + "<img src=a>", 1),
    "commas in a srcset": (".html", f"<img srcset='{',' * N}b{',' * N}c'>", 1),
    "captions of a figure": (".html", "<figure>" + "<img src=a><figcaption>b</figcaption>" * (N // 10), N // 10),
}


@pytest.mark.parametrize(("suffix", "text", "number"), REPEATED.values(), ids=REPEATED)
def test_the_time_grows_with_the_length(suffix, text, number):
    assert len(read_document(Path(f"page{suffix}"), text.encode()).pictures) == number


def test_many_rows_of_a_file_are_found_at_once(tmp_path):
    number = 10_000  # each compared with each: minutes
    path = tmp_path / "page.html"
    path.write_text('<p>A day out.</p><img src="a.png">\n' * number)
    rows = [row | {"status": "edited", "alt": ALT} for row in rows_of(read_document(path))]
    assert plan_change(str(path), rows).num_alts == number
    decided = [row | {"status": "decorative", "alt": None} for row in rows]
    assert check_documents([str(path)], decided)[0] == []
    changed = [row | {"alt": f"Boat {n}.", "file_sha256": "of another text"} for n, row in enumerate(rows)]
    path.write_text("".join(f'<img src="a.png" alt="Boat {n}.">\n' for n in range(number)))
    assert plan_change(str(path), changed) is None  # done
    path.write_text('<p>A day out.</p><img src="a.png">\n' * number)
    with pytest.raises(DocumentError, match="fits 0 places in it"):
        plan_change(str(path), [row | {"file_sha256": "of another text"} for row in reversed(rows)])


def test_a_picture_in_the_alt_of_another_is_text(tmp_path):
    path = tmp_path / "page.md"
    path.write_text("![A boat ![](flag.png)](boat.png) ![](a.png) ![ ![](b.png)]\n")
    assert [picture.src for picture in read_document(path).pictures] == ["boat.png", "a.png", "b.png"]


def test_a_figure_has_one_caption_wherever_it_stands(tmp_path):
    path = tmp_path / "page.html"
    inner = "<figure><img src=b><figcaption>Two dogs</figcaption></figure>"
    path.write_text(f"<figure><figcaption>A day out</figcaption><img src=a>{inner}<img src=c></figure><img src=d>")
    captions = [picture.context.caption for picture in read_document(path).pictures]
    assert captions == ["A day out", "Two dogs", "A day out", ""]


def test_a_folder_without_documents_and_links_out_of_it(tmp_path, capsys):
    (tmp_path / "site").mkdir()
    (tmp_path / "other.html").write_text("<img src=a>")
    os.symlink(tmp_path / "other.html", tmp_path / "site" / "link.html")
    (tmp_path / "site" / "page.html").write_text("<p>")
    (tmp_path / "site" / ".hidden.html").write_text("<img src=a>")
    (tmp_path / "site" / "rows.csv").write_text("a,b\n")
    (tmp_path / "site" / "a.css").write_text("")
    os.symlink(tmp_path / "nowhere", tmp_path / "site" / "gone.md")
    findings, notes = check_documents(["site"])
    assert not findings
    assert notes == [
        "1 file, 0 pictures",
        "site/gone.md: a link out of the folder or to nothing, left out",
        "site/link.html: a link out of the folder or to nothing, left out",
        "site: left out 1 hidden, or node_modules",
        "site: left out 1 of other kinds",
        "site: left out 1 of the kinds .csv .jsonl, read only where they are named",
    ]
