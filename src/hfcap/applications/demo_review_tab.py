"""The tab Review of `hfcap demo`: a person decides on the rows of an `alts.jsonl`."""

from collections.abc import Callable
from html import escape
from typing import Any

import gradio as gr

from hfcap.applications.demo_photo_tabs import MIN_WIDTH, heading, said, status_region
from hfcap.applications.demo_review import ReviewFile, Window, counts_text, picture_of
from hfcap.errors import printable

_CONTEXT = {"before": "Text before", "caption": "Caption", "link": "Link", "after": "Text after"}


def review_tab(review: ReviewFile) -> None:
    """Add the tab that asks about each pending row."""
    window = gr.State()
    about = gr.HTML(elem_id="review-row")
    with gr.Row():
        with gr.Column(min_width=MIN_WIDTH):
            picture = gr.Image(label="Picture", interactive=False, buttons=[], height=360, elem_id="review-picture")
        with gr.Column(min_width=MIN_WIDTH):
            proposal = gr.HTML()
            text = gr.Textbox(label="Alt text: change it where it is wrong", lines=3, elem_id="alt")
            with gr.Row():
                accept = gr.Button("Accept this text", variant="primary", min_width=120)
                decorative = gr.Button("Decorative", min_width=120)
            with gr.Row():
                skip = gr.Button("Skip", min_width=120)
                undo = gr.Button("Undo", min_width=120)
            status = status_region("", "review-status")
    shown = [window, status, about, picture, proposal, text, accept, decorative, skip, undo]

    def answer(ask: Callable[[Window, str], tuple[Window, str]]) -> Callable[[Window, str], list]:
        return lambda window, text: answered(ask, window, text)

    def opened() -> list:
        return answered(lambda _window, _text: (review.open(), ""), None, "")

    gr.on(None, opened, None, shown, show_progress="hidden")
    actions = {
        accept: lambda window, text: review.decide(window, "accept", text),
        decorative: lambda window, text: review.decide(window, "decorative", text),
        skip: lambda window, text: review.decide(window, "skip", text),
        undo: lambda window, _text: review.undo(window),
    }
    for button, ask in actions.items():
        button.click(answer(ask), [window, text], shown, show_progress="hidden")


def answered(ask: Callable[[Window, str], tuple[Window, str]], window: Window | None, text: str) -> list[Any]:
    """Ask the file, and return what the components of the tab become; a text that is not saved stays."""
    try:
        new, message = ask(window, text)
    except OSError as error:
        return [window, said(f"Not saved: {error.filename}: {error.strerror}"), *[gr.skip()] * 8]
    except ValueError as error:
        return [window, said(f"Not saved: {error}"), *[gr.skip()] * 8]
    is_same = (
        window is not None and new.row is not None and window.row is not None and new.row["id"] == window.row["id"]
    )
    return [new, said(f"{message} {_where(new)}".strip()), *_row_shown(new, text if is_same else None)]


def _where(window: Window) -> str:
    if window.row is None:
        return f"Nothing is left to decide: {counts_text(window.statuses)}."
    return f"Row {window.place + 1} of {window.statuses.total()}; {window.statuses['pending']} pending."


def _row_shown(window: Window, text: str | None) -> list[Any]:
    """Return the row, its picture, proposal and text, and the four buttons."""
    row, is_open = window.row, window.row is not None
    buttons = [*[gr.Button(interactive=is_open)] * 3, gr.Button(interactive=bool(window.done))]
    if row is None:
        return ["<h2>Review: nothing left to decide</h2>", gr.Image(value=None, visible=False), "", "", *buttons]
    found, note = picture_of(row)
    image = gr.Image(value=found, visible=found is not None, alt_text=f"The picture to decide on, {row['src']}")
    return [row_html(window, note), image, proposal_html(row), text or row["suggestion"] or "", *buttons]


def row_html(window: Window, note: str) -> str:
    """Return where a row is and what stands around its picture, as HTML."""
    row = window.row
    facts = [("Role", row["role"].replace("_", " "))]
    facts += [(label, row["context"].get(name)) for name, label in _CONTEXT.items()]
    facts += [("Text in it", entry["text"]) for entry in row["text_in_image"]]
    facts += [("Note", entry) for entry in (*row["notes"], note)]
    terms = "".join(f"<dt>{label}</dt><dd>{escape(printable(str(value)))}</dd>" for label, value in facts if value)
    return f"<h2>Review: {escape(printable(row['id']))}</h2><dl>{terms}</dl>"


def proposal_html(row: dict[str, Any]) -> str:
    """Return the proposal of a row as HTML, a heading behind the words that a program made it."""
    if row["suggestion"]:
        return said("Proposal, by a program, may be wrong:") + heading(row["suggestion"])
    return said("Proposal: decorative." if row["role"] == "maybe_decorative" else "No proposal; write a text.")
