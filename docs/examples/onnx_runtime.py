"""Detect objects with an exported CornerNet: numpy, Pillow and onnxruntime, nothing else.

    python onnx_runtime.py model.onnx photo.jpg [more.jpg ...] [--score 0.4]

Prints a line of JSON for each image.
"""

import argparse
import json

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


class Detector:
    """A file of `export --format onnx`, with what it says about itself."""

    def __init__(self, path: str) -> None:
        self.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        about = self.session.get_modelmeta().custom_metadata_map
        if about.get("producer") != "cornernet_d2" or about["raw"] == "true":
            raise SystemExit(f"{path} is no detector exported with its soft-NMS")
        self.classes = json.loads(about["classes"])
        self.max_side, self.bgr = int(about["max_side"]), about["input_format"] == "BGR"
        self.short, self.long = int(about["short_side"]), int(about["long_side"])  # 0: any

    def __call__(self, image: Image.Image) -> list[dict]:
        """Objects of an RGB image, best first; boxes are x0 y0 x1 y1 in its pixels."""
        width, height = image.size
        scale = self.max_side / max(image.size)  # at most what the file takes
        if self.short:  # as the model's config says
            longest = min(self.long or self.max_side, self.max_side)
            scale = min(self.short / min(image.size), longest / max(image.size))
        if self.short or scale < 1:
            sides = [max(1, int(side * scale + 0.5)) for side in image.size]
            image = image.resize(sides, Image.Resampling.BILINEAR)
        scales = np.array(2 * [image.width / width, image.height / height], np.float32)
        pixels = np.asarray(image, dtype=np.float32)
        if self.bgr:
            pixels = pixels[..., ::-1]
        batch = np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])
        boxes, scores, classes, count = self.session.run(None, {"images": batch})
        return [
            {"class": self.classes[c], "score": float(s), "box": (box / scales).tolist()}
            for box, s, c in zip(boxes[0], scores[0], classes[0, : count[0]])
        ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("images", nargs="+")
    parser.add_argument("--score", type=float, default=0.4, help="least score [%(default)s]")
    args = parser.parse_args()
    detector = Detector(args.model)
    for path in args.images:
        image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
        objects = [found for found in detector(image) if found["score"] >= args.score]
        print(json.dumps({"image": path, "objects": objects}))


if __name__ == "__main__":
    main()
