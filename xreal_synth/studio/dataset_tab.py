"""The tab that browses a dataset: filters, a page of images, the chosen one beside its twin and real images."""

from __future__ import annotations

from typing import Any, Final

import gradio as gr

from xreal_synth.studio.browsing import BESIDE, PAGE, ROLES, Shelf, thumbnail
from xreal_synth.studio.page import on, picture
from xreal_synth.studio.pictures import FOUR, facts, four_pictures, scores

ANY: Final = "any"
_NO_ORDER: Final = "as they come"
_FIRST: Final = {"Finding": ANY, "Flag": ANY, "Role": "all", "Worst first by": _NO_ORDER}
"""Filters with their first values."""


def dataset_tab() -> None:
    """Builds the tab inside the one that is open."""
    with gr.Row():
        folder = gr.Textbox(label="Dataset: folder or URI", placeholder="out/quickstart", min_width=220)
        real = gr.Textbox(label="Real images: folder (may be left out)", min_width=220)
    opening = gr.Button("Open", variant="primary")
    status = gr.Textbox(show_label=False, interactive=False, visible=False, lines=1, elem_id="status")
    shelf = gr.State(None)
    with gr.Column(visible=False) as shown:
        with gr.Row():
            filters = [gr.Dropdown([first], label=name, min_width=140) for name, first in _FIRST.items()]
        images = _gallery("images", show_label=False)
        page = gr.Slider(1, 2, 1, step=1, label="Page", elem_id="page")
        with gr.Row():
            pictures = [picture(name) for name in FOUR]
        with gr.Row():
            with gr.Column(min_width=300):
                told = gr.HTML(elem_id="told")
            with gr.Column(min_width=300):
                gate = gr.HTML()
        beside = _gallery("beside", label="Real images", visible=False)
    results = [shelf, page, images]
    on(opening.click, _opened, [folder, real], [status, shown, *filters, *results])
    for one in filters:
        on(one.input, _filtered, [shelf, *filters], results, trigger_mode="always_last")
    on(page.change, _turned, [shelf, page], [images], trigger_mode="always_last")
    on(images.select, _looked, [shelf, page], [*pictures, told, gate, beside])


def _gallery(name: str, **how: Any) -> Any:
    return gr.Gallery(
        columns=BESIDE, allow_preview=False, object_fit="contain", buttons=[], height="auto", elem_id=name,
        elem_classes="pictures", **how,
    )  # fmt: skip


def _opened(folder: str, real: str) -> tuple[Any, ...]:
    shelf = Shelf.opened(folder.strip(), real.strip())
    names = [
        [(ANY, ANY), *((f"{name} ({count})", name) for name, count in counts.items())]
        for counts in (shelf.findings, shelf.dataset.flags)
    ]
    choices = [*names, list(ROLES), [_NO_ORDER, *shelf.scores]]
    filters = [gr.update(choices=given, value=first) for given, first in zip(choices, _FIRST.values(), strict=True)]
    told = (gr.update(value=shelf.words, visible=True), gr.update(visible=True))
    return (*told, *filters, *_filtered(shelf, *_FIRST.values()))


def _filtered(shelf: Shelf, finding: str, flag: str, role: str, score: str) -> tuple[Any, ...]:
    now = shelf.filtered(
        finding=None if finding == ANY else finding, flag=None if flag == ANY else flag, role=ROLES[role],
        worst_by=None if score == _NO_ORDER else score,
    )  # fmt: skip
    pages = max(1, -(-len(now.places) // PAGE))
    label = f"Page: {len(now.places):,} images"
    return now, gr.update(value=1, maximum=max(2, pages), label=label, visible=pages > 1), _turned(now, 1)


def _turned(shelf: Shelf | None, page: int) -> list[Any]:
    return [] if shelf is None else [thumbnail(one) for one in shelf.page(int(page))]


def _looked(event: gr.SelectData, shelf: Shelf, page: int) -> tuple[Any, ...]:
    place = (int(page) - 1) * PAGE + event.index
    one = shelf.image(place)
    real = gr.update(visible=False)
    if shelf.real is not None:
        real = gr.update(value=shelf.real.beside(list(one.boxes) or ["No Finding"], place), visible=True)
    return (*four_pictures(one), facts(one), scores(one), real)
