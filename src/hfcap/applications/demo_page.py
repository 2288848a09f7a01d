"""The page of `hfcap demo`: its tabs, its style, and what of Gradio's page has to change for screen readers."""

from html import escape

import gradio as gr
from fastapi import FastAPI

from hfcap.applications.demo_captioner import Captioner
from hfcap.applications.demo_moderation_tab import moderation_tab
from hfcap.applications.demo_photo_tabs import describe_tab, suggest_tab
from hfcap.applications.demo_review import ReviewFile
from hfcap.applications.demo_review_tab import review_tab
from hfcap.applications.policy import Policy
from hfcap.applications.review_queue import ReviewQueue

FONT, MONO = ("system-ui", "sans-serif"), ("ui-monospace", "monospace")
CSS = """
.gradio-container { width: 100%; max-width: 1100px !important; margin: 0 auto !important; }
button[role=tab][aria-selected=true] { color: var(--body-text-color); font-weight: 600; }
#suggestions .wrap { flex-direction: column; align-items: stretch; }
#review-row dl { display: grid; grid-template-columns: max-content 1fr; gap: 4px 16px; margin: 0; }
#review-row dt { font-weight: 600; }
#review-row dd { margin: 0; overflow-wrap: anywhere; }
h2, h3 { overflow-wrap: anywhere; }
"""
# Gradio 6.31 names each radio button differently, so that each is a group of its own and arrow keys do not move.
RADIOS = """() => {
    let count = 0;
    const share = () => document.querySelectorAll("fieldset").forEach((group) => {
        group.dataset.radios ??= `radios-${++count}`;
        group.querySelectorAll(`input[type=radio]:not([name=${group.dataset.radios}])`).forEach((radio) => {
            radio.name = group.dataset.radios;
        });
    });
    const changes = {childList: true, subtree: true, attributeFilter: ["name"]};
    new MutationObserver(share).observe(document.body, changes);
    share();
}"""


def build_page(
    captioner: Captioner, review: ReviewFile | None, moderation: tuple[ReviewQueue, Policy] | None = None
) -> gr.Blocks:
    """Return the page; a function adds each tab.

    Args:
        captioner: describes and suggests.
        review: file of the tab Review; without one there is no such tab.
        moderation: queue of the tab Moderation and its policy; without them there is no such tab.
    """
    with gr.Blocks(title="hfcap demo", analytics_enabled=False) as page:
        gr.HTML(f"<h1>hfcap demo</h1><p>Captions by {escape(captioner.args.model)}, on this machine alone.</p>")
        with gr.Tabs():
            with gr.Tab("Describe"):
                describe_tab(captioner)
            with gr.Tab("Suggest"):
                suggest_tab(captioner)
            if review is not None:
                with gr.Tab("Review"):
                    review_tab(review)
            if moderation is not None:
                with gr.Tab("Moderation"):
                    moderation_tab(*moderation)
    return page


def mounted(app: FastAPI, page: gr.Blocks, host: str, port: int) -> FastAPI:
    """Let an application answer with a page, without anything of Gradio's that reaches beyond this machine."""
    theme = gr.themes.Monochrome(font=FONT, font_mono=MONO)
    # Without a border fields have a contrast of 1.1 with the page, of which WCAG 1.4.11 asks for 3.
    edges = ("input_border_color", "checkbox_border_color")
    theme.set(input_border_width="1px", **dict.fromkeys(edges, "*neutral_500"))
    theme.set(**{f"{name}_dark": "*neutral_400" for name in edges})
    return gr.mount_gradio_app(
        app,
        page,
        path="/",
        server_name=host,
        server_port=port,
        theme=theme,
        css=CSS,
        js=RADIOS,
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
    )
