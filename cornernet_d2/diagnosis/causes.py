"""Why an object was missed, and what a false detection is: one cause each.

An object is missed, and a detection false, if ``pycocotools`` says so at an IoU of 0.5. A corner is
*near* an object's if the object's box with that corner moved there still overlaps it by 0.5; a pair
*fits* an object if it has its class and overlaps it by 0.5, and is the object's *own* if no other
object of the class is overlapped more.

Letters: G objects, P corners of a side, Q pairs, D detections, all of one image.
"""

from typing import NamedTuple

import numpy as np

from .matching import Found, Matches, Truth, match, overlaps
from .stages import Side, Stages

FITS = 0.5
TOUCHES = 0.1  # from this IoU on, a false detection is at an object rather than elsewhere

# Name -> what it means; in the order in which detection goes wrong.
MISSED = {
    "no corner": "no corner of either kind near it is among the top-k",
    "no top-left corner": "a bottom-right corner is near, no top-left one",
    "no bottom-right corner": "a top-left corner is near, no bottom-right one",
    "wrong class": "both corners are near, but not both of its class",
    "badly localised": "both corners are near, but too far off together",
    "rejected by the pairing": "its corners make a fitting box, which the pairing rule rejects",
    "paired with another object": "its corners went to another object",
    "no centre": "its box was accepted, but no centre of its class is in its middle",
    "suppressed by soft-NMS": "its box was accepted, and lost to a better one of its class",
    "below the score": "its box was accepted with a score that is too low",
    "beyond the limit": "its box is worse than all that are kept of the image",
}
FALSE = {
    "duplicate": "fits an object that a better detection has found",
    "class confusion": "fits an object of another class",
    "on an ignored object": "on an object of another class that is not to be found (crowd)",
    "mixed corners": "its two corners are those of two objects",
    "localisation": "overlaps an object of its class by 0.1 to 0.5",
    "background": "anything else; with a high score perhaps an object without a label",
}


class ImageDiagnosis(NamedTuple):
    """What became of one image.

    Attributes:
        truth, found: the objects, and the detections that reach the score asked for.
        matches: of these two.
        missed: G names of :data:`MISSED`, "" for objects that are found or ignored.
        false: D names of :data:`FALSE`, "" for detections that are right or ignored.
        confused: D, the class of the object that "class confusion" is about, else -1.
        name: the image's file.
        heat: (2, h, w) uint8, the highest class of each cell of the image on the corners' heat
            maps, 255 for a probability of 1; None: it was not kept.
    """

    truth: Truth
    found: Found
    matches: Matches
    missed: tuple[str, ...]
    false: tuple[str, ...]
    confused: np.ndarray
    name: str = ""
    heat: np.ndarray | None = None


def diagnose(
    truth: Truth, stages: Stages, min_score: float = 0.0, lowest: float = 0.0, name: str = ""
) -> ImageDiagnosis:
    """Give every missed object and every false detection of an image its cause.

    Args:
        min_score: detections below do not count.
        lowest: the score from which on soft-NMS keeps boxes.
        name: of the image.
    """
    found = stages.detections.take(stages.detections.scores >= min_score)
    matches = match(found, truth, FITS)
    missed = [""] * len(truth.boxes)
    search = _Search(truth, stages, min_score, lowest)
    for number in np.flatnonzero((matches.objects < 0) & ~truth.ignored):
        missed[number] = search.cause(number)
    false, confused = false_causes(truth, found, matches)
    return ImageDiagnosis(truth, found, matches, tuple(missed), false, confused, name)


def near(xy: np.ndarray, boxes: np.ndarray, corner: int) -> np.ndarray:
    """(P, G) bool: whether box g with its corner at point p overlaps itself by :data:`FITS`.

    Args:
        xy: (P, 2).
        boxes: (G, 4).
        corner: 0 for the top-left, 1 for the bottom-right one.
    """
    sign = 1 - 2 * corner
    moved = sign * (xy[:, None] - boxes[None, :, 2 * corner : 2 * corner + 2])  # inwards above 0
    size = (boxes[:, 2:] - boxes[:, :2])[None]
    inside = (size - moved.clip(min=0)).clip(min=0).prod(-1)
    union = size.prod(-1) + (size - moved).clip(min=0).prod(-1) - inside
    return (inside >= FITS * union) & (size - moved > 0).all(-1)


