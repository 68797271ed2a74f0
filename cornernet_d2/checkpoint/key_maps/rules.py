"""The language of the rules, and the words that the code bases use in it.

Placeholders of a name: ``{s}`` stack, counted from 0; ``{c}`` corner, ``tl`` or ``br``; ``{H}``
place of a block inside an hourglass, the same in all code bases (``low2`` once per level, then
``up1``, ``low1``, ``low2`` or ``low3`` and the block's number), ``{U}`` of a learned upsampling;
``{R}`` layer of a residual block, ``{F}`` of a fire block; ``{M}`` convolution or norm of a pair
that the code base names (here the norm is part of Detectron2's ``Conv2d``); ``{Q}`` the same in a
``Sequential`` that numbers it; ``{m}`` the stack as CentripetalNet's authors say it: ``mid_`` for
the first of two, nothing for the last; ``{O}`` any output of a corner, of whatever pairing. No
tensor is split, transposed or merged by any rule.
"""

from typing import NamedTuple


class Rule(NamedTuple):
    """A parameter's names by format; None: the code base has no such parameter.

    What a family of networks took over from the first release follows from ``princeton``; each
    family's file says how.
    """

    d2: str
    princeton: str | None = None
    mmdet: str | None = None
    centripetalnet: str | None = None
    squeeze: str | None = None
    centernet: str | None = None


_RESIDUAL = ("conv1", "norm1", "conv2", "norm2", "skip", "skip norm")
_FIRE = ("squeeze", "squeeze norm", "1x1", "3x3", "norm")
_PRINCETON_WORDS = {
    "M": {"conv": ".conv", "norm": ".bn"},
    "Q": {"conv": ".0", "norm": ".1"},
    "R": dict(zip(_RESIDUAL, ("conv1", "bn1", "conv2", "bn2", "skip.0", "skip.1"))),
    "F": dict(zip(_FIRE, ("conv1", "bn1", "conv_1x1", "conv_3x3", "bn2"))),
}
# What {M}, {Q}, {R} and {F} stand for: layer -> the format's word.
WORDS: dict[str, dict[str, dict[str, str]]] = {
    "d2": {
        "M": {"conv": "", "norm": ".norm"},
        "R": dict(
            zip(
                _RESIDUAL,
                ("conv1", "conv1.norm", "conv2", "conv2.norm", "shortcut", "shortcut.norm"),
            )
        ),
        "F": dict(zip(_FIRE, ("squeeze", "squeeze.norm", "expand1x1", "expand3x3", "norm"))),
    },
    "princeton": _PRINCETON_WORDS,
    "lite": _PRINCETON_WORDS,
    "centripetalnet": _PRINCETON_WORDS,
    "squeeze": _PRINCETON_WORDS,
    "centernet": _PRINCETON_WORDS,
    "mmdet": {
        "M": {"conv": ".conv", "norm": ".bn"},
        "R": dict(zip(_RESIDUAL, ("conv1", "bn1", "conv2", "bn2", "downsample.0", "downsample.1"))),
    },
}
PATTERNS = {
    "s": r"\d+",
    "c": r"tl|br",
    "H": r"(?:low2\.)*(?:up1|low1|low2|low3)\.\d+",
    "U": r"(?:low2\.)*up2",
    "m": "(?:mid_)?",
    "O": r"\w+\.\d+",
}
