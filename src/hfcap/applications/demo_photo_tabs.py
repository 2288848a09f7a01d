"""The tabs Describe and Suggest of `hfcap demo`."""

from collections.abc import Iterator, Sequence
from html import escape
from typing import Any

import gradio as gr

from hfcap.applications.demo_captioner import Captioner
from hfcap.applications.suggest_captions import OPTIMISED
from hfcap.errors import WorkError, printable
from hfcap.scripts import JOINERS

LENGTHS = {"Any length": None, "Short, up to 8 words": "short", "Medium, 9 to 12": "medium", "Long": "long"}
NUMBERS = (2, 4, 6, 8)
CHOOSE = "Choose a photo first."
MIN_WIDTH = 320  # pixels of a column; two of them do not fit beside each other on a phone
STATUS = "element.setAttribute('role', 'status')"  # a live region has to be there before its text changes

_COPY = """async (text) => {
    if (!text.trim()) return "<p>There is no caption to copy yet.</p>";
    try { await navigator.clipboard.writeText(text.trim()); }
    catch { return "<p>The browser does not allow that. Select the caption and copy it.</p>"; }
    return "<p>Copied.</p>";
}"""
_SAVE = """(text, photo) => {
    if (!text.trim()) return "<p>There is no caption to save yet.</p>";
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text.trim() + "\\n"], {type: "text/plain"}));
    link.download = (photo?.orig_name ?? "caption").replace(/[.][^.]*$/, "") + ".txt";
    link.click();
    URL.revokeObjectURL(link.href);
    return "<p>Saved by the browser as a text file.</p>";
}"""


def said(text: str) -> str:
    """Return a text for a status region."""
    return f"<p>{escape(printable(text, JOINERS))}</p>"


def heading(text: str) -> str:
    """Return a caption as a heading, in the direction of its script."""
    return f'<h3 dir="auto">{escape(printable(text, JOINERS))}</h3>'


def status_region(text: str, name: str) -> gr.HTML:
    """Add a region whose changes screen readers announce."""
    return gr.HTML(said(text), elem_id=name, js_on_load=STATUS, container=False)


def photo_input(name: str, alt_text: str) -> gr.Image:
    """Add the place to choose a photo."""
    return gr.Image(
        label="Photo", sources=["upload"], type="filepath", buttons=[], height=320, alt_text=alt_text, elem_id=name
    )


def path_of(photo: dict[str, Any] | None) -> str | None:
    """Return the file of an upload that no code of Gradio has decoded, which would refuse it in its own words."""
    return photo.get("path") if photo else None


def describe_tab(captioner: Captioner) -> None:
    """Add the tab that says what is in a photo."""
    gr.HTML("<h2>Describe a photo</h2>")
    with gr.Row():
        with gr.Column(min_width=MIN_WIDTH):
            photo = photo_input("describe-photo", "The photo to describe")
        with gr.Column(min_width=MIN_WIDTH):
            button = gr.Button("Describe", variant="primary")
            result = status_region(CHOOSE, "description")

    def describe(upload: dict[str, Any] | None) -> Iterator[str]:
        yield said("Describing …")
        yield described(captioner, path_of(upload))

    gr.on([photo.upload, button.click], describe, photo, result, preprocess=False, show_progress="hidden")
    photo.clear(lambda: said(CHOOSE), None, result, show_progress="hidden")


def described(captioner: Captioner, path: str | None) -> str:
    """Return the description of a photo, or why there is none, as HTML: what it shows is a heading."""
    try:
        notice, sentence, *others = captioner.describe(path)
    except WorkError as error:
        return said(str(error))
    return said(notice) + heading(sentence) + "".join(map(said, others))


def suggest_tab(captioner: Captioner) -> None:
    """Add the tab with several captions for a photo: choose one, change it, copy or save it."""
    gr.HTML("<h2>Suggest captions for a photo</h2>")
    if captioner.is_cider_optimised:
        gr.HTML(said(f"{OPTIMISED.format(captioner.args.model)}."))
    with gr.Row():
        with gr.Column(min_width=MIN_WIDTH):
            photo = photo_input("suggest-photo", "The photo to caption")
            number = gr.Radio([(f"{n} captions", n) for n in NUMBERS], value=4, label="How many")
            length = gr.Radio(list(LENGTHS), value=next(iter(LENGTHS)), label="Length")
        with gr.Column(min_width=MIN_WIDTH):
            button = gr.Button("Suggest", variant="primary")
            status = status_region(CHOOSE, "suggest-status")
            choice = gr.Radio([], label="Suggestions, the safest first", visible=False, elem_id="suggestions")
            text = gr.Textbox(label="Your caption: choose a suggestion, or write one", lines=3, elem_id="caption")
            with gr.Row():
                copy = gr.Button("Copy", min_width=120)
                save = gr.Button("Save as text", min_width=120)

    def suggest(upload: dict[str, Any] | None, number: int, length: str) -> Iterator[tuple]:
        yield said("Looking for captions …"), gr.skip()
        message, captions = suggested(captioner, path_of(upload), number, LENGTHS[length])
        yield message, gr.Radio(choices=list(captions), value=None, visible=bool(captions))

    def start_anew(upload: dict[str, Any] | None) -> tuple:
        ready = "Press Suggest." if upload else CHOOSE
        return said(ready), gr.Radio(choices=[], value=None, visible=False), ""

    quiet = {"preprocess": False, "show_progress": "hidden"}
    button.click(suggest, [photo, number, length], [status, choice], **quiet)
    gr.on([photo.upload, photo.clear], start_anew, photo, [status, choice, text], **quiet)
    choice.input(lambda caption: caption, choice, text, **quiet)
    copy.click(None, text, status, js=_COPY)
    save.click(None, [text, photo], status, js=_SAVE)


def suggested(captioner: Captioner, path: str | None, number: int, length: str | None) -> tuple[str, Sequence[str]]:
    """Return what is to be said, as HTML, and the suggestions for a photo: none where it cannot be read."""
    try:
        captions = captioner.suggest(path, number, length)
    except WorkError as error:
        return said(str(error)), []
    if len(captions) == number:
        return said(f"{number} suggestions by a program, may be wrong. Choose one."), captions
    if not captions:
        return said("No suggestion of this length."), []
    number_of = f"{len(captions)} of {number} suggestions by a program, may be wrong"
    return said(f"{number_of}. The captioner has no other of this length that differs."), captions
