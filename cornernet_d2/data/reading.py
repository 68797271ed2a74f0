"""Reading images: as Detectron2 does, with errors a user can act on.

Training, evaluation and the demo all read through this file.
"""

import contextlib
import io
import os
import re
import tempfile
from collections.abc import Iterator, Mapping

import cv2
import numpy as np
from detectron2.data import detection_utils as utils
from detectron2.utils.file_io import PathManager
from PIL import Image, ImageOps

RESTORE = ". Restore the file, or remove the image from the dataset"
ORIENTATION = 0x0112  # EXIF tag; 5 to 8 swap width and height


def describe_image(dataset_dict: Mapping) -> str:
    """What names the image in messages: its file and its id."""
    return f"{dataset_dict.get('file_name')} (image id {dataset_dict.get('image_id')})"


def read_file(file_name: str, image_format: str, *, strict: bool = False) -> np.ndarray:
    """(H, W, channels) uint8 image of a file, turned as EXIF says.

    Args:
        file_name: path or URL.
        image_format: "BGR", or a mode of PIL.
        strict: refuse a JPEG with damage in its middle, too, which decoders fill up in silence.
            Not for several threads: it listens to stderr.

    Raises:
        ValueError: the file is missing, no image, damaged, or of a pixel type without known range.
    """
    with _named(file_name):
        return _read(file_name, image_format, strict)


def read_bytes(data: bytes, image_format: str) -> np.ndarray:
    """:func:`read_file` of what a file holds.

    Raises:
        ValueError: no image, damaged, or of a pixel type without known range.
    """
    with _named("the image"):
        return _decode(data, image_format)


def read_image(dataset_dict: Mapping, image_format: str, *, strict: bool = False) -> np.ndarray:
    """(H, W, channels) uint8 image of ``dataset_dict["file_name"]``, turned as EXIF says.

    Args:
        dataset_dict: Detectron2 dataset dict; its "width" and "height", if any, are checked.
        image_format, strict: see :func:`read_file`.

    Raises:
        ValueError: as :func:`read_file`, or the image is not of the size that the dict says.
    """
    with _named(describe_image(dataset_dict), RESTORE):
        image = _read(dataset_dict["file_name"], image_format, strict)
    _check_size(dataset_dict, image.shape[:2])
    return image


def image_size(dataset_dict: Mapping, *, check: bool = False) -> tuple[int, int]:
    """(height, width) in pixels: as the dict says or, where it does not, the file's header.

    Args:
        dataset_dict: Detectron2 dataset dict.
        check: open the file in any case, and compare.

    Raises:
        ValueError: the header is needed but cannot be read, or differs from the dict.
    """
    if not check and "height" in dataset_dict and "width" in dataset_dict:
        return int(dataset_dict["height"]), int(dataset_dict["width"])
    with _named(describe_image(dataset_dict), RESTORE):
        size = _header_size(dataset_dict["file_name"])
    _check_size(dataset_dict, size)
    return size


@contextlib.contextmanager
def _named(image: str, advice: str = "") -> Iterator[None]:
    try:
        yield
    except Exception as error:  # decoders raise anything from OSError to struct.error
        reason = " ".join(re.sub(r" <_io\..*>", "", str(error)).split())  # of PIL, from memory
        raise ValueError(
            f"cannot read {image}: {type(error).__name__}: {reason}{advice}"
        ) from error


def _check_size(dataset_dict: Mapping, size: tuple[int, int]) -> None:
    height, width = size
    expected = (dataset_dict.get("height", height), dataset_dict.get("width", width))
    if (height, width) == expected:
        return
    raise utils.SizeMismatchError(
        f"{describe_image(dataset_dict)} is {width}x{height} pixels, but the dataset says "
        f"{expected[1]}x{expected[0]}. "
        + (
            "If its boxes were drawn on the image as stored, remove the EXIF rotation from the "
            "file; if on the image as shown, swap width and height in the dataset"
            if (width, height) == expected
            else "Correct width and height in the dataset, or restore the file"
        )
    )


def _header_size(file_name: str) -> tuple[int, int]:
    with PathManager.open(file_name, "rb") as file, Image.open(file) as image:
        width, height = image.size
        turned = image.getexif().get(ORIENTATION, 1) >= 5
    return (width, height) if turned else (height, width)


def _read(file_name: str, image_format: str, strict: bool) -> np.ndarray:
    with PathManager.open(file_name, "rb") as file:
        data = file.read()
    return _decode_strictly(data, image_format) if strict else _decode(data, image_format)


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
    # PIL has no mode of its own for 16 bits in these formats, and forgets the format on turning.
    deep = image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))
    image = ImageOps.exif_transpose(image)
    if deep:
        # PIL would clip 16-bit values at 255, which leaves a white image.
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ValueError(f"pixels of PIL mode {image.mode} have no known range; save 8 bits")
    return np.ascontiguousarray(utils.convert_PIL_to_numpy(image, image_format))


def _decode_strictly(data: bytes, image_format: str) -> np.ndarray:
    # libjpeg fills what it cannot decode and says so nowhere but on the process' stderr.
    with tempfile.TemporaryFile() as messages:
        with _stderr_to(messages.fileno()):
            pixels = _decode(data, image_format)
        messages.seek(0)
        warning = messages.read().decode(errors="replace")
    if "Corrupt JPEG" in warning:
        raise ValueError(warning.strip().splitlines()[-1])
    return pixels


@contextlib.contextmanager
def _stderr_to(descriptor: int) -> Iterator[None]:
    kept = os.dup(2)
    os.dup2(descriptor, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