class _Search:
    """How far each object of an image came."""

    def __init__(self, truth: Truth, stages: Stages, min_score: float, lowest: float) -> None:
        self.truth, self.stages = truth, stages
        self.min_score, self.lowest = min_score, lowest
        self.pair_fits, self.pair_own = self._fitting(stages.pairs.boxes, stages.pairs.classes)
        self.near = [near(s.xy, truth.boxes, i) for i, s in enumerate((stages.tl, stages.br))]
        _, self.left_own = self._fitting(stages.survivors.boxes, stages.survivors.classes)

    def _fitting(self, boxes: np.ndarray, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(Q, G) bool each: the box fits the object; and fits no other better."""
        iou = overlaps(boxes, self.truth.boxes)
        iou[classes[:, None] != self.truth.classes] = 0
        iou[:, self.truth.ignored] = 0
        fits = iou >= FITS
        best = iou.max(axis=1, keepdims=True) if iou.size else iou
        return fits, fits & (iou == best)

    def cause(self, number: int) -> str:
        pairs, own = self.stages.pairs, self.pair_own[:, number]
        ready = own & pairs.accepted & pairs.confirmed
        if ready.any():
            return self._lost_late(number, ready)
        if (own & pairs.accepted).any():
            return "no centre"
        if own.any():
            return self._not_paired(number, np.flatnonzero(own))
        if self.pair_fits[:, number].any():
            return "paired with another object"
        return self._without_pair(number)

    def _lost_late(self, number: int, ready: np.ndarray) -> str:
        """The cause of an object of which a pair was accepted."""
        pairs, left = self.stages.pairs, self.stages.survivors
        score = pairs.scores[ready].max()
        if score < max(self.lowest, self.min_score):
            return "below the score"
        if not pairs.kept[ready].any():
            return "beyond the limit"
        if not self.left_own[:, number].any():
            return "suppressed by soft-NMS"
        # It is left, with a lower score than it came with if a better box overlaps it.
        after = left.scores[self.left_own[:, number]].max()
        kept = self.stages.detections.scores
        bar = max(kept.min() if len(kept) else 0.0, self.min_score)
        if after < score * (1 - 1e-6) and score >= bar:
            return "suppressed by soft-NMS"
        return "below the score" if after < self.min_score else "beyond the limit"

    def _not_paired(self, number: int, own: np.ndarray) -> str:
        """The cause of an object whose pairs the rule rejects all.

        Its best pair's corners may have been accepted with a corner of another object instead.
        """
        pairs = self.stages.pairs
        corners = pairs.corners[own[pairs.scores[own].argmax()]]
        for side in (0, 1):
            taken = pairs.accepted & (pairs.corners[:, side] == corners[side])
            partners = pairs.corners[taken, 1 - side]
            others = self.near[1 - side][partners] & ~self.truth.ignored
            if (others.any(axis=1) & ~others[:, number]).any():
                return "paired with another object"
        return "rejected by the pairing"

    def _without_pair(self, number: int) -> str:
        def reached(side: Side, which: int, of_class: bool) -> bool:
            close = self.near[which][:, number] & (side.scores >= 0)
            if of_class:
                close = close & (side.classes == self.truth.classes[number])
            return bool(close.any())

        tl, br = (reached(s, i, False) for i, s in enumerate((self.stages.tl, self.stages.br)))
        if not tl:
            return "no top-left corner" if br else "no corner"
        if not br:
            return "no bottom-right corner"
        both = all(reached(s, i, True) for i, s in enumerate((self.stages.tl, self.stages.br)))
        return "badly localised" if both else "wrong class"


def false_causes(
    truth: Truth, found: Found, matches: Matches
) -> tuple[tuple[str, ...], np.ndarray]:
    """D names of :data:`FALSE`, "" for what is right or ignored; and D classes confused, or -1."""
    iou = overlaps(found.boxes, truth.boxes, truth.crowd)
    same = found.classes[:, None] == truth.classes
    fits, wanted = iou >= FITS, ~truth.ignored
    tl, br = (near(found.boxes[:, 2 * i : 2 * i + 2], truth.boxes, i) & wanted for i in (0, 1))
    mixed = tl.any(1) & br.any(1) & ~(tl & br).any(1)
    of_other = fits & ~same & wanted
    tests = {
        "duplicate": (fits & same & wanted).any(1),
        "class confusion": of_other.any(1),
        "on an ignored object": (fits & ~wanted).any(1),
        "mixed corners": mixed,
        "localisation": ((iou >= TOUCHES) & same & wanted).any(1),
        "background": np.ones(len(found.boxes), bool),
    }
    false = tuple(
        "" if matches.detections[i] >= 0 else next(name for name, yes in tests.items() if yes[i])
        for i in range(len(found.boxes))
    )
    confused = np.full(len(false), -1)
    for i in (i for i, cause in enumerate(false) if cause == "class confusion"):
        confused[i] = truth.classes[np.where(of_other[i], iou[i], -1).argmax()]
    return false, confused
