"""The tab Moderation of `hfcap demo`: a person decides on the queue of `hfcap moderate review`."""

import io
from collections.abc import Callable
from html import escape
from threading import Lock
from typing import Any

import gradio as gr
from PIL import Image

from hfcap.applications.demo_photo_tabs import MIN_WIDTH, said, status_region
from hfcap.applications.moderation_texts import NO_TAG, evidence_text, may_show
from hfcap.applications.policy import Policy
from hfcap.applications.review_queue import Item, ReviewQueue, blurred_jpeg, picture_path
from hfcap.data.pictures import load_picture
from hfcap.errors import printable

PREVIEW = 1024  # pixels of the longest side of a picture that was asked for


def moderation_tab(queue: ReviewQueue, policy: Policy) -> None:
    """Add the tab that asks about each item; a picture is blurred until it is asked for."""
    window, lock = gr.State(), Lock()  # the queue is one for all windows
    about = gr.HTML(elem_id="moderation-item")
    with gr.Row():
        with gr.Column(min_width=MIN_WIDTH):
            picture = gr.Image(
                label="Picture", interactive=False, buttons=[], height=360, elem_id="moderation-picture"
            )
            original = gr.Button("Show the original", min_width=120)
        with gr.Column(min_width=MIN_WIDTH):
            reason = gr.Textbox(label="Reason, needed unless you agree", lines=2, elem_id="moderation-reason")
            with gr.Row():
                agree = gr.Button("Agree: it shows that", min_width=120)
                disagree = gr.Button("Disagree", min_width=120)
                cannot_tell = gr.Button("Cannot tell", min_width=120)
            with gr.Row():
                skip = gr.Button("Skip", min_width=120)
                undo = gr.Button("Undo", min_width=120)
            status = status_region("", "moderation-status")
    shown = [window, status, about, picture, reason, agree, disagree, cannot_tell, skip, original]

    def answer(ask: Callable[[Item | None, str], str]) -> Callable[[Item | None, str], list]:
        def locked(item: Item | None, text: str) -> list:
            with lock:
                return answered(queue, policy, ask, item, text)

        return locked

    def decide(name: str) -> Callable[[Item | None, str], list]:
        return answer(lambda item, text: decided(queue, item, name, text))

    gr.on(None, lambda: answer(lambda _item, _text: "")(None, ""), None, shown, show_progress="hidden")
    actions = {
        agree: decide("agree"),
        disagree: decide("disagree"),
        cannot_tell: decide("cannot_tell"),
        skip: answer(lambda item, _text: skipped(queue, item)),
        undo: answer(lambda _item, _text: undone(queue)),
    }
    for button, action in actions.items():
        button.click(action, [window, reason], shown, show_progress="hidden")
    original.click(lambda item: original_shown(queue, item), [window], [picture, status], show_progress="hidden")


def decided(queue: ReviewQueue, item: Item, answer: str, reason: str) -> str:
    """Record a decision, and say so; one of another window stays. Raises as `ReviewQueue.decide` does."""
    if queue.is_decided(item):
        return f"{item.row['image_id']}, {item.tag.replace('_', ' ')}, was decided elsewhere meanwhile. That stays."
    queue.decide(item, answer, reason)
    return f"{answer.replace('_', ' ').capitalize()}: {item.row['image_id']}, {item.tag.replace('_', ' ')}."


def skipped(queue: ReviewQueue, item: Item) -> str:
    """Leave an item for another session, and say so."""
    queue.skip(item)
    return f"Skipped: {item.row['image_id']}, {item.tag.replace('_', ' ')}."


def undone(queue: ReviewQueue) -> str:
    """Undo the last decision, and say so. Raises OSError where that cannot be written."""
    key = queue.undo()
    return "There is nothing to undo." if key is None else f"Undone: {key[0]}, {key[1].replace('_', ' ')}."


def answered(
    queue: ReviewQueue, policy: Policy, ask: Callable[[Item | None, str], str], item: Item | None, reason: str
) -> list[Any]:
    """Follow an answer, and return what the components of the tab become; a reason that is not saved stays."""
    try:
        message = ask(item, reason)
    except OSError as error:
        return [item, said(f"Not saved: {error.filename}: {error.strerror}"), *[gr.skip()] * 8]
    except ValueError as error:
        return [item, said(f"Not saved: {error}"), *[gr.skip()] * 8]
    new, counts = queue.next_item(), queue.counts()
    status = said(f"{message} {counts['decided']} decided now, {counts['waiting']} waiting.".strip())
    buttons = [gr.Button(interactive=new is not None)] * 5
    if new is None:
        done = f"<h2>Moderation: nothing left to decide</h2>{said(NO_TAG)}"
        return [None, status, done, gr.Image(value=None, visible=False), "", *buttons]
    image, note = picture_of(queue, new, blurred=True)
    return [new, status, item_html(new, policy, note), picture_shown(image, new, "blurred"), "", *buttons]


def original_shown(queue: ReviewQueue, item: Item) -> list[Any]:
    """Return the picture as it is, and a line that says so or why it cannot be shown."""
    image, note = picture_of(queue, item, blurred=False)
    if image is None:
        return [gr.skip(), said(note)]
    return [picture_shown(image, item, "as it is"), said("The picture is shown as it is.")]


def picture_shown(image: Image.Image | None, item: Item, how: str) -> gr.Image:
    """Return the component of a picture; its text names the picture and says nothing of what it shows."""
    text = f"The picture to decide on, {how}: {printable(item.row['image_id'])}"
    return gr.Image(value=image, visible=image is not None, alt_text=text)


def picture_of(queue: ReviewQueue, item: Item, blurred: bool) -> tuple[Image.Image | None, str]:
    """Return the picture of an item, made smaller, or why there is none."""
    try:
        path = picture_path(item.row, queue.tags.path)
        if blurred:
            return Image.open(io.BytesIO(blurred_jpeg(path))), ""
        picture = load_picture(path)
    # Damaged pictures raise SyntaxError and ValueError, besides OSError.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return None, f"The picture cannot be shown: {error}"
    picture.thumbnail((PREVIEW, PREVIEW))
    return picture, ""


def item_html(item: Item, policy: Policy, note: str) -> str:
    """Return what is said of an item before its picture is seen, as HTML."""
    threshold = "" if item.threshold is None else f", threshold {item.threshold:.3f}"
    words = (item.row.get("evidence") or {}).get(item.tag) or []
    lines = [
        f"Score {item.score:.3f}{threshold}; item {item.position} of {item.length}.",
        f"That means: {policy.tags[item.tag].means}",
        *evidence_text(item.row.get("caption"), words),
        *([] if item.appeal is None else [f"Appeal: {item.appeal}"]),
        *([note] if note else []),
    ]
    heading = f"{item.row['image_id']}, {may_show(item.tag)}"
    return f"<h2>Moderation: {escape(printable(heading))}</h2>{''.join(map(said, lines))}"
