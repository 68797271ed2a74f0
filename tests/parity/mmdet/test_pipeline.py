"""test_pipeline.npz: the network's input for images of several sizes."""

from collections.abc import Iterator

import torch

from ..check import Case, Check, check_stats, guarded, stats
from ..ours import preprocess, small_model
from ..reference import MMDET, Arrays, Reference, numbered


def run(folder: Reference, file: str) -> Iterator[Check]:
    for index, want in numbered(folder.load(file), "image"):
        case = Case(file, f"image{index}")
        yield from guarded(case, _case(case, folder, want))


def rgb(folder: Reference, size: object, seed: object) -> torch.Tensor:
    """(3, height, width) uint8 of the recipe's image, as our mapper hands it over."""
    image = folder.recipe.make_image(*(int(side) for side in size), int(seed))
    return torch.from_numpy(image[..., ::-1].transpose(2, 0, 1).copy())


def _case(case: Case, folder: Reference, want: Arrays) -> Iterator[Check]:
    image = rgb(folder, want["size"], want["seed"])
    pixels, borders = preprocess(small_model(MMDET), [image])
    yield from check_canvas(case, pixels, borders, image, want)
    pixels = pixels[0]
    yield from check_stats(case, "input", stats(pixels), want["stats"], 1e-5)
    sums, scale = pixels.double().sum((1, 2)), pixels.double().abs().sum((1, 2))
    yield case.relative("channel sums", sums, want["channel_sums"], 5e-5, scale=scale)
    yield case.absolute("input sample", pixels[:, ::8, ::8], want["sub"], 1e-5)
    yield case.absolute("last rows", pixels[:, -2:], want["last_rows"], 1e-5)
    yield case.absolute("last columns", pixels[:, :, -2:], want["last_columns"], 1e-5)


def check_canvas(
    case: Case, pixels: torch.Tensor, borders: list, image: torch.Tensor, want: Arrays
) -> Iterator[Check]:
    """Compare the canvas and the edges of the image on it: top, bottom, left, right."""
    canvas = tuple(pixels.shape[-2:])
    yield case.exact("canvas", canvas, want["canvas"])
    (top, left), (height, width) = borders[0], image.shape[-2:]
    # An image that fills the canvas loses its last row or column there.
    unused = [min(0, side - 1 - end) for side, end in zip(canvas, (top + height, left + width))]
    edges = [top, top + height + unused[0], left, left + width + unused[1]]
    yield case.exact("border", edges, want["border"])
