"""The page for people, in the same process: gradio around :mod:`.explore` and :mod:`.archive`.

The only file that imports gradio, which finds out by types where a request is wanted.
"""

import tempfile
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from ..predictor.results import select
from .archive import summary, write_archive
from .explore import Explorer, Look, Looks
from .service import Service
from .uploads import Refused

EVERY_CLASS = "every class"
MAX_FILES = 100  # of one archive
KEPT = 3600.0  # seconds that uploads and archives are kept


def mount_page(app: Any, service: Service, samples: Sequence[Path] = ()) -> Any:
    """Puts the page at ``/`` of a FastAPI application; returns the application.

    Args:
        app: of :func:`.app.create_app`.
        service: whose model it shows.
        samples: images to choose from.
    """
    page = Page(service, samples)
    blocks = page.build()
    blocks.queue(max_size=service.limits.queue)
    limit = service.limits.max_bytes
    return gr.mount_gradio_app(app, blocks, "/", max_file_size=limit, ssr_mode=False)


class Page:
    """The page's state and what its elements call; arguments as of :func:`mount_page`."""

    def __init__(self, service: Service, samples: Sequence[Path] = ()) -> None:
        self.service, self.samples = service, {path.name: path for path in samples}
        self.explorer, self.looks = Explorer(service.predictor, service.lock), Looks()
        self.names = service.predictor.class_names or []
        self.folder = tempfile.TemporaryDirectory(prefix="cornernet-serve-")

    def build(self) -> gr.Blocks:
        """The elements and what they do."""
        with gr.Blocks(
            title="CornerNet", analytics_enabled=False, delete_cache=(round(KEPT), round(KEPT))
        ) as blocks:
            gr.Markdown("# CornerNet")
            with gr.Tab("One image"):
                self._one_image()
            with gr.Tab("Many files"):
                self._many_files()
            blocks.unload(self.leave)
        return blocks

    def _one_image(self) -> None:
        threshold, inference = self.explorer.threshold, self.explorer.inference
        top_k = inference.decoding["top_k"]
        with gr.Row():
            with gr.Column(scale=1):
                file = gr.File(label="Image", type="filepath", elem_id="image")
                sample = gr.Dropdown(
                    list(self.samples), value=None, label="Sample", visible=bool(self.samples),
                    elem_id="sample",
                )  # fmt: skip
                score = gr.Slider(0, 1, 0.3, step=0.01, label="Lowest score", elem_id="score")
                corners = gr.Slider(
                    1, max(200, top_k), top_k, step=1, label="Top-k: corners of a side",
                    elem_id="corners",
                )  # fmt: skip
                distance = gr.Slider(
                    0, max(2.0, 2 * (threshold or 0)), threshold or 0, step=0.01,
                    label="Pairing: largest distance of embeddings",
                    visible=threshold is not None, elem_id="distance",
                )  # fmt: skip
                chosen = gr.Dropdown(
                    [EVERY_CLASS, *self.names], value=EVERY_CLASS, label="Heat maps of"
                )
                told = gr.Markdown(elem_id="told")
            with gr.Column(scale=2):
                with gr.Tab("Boxes"):
                    boxes = gr.Image(show_label=False, interactive=False, elem_id="boxes")
                with gr.Tab("Corner pairs"):
                    pairs = gr.Image(show_label=False, interactive=False, elem_id="pairs")
                with gr.Tab("Heat maps"):
                    heats = [
                        gr.Image(label=label, interactive=False)
                        for label in ("Top-left corners", "Bottom-right corners")
                    ]
        settings = [score, corners, distance]
        found, everything = [told, boxes, pairs], [told, boxes, pairs, *heats]
        file.upload(self.see_file, [file, chosen, *settings], everything)
        sample.input(self.see_sample, [sample, chosen, *settings], everything)
        chosen.input(self.heat, chosen, heats)
        for slider in settings:
            slider.change(
                self.change, settings, found, trigger_mode="always_last", show_progress="hidden"
            )

    def _many_files(self) -> None:
        files = gr.File(
            label=f"Images, at most {MAX_FILES}", file_count="multiple", type="filepath"
        )
        score = gr.Slider(0, 1, 0.3, step=0.01, label="Lowest score")
        button = gr.Button("Detect", variant="primary")
        told, result = gr.Markdown(), gr.File(label="Pictures and detections.json")
        button.click(self.archive, [files, score], [told, result])

    def see_file(self, request: gr.Request, path: str, *settings: Any) -> list[Any]:
        """Looks at an uploaded file; see :meth:`see`."""
        return self.see(Path(path), request, *settings)

    def see_sample(self, request: gr.Request, name: str, *settings: Any) -> list[Any]:
        """Looks at a sample by its name; see :meth:`see`."""
        if name not in self.samples:
            raise _error(f"there is no sample {name}")
        return self.see(self.samples[name], request, *settings)

    def see(self, path: Path, request: gr.Request, chosen: str, *settings: Any) -> list[Any]:
        """One forward pass; returns a line of text, boxes, pairs and two heat maps."""
        try:
            if path.stat().st_size > self.service.limits.max_bytes:
                raise self.service.too_large()
            look = self.explorer.look(self.service.picture(path.read_bytes()))
        except (Refused, MemoryError) as error:
            raise _error(str(error)) from error
        self.looks.put(request.session_hash, look)
        return [*self._drawn(look, *settings), *self._heats(look, chosen)]

    def change(self, request: gr.Request, score: float, top_k: int, threshold: float) -> list[Any]:
        """Other settings on what the network saw; as the first three of :meth:`see`."""
        look = self.looks.get(request.session_hash)
        return self._drawn(look, score, top_k, threshold) if look else [None] * 3

    def heat(self, request: gr.Request, chosen: str) -> list[Any]:
        """The heat maps of a class by its name."""
        look = self.looks.get(request.session_hash)
        return self._heats(look, chosen) if look else [None] * 2

    def archive(self, paths: Sequence[str] | None, score: float) -> tuple[str, str]:
        """A line of text, and the path of a zip; see :func:`.archive.write_archive`."""
        if not paths:
            raise _error("choose files first")
        if len(paths) > MAX_FILES:
            raise _error(f"{len(paths)} files are more than the {MAX_FILES} of one archive")
        folder = Path(self.folder.name)
        for old in folder.iterdir():
            if time.time() - old.stat().st_mtime > KEPT:
                old.unlink()
        target = folder / f"detections-{uuid.uuid4().hex[:8]}.zip"
        told = summary(*write_archive(self.service, list(map(Path, paths)), target, score))
        return told, str(target)

    def leave(self, request: gr.Request) -> None:
        """The session has ended."""
        self.looks.drop(request.session_hash)

    def _drawn(self, look: Look, score: float, top_k: int, threshold: float) -> list[Any]:
        found, reason = select(self.explorer.detect(look, int(top_k), threshold), score)
        told = f"{len(found)} objects" + (f": {reason}" if reason else "")
        return [told, self.explorer.boxes(look, found), self.explorer.pairs(look, found)]

    def _heats(self, look: Look, chosen: str) -> list[Any]:
        index = self.names.index(chosen) if chosen in self.names else None
        return self.explorer.heat(look, index)


def _error(message: str) -> gr.Error:
    """What gradio shows as a message."""
    return gr.Error(message, duration=20)
