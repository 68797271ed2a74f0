"""Reading the image of a dataset dict: as Detectron2 does, with errors a user can act on."""

import io
from collections.abc import Mapping

import cv2
import numpy as np
from detectron2.data import detection_utils as utils
from detectron2.utils.file_io import PathManager
from PIL import Image, ImageOps


def describe_image(dataset_dict: Mapping) -> str:
    """What names the image in messages: its file and its id."""
    return f"{dataset_dict.get('file_name')} (image id {dataset_dict.get('image_id')})"


def read_image(dataset_dict: Mapping, image_format: str) -> np.ndarray:
    """(H, W, channels) uint8 image of ``dataset_dict["file_name"]``, turned as EXIF says.

    Args:
        dataset_dict: Detectron2 dataset dict; its "width" and "height", if any, are checked.
        image_format: "BGR", or a mode of PIL.

    Raises:
        ValueError: the file is missing, no image, damaged, of a pixel type without known range,
            or not of the size that the dict says.
    """
    try:
        with PathManager.open(dataset_dict["file_name"], "rb") as file:
            image = _decode(file.read(), image_format)
    except Exception as error:  # decoders raise anything from OSError to struct.error
        raise ValueError(
            f"cannot read {describe_image(dataset_dict)}: {type(error).__name__}: {error}. Restore "
            "the file, or remove the image from the dataset"
        ) from error
    size = (image.shape[1], image.shape[0])
    expected = (dataset_dict.get("width", size[0]), dataset_dict.get("height", size[1]))
    if size != expected:
        turned = size == expected[::-1]
        raise utils.SizeMismatchError(
            f"{describe_image(dataset_dict)} is {size[0]}x{size[1]} pixels, but the dataset says "
            f"{expected[0]}x{expected[1]}. "
            + (
                "If its boxes were drawn on the image as stored, remove the EXIF rotation from the "
                "file; if on the image as shown, swap width and height in the dataset"
                if turned
                else "Correct width and height in the dataset, or restore the file"
            )
        )
    return image


def _decode(data: bytes, image_format: str) -> np.ndarray:
    image = Image.open(io.BytesIO(data))
    # OpenCV decodes JPEG to the same values in half the time, but gives a damaged file without
    # its end marker as a half grey image; PIL refuses those.
    if (
        image_format in ("BGR", "RGB")
        and image.format == "JPEG"
        and image.mode in ("RGB", "L")
        and b"\xff\xd9" in data[-32:]
    ):
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        if pixels is not None:
            return pixels if image_format == "BGR" else cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", None)):
        # PIL would clip 16-bit values at 255, which leaves a white image.
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ValueError(f"pixels of PIL mode {image.mode} have no known range; save 8 bits")
    return np.ascontiguousarray(utils.convert_PIL_to_numpy(image, image_format))
