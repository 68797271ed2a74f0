"""The picture at the top of the README: what a trained model finds, and the corners it sees.

    python .ci/make_hero.py output/bccd/model_best.pth datasets/bccd/images/BloodImage_00001.jpg

A row a photo: confident detections, then the heat maps of top-left and of bottom-right corners,
with the corners of these detections. Put the photos' attribution beside it.
"""

import argparse
import sys
from pathlib import Path

import cv2
import numpy as np
import torch
from detectron2.structures import Instances
from detectron2.utils.colormap import colormap
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import cornernet_d2
from cornernet_d2.diagnosis import CornerNetVisualizer
from cornernet_d2.predictor.images import read_picture

TITLES = ("detections", "top-left corners", "bottom-right corners")
RING = 7  # radius of a detection's corner, pixels


def corner_heat(
    predictor: cornernet_d2.Predictor, picture: np.ndarray
) -> tuple[list[torch.Tensor], float, tuple[int, int]]:
    """Heat maps of the two corners, the picture's pixels per cell, and its origin in its pixels.

    Args:
        picture: (H, W, 3) BGR.
    """
    x, model = predictor.to_input(picture), predictor.model
    with torch.no_grad():
        batch, canvas = model.preprocess_image([x])
        maps = model.last_maps(batch)
    heat = [maps[corner]["heatmap"][0].float().sigmoid().cpu() for corner in ("tl", "br")]
    factor = picture.shape[1] / x["image"].shape[-1]
    top, left = canvas.borders[0]
    stride = model.target_generator.stride
    return heat, stride * factor, (round(top * factor), round(left * factor))


def panels(
    predictor: cornernet_d2.Predictor, picture: np.ndarray, min_score: float, width: int
) -> list[np.ndarray]:
    """Three RGB pictures of ``width`` pixels, as TITLES says.

    Args:
        picture: (H, W, 3) BGR.
        min_score: of the detections that are drawn.
    """
    found: Instances = predictor(picture)
    found = found[found.scores >= min_score]
    scale = width / picture.shape[1]
    names = predictor.class_names or [str(i) for i in range(100)]
    rgb = np.ascontiguousarray(picture[..., ::-1])
    first = CornerNetVisualizer(rgb, scale=scale)
    classes, scores = found.pred_classes.tolist(), found.scores.tolist()
    labels = [f"{names[i]} {score:.0%}" for i, score in zip(classes, scores)]
    palette = colormap(rgb=True, maximum=1)
    first.draw_boxes(found.pred_boxes, labels, [palette[i % len(palette)] for i in classes])
    drawn = [first.get_output().get_image()]
    heat, stride, origin = corner_heat(predictor, picture)
    for corner, each in enumerate(heat):
        panel = cv2.resize(_glow(rgb, each, stride, origin), drawn[0].shape[1::-1])
        for point in found.pred_boxes.tensor[:, 2 * corner : 2 * corner + 2] * scale:
            centre = tuple(round(value) for value in point.tolist())
            cv2.circle(panel, centre, RING, (255, 255, 255), 1, cv2.LINE_AA)
        drawn.append(panel)
    return drawn


def _glow(
    rgb: np.ndarray, heat: torch.Tensor, stride: float, origin: tuple[int, int]
) -> np.ndarray:
    """A heat map (C, h, w) over the dimmed, grey picture, the highest class of each cell."""
    height, width = rgb.shape[:2]
    heat = heat.amax(0).numpy()
    size = (round(heat.shape[1] * stride), round(heat.shape[0] * stride))
    heat = cv2.resize(heat, size, interpolation=cv2.INTER_CUBIC).clip(0, 1)
    heat = heat[origin[0] : origin[0] + height, origin[1] : origin[1] + width]
    missing = [(0, max(0, side - have)) for side, have in zip((height, width), heat.shape)]
    heat = np.pad(heat, missing, mode="edge")
    grey = 0.55 * cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)[..., None].astype(np.float32)
    colours = cv2.applyColorMap((255 * heat).astype(np.uint8), cv2.COLORMAP_HOT)[..., ::-1]
    weight = np.sqrt(heat)[..., None]
    return (grey * (1 - weight) + colours * weight).astype(np.uint8)


def sheet(rows: list[list[np.ndarray]], width: int) -> np.ndarray:
    """All panels with their titles, RGB, ``width`` pixels wide."""
    gap, dpi = 0.06, 100
    panel = (width / dpi - 4 * gap) / len(TITLES)
    heights = [panel * row[0].shape[0] / row[0].shape[1] for row in rows]
    title = 0.3
    total = title + sum(heights) + gap * len(rows)
    figure = Figure(figsize=(width / dpi, total), dpi=dpi)
    y = total - title
    for row, height in zip(rows, heights):
        y -= height
        for column, picture in enumerate(row):
            x = gap + column * (panel + gap)
            box = (x / (width / dpi), y / total, panel / (width / dpi), height / total)
            axes = figure.add_axes(box)
            axes.imshow(picture, interpolation="antialiased", aspect="auto")
            axes.set_axis_off()
            if row is rows[0]:
                axes.set_title(TITLES[column], fontsize=12, pad=4)
        y -= gap
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def main(arguments: list[str] | None = None) -> None:
    """Command line; see the head of this file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="file of a trained model")
    parser.add_argument("photos", nargs="+", type=Path)
    parser.add_argument("--output", type=Path, default=Path("docs/hero.jpg"), help="%(default)s")
    parser.add_argument("--min-score", type=float, default=0.5, help="[%(default)s]")
    parser.add_argument("--width", type=int, default=1280, help="pixels [%(default)s]")
    parser.add_argument("--quality", type=int, default=80, help="of the JPEG [%(default)s]")
    args = parser.parse_args(arguments)
    try:
        predictor = cornernet_d2.load(args.model)
        rows = [
            panels(predictor, read_picture(path), args.min_score, args.width // len(TITLES))
            for path in args.photos
        ]
    except ValueError as error:
        sys.exit(str(error))
    picture = sheet(rows, args.width)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    quality = [cv2.IMWRITE_JPEG_QUALITY, args.quality]
    if not cv2.imwrite(str(args.output), picture[..., ::-1], quality):
        sys.exit(f"{args.output} could not be written")
    print(f"{args.output}: {args.output.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
