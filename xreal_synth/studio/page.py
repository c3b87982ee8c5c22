"""The studio's page: its two tabs, its looks, and how handlers tell of mistakes."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, Final

import gradio as gr
from gradio import processing_utils
from markupsafe import Markup
from PIL import Image

from xreal_synth.errors import XrealError
from xreal_synth.escaping import for_terminal
from xreal_synth.studio.making import Studio

_HEAD: Final = Markup(
    "<h1>xreal-synth studio</h1><p class='quiet'>bundle {}; synthetic images, for research and not for diagnosis</p>"
)
_FONT: Final = ["system-ui", "sans-serif"]
_CSS: Final = """
.gradio-container { max-width: 1240px !important; }
.chest { max-width: 480px; margin: 0 auto; }
.chest img { cursor: crosshair; touch-action: manipulation; }
.shot .image-frame { width: 100%; }
.chest img, .shot img { width: 100% !important; object-fit: contain !important; }
.shot label span, .shot [data-testid=block-label] span { display: none; }
.pictures .grid-wrap { height: auto !important; min-height: 0 !important; max-height: none !important; }
.prose table.facts { width: 100%; font-size: .9rem; }
.prose table.facts, .prose .facts tr, .prose .facts tr > * { border: 0 !important; }
.prose .facts tr > * { text-align: left; vertical-align: top; padding: .25rem .75rem .25rem 0; font-weight: normal; }
.prose .facts th, .prose .quiet { opacity: .72; }
.prose .quiet { font-size: .9rem; margin: 0; }
.toast-wrap { top: auto !important; bottom: 0 !important; }
.toast-body pre { white-space: pre-wrap; font: inherit; margin: 0; background: none; }
@media (max-width: 640px) { .pictures .grid-container { grid-template-columns: repeat(2, 1fr) !important; } }
"""
LOOKS: Final[dict[str, Any]] = {
    "css": _CSS,
    "theme": gr.themes.Base(primary_hue="cyan", font=_FONT, font_mono=["ui-monospace", "monospace"]),
}
"""What `mount_gradio_app` is given beside the page; fonts are the browser's own."""

_save: Final = processing_utils.save_pil_to_cache


def _saved_whole(img: Image.Image, cache_dir: str, **how: str) -> str:
    """gradio names a picture by its content and writes it anew whenever it is shown, while a page may be loading it."""
    with tempfile.TemporaryDirectory(dir=cache_dir) as folder:
        written = Path(_save(img, folder, **how))
        place = Path(cache_dir) / written.parent.name
        place.mkdir(exist_ok=True)
        return str(written.replace(place / written.name))


processing_utils.save_pil_to_cache = _saved_whole


def on(event: Any, handler: Callable[..., Any], inputs: Sequence[Any], outputs: Sequence[Any], **how: Any) -> Any:
    """Has an event call a handler; a mistake that the user can mend is shown, and the page left as it was."""

    @wraps(handler)
    def told(*values: Any) -> Any:
        try:
            return handler(*values)
        except XrealError as error:
            text = Markup("<pre>{}</pre>").format(for_terminal(error.message()))
            gr.Info(str(text), duration=None)
            return gr.skip()

    return event(told, list(inputs), list(outputs), api_visibility="private", **how)


def picture(name: str) -> Any:
    """A picture that is looked at, as wide as there is room."""
    buttons = ["download", "fullscreen"]
    return gr.Image(label=name, format="png", interactive=False, min_width=150, buttons=buttons, elem_classes="shot")


def page(studio: Studio) -> gr.Blocks:
    """The whole page, not yet served."""
    from xreal_synth.studio.dataset_tab import dataset_tab
    from xreal_synth.studio.make_tab import MakeTab

    with gr.Blocks(analytics_enabled=False, title="xreal-synth studio", delete_cache=(600, 3600)) as blocks:
        gr.HTML(_HEAD.format(studio.info.name))
        with gr.Tab("Make"):
            MakeTab(studio)
        with gr.Tab("Dataset"):
            dataset_tab()
    return blocks
