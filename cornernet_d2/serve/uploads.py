"""Bytes that a stranger sends: an image within limits, or a reason why not."""

import io
import warnings

import numpy as np
from PIL import Image

from ..data.reading import read_bytes

# What Pillow opens by its header and whose size the header tells. Others (PDF, EPS, ...) start
# interpreters, or have no fixed size.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")


class Refused(Exception):
    """What was sent cannot be worked on.

    Args:
        status: HTTP's.
        reason: one line.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def read_upload(data: bytes, max_pixels: int) -> np.ndarray:
    """(H, W, 3) uint8 BGR of an image file's content; of several frames the first.

    The header tells the size before any pixel is decoded.

    Args:
        data: of a file in one of FORMATS.
        max_pixels: most pixels, width times height.

    Raises:
        Refused: nothing, no image, too many pixels, or damaged.
    """
    width, height = size(data)
    if width * height > max_pixels:
        raise Refused(
            413,
            f"{width}x{height} pixels are more than the {max_pixels / 1e6:g} megapixels allowed",
        )
    try:
        return read_bytes(data, "BGR")
    except ValueError as error:
        raise Refused(400, str(error)) from error


def size(data: bytes) -> tuple[int, int]:
    """(width, height) by the header, pixels.

    Raises:
        Refused: nothing, or no header of an image.
    """
    if not data:
        raise Refused(400, "the body is empty: send the bytes of an image file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                return image.size
    except Image.DecompressionBombError as error:
        raise Refused(413, str(error)) from error
    except Image.UnidentifiedImageError as error:
        raise Refused(415, f"no image of {', '.join(FORMATS)}") from error
    except Exception as error:  # decoders raise anything from OSError to struct.error
        raise Refused(400, f"the image's header is damaged: {type(error).__name__}") from error
