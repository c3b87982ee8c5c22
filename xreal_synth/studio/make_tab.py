"""The tab that makes images: chest, findings with boxes drawn on it, settings, results and recipe rows."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Final, get_args

import gradio as gr
from PIL import Image

from xreal_synth.from_recipe import Finding
from xreal_synth.recipe.kinds import LUNGS_SCALE
from xreal_synth.studio.making import AS_DRAWN, BANK, KINDS, OWN_IMAGE, Made, Studio
from xreal_synth.studio.page import on, picture
from xreal_synth.studio.pictures import FOUR, SIDE, box_between, chest_picture, facts, four_pictures, scores
from xreal_synth.types import NormBox, QualityProfile, Side, Zone

ROWS: Final = 4
"""Findings of one image."""
VARIED: Final = 4
NONE: Final = "none"
_PROGRESS: Final = gr.Progress()
_HELP: Final = "Two clicks on the chest draw a box. The patient's left is the right half of the picture."
_NO_RECIPE: Final = "# none: the chest is an own one, or its seed is not the image's\n"

Boxes = dict[int, NormBox]
Corner = tuple[float, float] | None


class MakeTab:
    """Builds the tab inside the one that is open, and answers its events."""

    def __init__(self, studio: Studio) -> None:
        self._studio = studio
        with gr.Row():
            with gr.Column(scale=5, min_width=320):
                self._chest_part()
                self._findings_part()
                self._settings_part()
            with gr.Column(scale=6, min_width=320):
                self._results_part()
        self._names = [row[0] for row in self._rows]
        self._connect()

    def _chest_part(self) -> None:
        kind = gr.Radio(list(KINDS), value=BANK, label="Chest")
        seed = gr.Number(7, precision=0, minimum=0, label="Chest's seed")
        with gr.Row():
            heart = gr.Slider(0.5, 2, AS_DRAWN, step=0.05, label="Heart's size", min_width=160)
            lungs = gr.Slider(*LUNGS_SCALE, AS_DRAWN, step=0.05, label="Lungs' size", min_width=160)
        upload = partial(gr.File, file_types=["image"], visible=False, height=120)
        image, mask = upload(label="Image: grey PNG, JPEG or TIFF"), upload(label="Organ mask: PNG of codes")
        self._chest = [kind, seed, heart, mask, image, lungs]
        self._picture = gr.Image(
            format="png", interactive=False, show_label=False, buttons=[], elem_classes="chest", elem_id="chest"
        )
        gr.HTML(f"<p class='quiet'>{_HELP}</p>")
        self._boxes, self._corner = gr.State({}), gr.State(None)

        def switched(now: str) -> tuple[Any, ...]:
            bank = gr.update(visible=now == BANK)
            return bank, bank, gr.update(visible=now != BANK), gr.update(visible=now == OWN_IMAGE), bank

        on(kind.change, switched, [kind], self._chest[1:])

    def _findings_part(self) -> None:
        self._which = gr.Radio(_numbered([NONE] * ROWS), value=0, label="Findings; a box is the chosen one's")
        self._groups, self._rows = [], list[list[Any]]()
        for number in range(ROWS):
            with gr.Group(visible=number == 0) as group:
                name = gr.Dropdown([NONE, *sorted(self._studio.info.prompts)], label=f"Finding {number + 1}")
                with gr.Row():
                    side = gr.Dropdown(list(get_args(Side)), label="Side", min_width=90)
                    zone = gr.Dropdown(list(get_args(Zone)), label="Zone", min_width=90)
                size = gr.Slider(0, 1, 0, step=0.05, label="Size, share of the lung (0: as usual)")
            self._groups.append(group)
            self._rows.append([name, side, zone, size])
        self._clear = gr.Button("Clear boxes", size="sm")

    def _settings_part(self) -> None:
        best = self._studio.info.defaults
        with gr.Row():
            seed = gr.Number(7, precision=0, minimum=0, label="Image's seed", min_width=120)
            guidance = gr.Slider(0, max(15, best.guidance), best.guidance, step=0.5, label="Guidance", min_width=160)
        with gr.Accordion("More", open=False), gr.Row():
            steps = gr.Slider(1, max(100, best.steps), best.steps, step=1, label="Steps", min_width=160)
            gate = gr.Dropdown(list(get_args(QualityProfile)), value="standard", label="Gate", min_width=120)
        self._settings = [seed, guidance, steps, gate]
        with gr.Row():
            self._make = gr.Button("Make", variant="primary", min_width=120)
            self._vary = gr.Button("Four seeds", min_width=120)

    def _results_part(self) -> None:
        self._made = gr.State([])
        self._four = gr.Gallery(
            label="Choose one", columns=VARIED, visible=False, allow_preview=False, format="png", object_fit="contain",
            buttons=[], height="auto", elem_id="four", elem_classes="pictures",
        )  # fmt: skip
        pictures = []
        for pair in (FOUR[:2], FOUR[2:]):
            with gr.Row():
                pictures += [picture(name) for name in pair]
        with gr.Column(visible=False) as told:
            what = gr.HTML(elem_id="facts")
            with gr.Accordion("Gate's scores", open=False):
                gate = gr.HTML(elem_id="scores")
            code = partial(gr.Code, language="yaml", lines=1, buttons=["copy"])
            rows = code(label="Recipe rows", wrap_lines=True, elem_id="rows")
            with gr.Accordion("Whole recipe of this very image", open=False):
                recipe = code(show_label=False, elem_id="recipe")
        self._results = [*pictures, told, what, gate, rows, recipe]

    def _connect(self) -> None:
        drawing = [self._boxes, self._corner]
        places = [value for row in self._rows for value in row[1:]]
        quiet = {"show_progress": "hidden"}
        on(
            self._picture.select, self._clicked, [self._which, *drawing, *self._names],
            [*drawing, *places], trigger_mode="multiple", **quiet,  # a second click must not be dropped
        )  # fmt: skip
        on(
            partial(gr.on, None), self._drawn, [*self._chest, *drawing, *self._names], [self._picture],
            trigger_mode="always_last", **quiet,
        )  # fmt: skip
        on(self._clear.click, lambda: ({}, None), [], drawing)
        on(self._which.change, _only, [self._which], self._groups, **quiet)
        for name in self._names:
            on(name.change, _renamed, self._names, [self._which], **quiet)
        rows = [value for row in self._rows for value in row]
        inputs = [*self._chest, self._boxes, *self._settings, *rows]
        outputs = [self._made, self._four, *self._results]
        how = {"concurrency_id": "model", "concurrency_limit": 1, "show_progress_on": self._results[:2]}
        on(self._make.click, partial(self._make_some, 1), inputs, outputs, **how)
        on(self._vary.click, partial(self._make_some, VARIED), inputs, outputs, **how)
        on(self._four.select, self._chosen, [self._made], self._results)

    def _drawn(self, *values: Any) -> Image.Image | None:
        chest, boxes, corner, named = values[:6], values[6], values[7], _named(values[8:])
        kind, _, _, mask, image, _ = chest
        if kind != BANK and (image if kind == OWN_IMAGE else mask) is None:
            return None
        boxed = {row: (named.get(row, f"finding {row + 1}"), box) for row, box in boxes.items()}
        return chest_picture(self._studio.canvas(tuple(named.values()), *chest), boxed, corner)

    def _clicked(self, event: gr.SelectData, row: int, boxes: Boxes, corner: Corner, *names: str) -> tuple[Any, ...]:
        at = (event.index[0] / SIDE, event.index[1] / SIDE)
        places: list[Any] = [gr.skip()] * 3 * ROWS
        if corner is None:
            return (boxes, at, *places)
        box = box_between(corner, at)
        if name := _named(names).get(row):
            Finding(name, box=box)
        places[3 * row : 3 * row + 3] = ["any", "any", 0]
        return ({**boxes, row: box}, None, *places)

    def _make_some(self, count: int, progress: Any = _PROGRESS, *values: Any) -> tuple[Any, ...]:
        chest, boxes, (seed, guidance, steps, profile), rows = (
            values[:6], values[6], values[7:11], [values[at : at + 4] for at in range(11, len(values), 4)],
        )  # fmt: skip
        findings = [
            Finding(name, rows[row][1], rows[row][2], (rows[row][3],) * 2 if rows[row][3] else None, boxes.get(row))
            for row, name in _named([row[0] for row in rows]).items()
        ]
        canvas = self._studio.canvas(findings, *chest)

        def made(number: int) -> Made:
            progress(number / count, desc="making")
            return self._studio.make(
                canvas, findings, seed=(seed or 0) + number, guidance=guidance, steps=steps, profile=profile,
                on_share=lambda share: progress((number + share) / count, desc="making"),
            )  # fmt: skip

        images = [made(number) for number in range(count)]
        four = [(one.image.image, f"seed {one.image.sample.meta.seed}") for one in images]
        several = gr.update(value=four, visible=count > 1, selected_index=0)
        return (images, several, *_told(images[0]))

    def _chosen(self, event: gr.SelectData, images: list[Made]) -> tuple[Any, ...]:
        return _told(images[event.index])


def _told(one: Made) -> tuple[Any, ...]:
    image = one.image
    shown = (gr.update(visible=True), facts(image, one.seconds), scores(image), one.rows)
    return (*four_pictures(image), *shown, image.recipe or _NO_RECIPE)


def _named(names: Sequence[str]) -> dict[int, str]:
    """Names of the findings that are chosen, by row."""
    return {row: name for row, name in enumerate(names) if name not in (None, NONE)}


def _numbered(names: Sequence[str]) -> list[tuple[str, int]]:
    named = _named(names)
    return [(f"{row + 1} {named.get(row, '')}".rstrip(), row) for row in range(len(names))]


def _renamed(*names: str) -> Any:
    return gr.update(choices=_numbered(names))


def _only(row: int) -> tuple[Any, ...]:
    return tuple(gr.update(visible=number == row) for number in range(ROWS))
