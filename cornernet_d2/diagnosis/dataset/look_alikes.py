"""Images that look alike: near duplicates in a set, and in two sets, where they flatter the AP.

A difference hash of 64 bits (the package ImageHash) finds candidates, thumbnails decide.
Letters: N images.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from ...data.reading import read_file

BITS = 3  # of the 64, in which look-alikes differ at most
LEVELS = 4.0  # of 255, by which the pixels of their thumbnails differ on average at most
SIDE = 16  # of a thumbnail, pixels
ROWS = 1024  # of the matrix of all pairs at a time
MOST = 100_000  # candidates of these rows looked at


class LookAlikes(NamedTuple):
    """Attributes:
    looked_at: images that could be read.
    within: pairs of numbers of images of one set, that look alike; the set's name before them.
    between: pairs of two sets: (name, number, other name, other number).
    """

    looked_at: int
    within: list[tuple[str, int, int]]
    between: list[tuple[str, int, str, int]]


class Prints(NamedTuple):
    """(N, 64) float32 of -1 and 1, and (N, SIDE * SIDE) float32 in 0..255."""

    bits: np.ndarray
    thumbnails: np.ndarray


def has_imagehash() -> bool:
    """Whether the package that this needs is installed."""
    try:
        import imagehash  # noqa: F401
    except ImportError:
        return False
    return True


def prints(files: Iterable[str]) -> tuple[Prints, np.ndarray]:
    """Of the files that can be read, and which they are (N,)."""
    import imagehash
    from PIL import Image

    bits, thumbnails, numbers = [], [], []
    for number, file in enumerate(files):
        try:
            image = Image.fromarray(np.ascontiguousarray(read_file(file, "RGB"))).convert("L")
        except ValueError:  # reported elsewhere
            continue
        image = image.resize((8 * SIDE, 8 * SIDE), Image.Resampling.BOX)
        bits.append(imagehash.dhash(image).hash.reshape(-1))
        small = image.resize((SIDE, SIDE), Image.Resampling.BOX)
        thumbnails.append(np.asarray(small, dtype=np.float32).reshape(-1))
        numbers.append(number)
    signs = np.array(bits, dtype=np.float32).reshape(-1, 64) * 2 - 1
    pixels = np.array(thumbnails, dtype=np.float32).reshape(-1, SIDE * SIDE)
    return Prints(signs, pixels), np.array(numbers, dtype=np.int64)


def alike(first: Prints, second: Prints) -> np.ndarray:
    """(P, 2) rows of the first and the second that look alike."""
    found = [np.zeros((0, 2), dtype=np.int64)]
    for start in range(0, len(first.bits), ROWS):
        part = first.bits[start : start + ROWS]
        pairs = np.argwhere(part @ second.bits.T >= 64 - 2 * BITS)[:MOST]
        pairs[:, 0] += start
        differ = np.abs(first.thumbnails[pairs[:, 0]] - second.thumbnails[pairs[:, 1]])
        found.append(pairs[differ.mean(axis=1) <= LEVELS])
    return np.concatenate(found)


def look_alikes(
    sets: dict[str, Sequence[str]],
    progress: Callable[[Iterable, str], Iterable] = lambda items, what: items,
) -> LookAlikes:
    """Look-alikes within and between sets.

    Args:
        sets: name -> files of its images; numbers in the result are places in these lists.
        progress: wraps an iterable that takes long, given what is done.

    Raises:
        ImportError: ImageHash is not installed.
    """
    known = {name: prints(progress(files, f"{name}: images")) for name, files in sets.items()}
    within, between = [], []
    names = list(known)
    for i, name in enumerate(names):
        mine, numbers = known[name]
        pairs = alike(mine, mine)
        within += [(name, int(numbers[a]), int(numbers[b])) for a, b in pairs if a < b]
        for other in names[i + 1 :]:
            theirs, their_numbers = known[other]
            between += [
                (name, int(numbers[a]), other, int(their_numbers[b]))
                for a, b in alike(mine, theirs)
            ]
    return LookAlikes(sum(len(numbers) for _, numbers in known.values()), within, between)
