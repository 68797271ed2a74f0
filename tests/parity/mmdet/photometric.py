"""photometric.npz: changes of colour with given draws."""

from collections.abc import Iterator

from cornernet_d2.data.colors import DistortionTransform

from ..check import Case, Check, guarded
from ..reference import Arrays, Reference, numbered

STEPS = ("brightness", "contrast", "saturation", "hue", "swap")
VALUES = ("delta", "alpha", "saturation", "hue", "swap")  # what is drawn for each
TOLERANCE = 1e-3  # grey levels, float32 of about 255


def run(folder: Reference, file: str) -> Iterator[Check]:
    for index, want in numbered(folder.load(file), "image"):
        case = Case(file, f"image{index}")
        yield from guarded(case, _case(case, folder, want))


def _case(case: Case, folder: Reference, want: Arrays) -> Iterator[Check]:
    image = folder.recipe.make_image(*want["output"].shape[:2], int(want["seed"]))
    for image_format, order in (("BGR", slice(None)), ("RGB", slice(None, None, -1))):
        draws = {value: want[f"{value}_value"] for value in VALUES}
        channels = draws["swap"].tolist()
        if image_format == "RGB":
            channels = [2 - channel for channel in reversed(channels)]
        values = [*(float(draws[value]) for value in VALUES[:-1]), channels]
        taken = (v if want[f"{step}_flag"] else None for step, v in zip(STEPS, values))
        distortion = DistortionTransform(*taken, not want["mode"], image_format)
        got = distortion.apply_image(image[..., order])[..., order]
        yield case.absolute(f"colours of {image_format}", got, want["output"], TOLERANCE)
