"""Names of CornerNet's parameters in every published code base, mapped both ways without loss.

Placeholders of a rule: ``{s}`` stack, counted from 0; ``{c}`` corner, ``tl`` or ``br``; ``{H}``
place of a block inside an hourglass, the same in all code bases (``low2`` once per level, then
``up1``, ``low1``, ``low2`` or ``low3`` and the block's number), ``{U}`` of a learned upsampling;
``{R}`` layer of a residual block, ``{F}`` of a fire block; ``{M}`` convolution or norm of a pair
that the code base names (here the norm is part of Detectron2's ``Conv2d``); ``{Q}`` the same in a
``Sequential`` that numbers it; ``{m}`` the stack as CentripetalNet's authors say it: ``mid_`` for
the first of two, nothing for the last; ``{O}`` any output of a corner, of whatever pairing. No
tensor is split, transposed or merged by any rule.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

# "lite" is CornerNet-Lite's CornerNet, "squeeze" its CornerNet-Squeeze.
FORMATS = ("d2", "princeton", "lite", "mmdet", "centripetalnet", "squeeze")


class _Rule(NamedTuple):
    """Names by format; None: it has no such parameter. Both of Lite's follow from princeton's."""

    d2: str
    princeton: str | None = None
    mmdet: str | None = None
    centripetalnet: str | None = None  # None: as princeton's, by _CENTRIPETALNET
    squeeze: str | None = None  # None: as Lite's CornerNet


_RULES = (
    _Rule("backbone.stem.0{M}", "pre.0{M}", "backbone.stem.0{M}"),
    _Rule("backbone.stem.1.{R}", "pre.1.{R}", "backbone.stem.1.0.{R}"),
    _Rule(
        "backbone.stacks.{s}.{H}.{R}", "kps.{s}.{H}.{R}", "backbone.hourglass_modules.{s}.{H}.{R}"
    ),
    _Rule("backbone.out_convs.{s}{M}", "cnvs.{s}{M}", "backbone.out_convs.{s}{M}"),
    _Rule("backbone.inters.{s}.{R}", "inters.{s}.{R}", "backbone.inters.{s}.{R}"),
    _Rule("backbone.inter_convs.{s}{M}", "inters_.{s}{Q}", "backbone.conv1x1s.{s}{M}"),
    _Rule("backbone.remap_convs.{s}{M}", "cnvs_.{s}{Q}", "backbone.remap_convs.{s}{M}"),
    _Rule(
        "head.{s}.{c}.pool.p1{M}",
        "{c}_cnvs.{s}.p1_conv1{M}",
        "bbox_head.{c}_pool.{s}.direction1_conv{M}",
    ),
    _Rule(
        "head.{s}.{c}.pool.p2{M}",
        "{c}_cnvs.{s}.p2_conv1{M}",
        "bbox_head.{c}_pool.{s}.direction2_conv{M}",
    ),
    _Rule(
        "head.{s}.{c}.pool.merge",
        "{c}_cnvs.{s}.p_conv1",
        "bbox_head.{c}_pool.{s}.aftpool_conv.conv",
    ),
    _Rule(
        "head.{s}.{c}.pool.merge.norm",
        "{c}_cnvs.{s}.p_bn1",
        "bbox_head.{c}_pool.{s}.aftpool_conv.bn",
    ),
    _Rule("head.{s}.{c}.pool.skip", "{c}_cnvs.{s}.conv1", "bbox_head.{c}_pool.{s}.conv1.conv"),
    _Rule("head.{s}.{c}.pool.skip.norm", "{c}_cnvs.{s}.bn1", "bbox_head.{c}_pool.{s}.conv1.bn"),
    _Rule("head.{s}.{c}.pool.out{M}", "{c}_cnvs.{s}.conv2{M}", "bbox_head.{c}_pool.{s}.conv2{M}"),
    _Rule("head.{s}.{c}.heatmap.0", "{c}_heats.{s}.0.conv", "bbox_head.{c}_heat.{s}.0.conv"),
    _Rule("head.{s}.{c}.heatmap.1", "{c}_heats.{s}.1", "bbox_head.{c}_heat.{s}.1.conv"),
    _Rule("head.{s}.{c}.embedding.0", "{c}_tags.{s}.0.conv", "bbox_head.{c}_emb.{s}.0.conv"),
    _Rule("head.{s}.{c}.embedding.1", "{c}_tags.{s}.1", "bbox_head.{c}_emb.{s}.1.conv"),
    _Rule("head.{s}.{c}.offset.0", "{c}_regrs.{s}.0.conv", "bbox_head.{c}_off.{s}.0.conv"),
    _Rule("head.{s}.{c}.offset.1", "{c}_regrs.{s}.1", "bbox_head.{c}_off.{s}.1.conv"),
    _Rule(
        "head.{s}.{c}.guiding_shift.0",
        mmdet="bbox_head.{c}_guiding_shift.{s}.0.conv",
        centripetalnet="bbox_head.{m}{c}_off_c.0.conv",
    ),
    _Rule(
        "head.{s}.{c}.guiding_shift.1",
        mmdet="bbox_head.{c}_guiding_shift.{s}.1.conv",
        centripetalnet="bbox_head.{m}{c}_off_c.1",
    ),
    _Rule(
        "head.{s}.{c}.shift.places",
        mmdet="bbox_head.{c}_dcn_offset.{s}.conv",
        centripetalnet="bbox_head.{m}{c}_offset",
    ),
    _Rule(
        "head.{s}.{c}.shift.gather",
        mmdet="bbox_head.{c}_feat_adaption.{s}",
        centripetalnet="bbox_head.{m}{c}_fadp",
    ),
    _Rule(
        "head.{s}.{c}.shift.branch.0",
        mmdet="bbox_head.{c}_centripetal_shift.{s}.0.conv",
        centripetalnet="bbox_head.{m}{c}_off_c_2.0.conv",
    ),
    _Rule(
        "head.{s}.{c}.shift.branch.1",
        mmdet="bbox_head.{c}_centripetal_shift.{s}.1.conv",
        centripetalnet="bbox_head.{m}{c}_off_c_2.1",
    ),
    _Rule("head.{s}.{c}.{O}"),
    _Rule("backbone.stem.2.{R}", squeeze="hg.pre.2.{R}"),
    _Rule("backbone.stacks.{s}.{H}.{F}", squeeze="hg.hgs.{s}.{H}.{F}"),
    _Rule("backbone.stacks.{s}.{U}", squeeze="hg.hgs.{s}.{U}"),
)

# CornerNet-Lite's file differs from the first release in the outermost module's name alone.
_LITE = {
    "pre": "hg.pre",
    "kps": "hg.hgs",
    "cnvs": "hg.cnvs",
    "inters": "hg.inters",
    "inters_": "hg.inters_",
    "cnvs_": "hg.cnvs_",
    "{c}_cnvs": "{c}_modules",
    "{c}_regrs": "{c}_offs",
}
# CentripetalNet's authors have the first release's backbone, and one head with a name a stack.
_CENTRIPETALNET = {
    "pre.": "backbone.pre.",
    "kps.{s}": "backbone.hg_modules.{s}",
    "cnvs.{s}": "backbone.cnvs.{s}",
    "inters.{s}": "backbone.inters.{s}",
    "inters_.{s}": "backbone.inters_.{s}",
    "cnvs_.{s}": "backbone.cnvs_.{s}",
    "{c}_cnvs.{s}": "bbox_head.{m}{c}_pool",
    "{c}_heats.{s}": "bbox_head.{m}{c}_heat",
    "{c}_regrs.{s}": "bbox_head.{m}{c}_off",
}
_STACK_NAMES = {"0": "mid_", "1": ""}

_RESIDUAL = ("conv1", "norm1", "conv2", "norm2", "skip", "skip norm")
_FIRE = ("squeeze", "squeeze norm", "1x1", "3x3", "norm")
_PRINCETON_WORDS = {
    "M": {"conv": ".conv", "norm": ".bn"},
    "Q": {"conv": ".0", "norm": ".1"},
    "R": dict(zip(_RESIDUAL, ("conv1", "bn1", "conv2", "bn2", "skip.0", "skip.1"))),
    "F": dict(zip(_FIRE, ("conv1", "bn1", "conv_1x1", "conv_3x3", "bn2"))),
}
# What {M}, {Q}, {R} and {F} stand for: layer -> the format's word.
_WORDS: dict[str, dict[str, dict[str, str]]] = {
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
    "mmdet": {
        "M": {"conv": ".conv", "norm": ".bn"},
        "R": dict(zip(_RESIDUAL, ("conv1", "bn1", "conv2", "bn2", "downsample.0", "downsample.1"))),
    },
}
_PATTERNS = {
    "s": r"\d+",
    "c": r"tl|br",
    "H": r"(?:low2\.)*(?:up1|low1|low2|low3)\.\d+",
    "U": r"(?:low2\.)*up2",
    "m": "(?:mid_)?",
    "O": r"\w+\.\d+",
}
# The order in which each code base's model registers its modules, hence of keys in its files.
_ORDER = {
    "princeton": (
        "pre kps cnvs tl_cnvs br_cnvs tl_heats br_heats tl_tags br_tags inters inters_ cnvs_ "
        "tl_regrs br_regrs"
    ).split(),
    "lite": (
        "hg.pre hg.hgs hg.cnvs hg.inters hg.inters_ hg.cnvs_ tl_modules br_modules tl_heats "
        "br_heats tl_tags br_tags tl_offs br_offs"
    ).split(),
    "mmdet": (
        "backbone.stem backbone.hourglass_modules backbone.inters backbone.conv1x1s "
        "backbone.out_convs backbone.remap_convs bbox_head.tl_pool bbox_head.br_pool "
        "bbox_head.tl_heat bbox_head.br_heat bbox_head.tl_off bbox_head.br_off "
        "bbox_head.tl_emb bbox_head.br_emb bbox_head.tl_feat_adaption bbox_head.br_feat_adaption "
        "bbox_head.tl_dcn_offset bbox_head.br_dcn_offset bbox_head.tl_guiding_shift "
        "bbox_head.br_guiding_shift bbox_head.tl_centripetal_shift bbox_head.br_centripetal_shift"
    ).split(),
    "centripetalnet": [f"backbone.{x}" for x in "pre hg_modules inters inters_ cnvs cnvs_".split()]
    + [
        f"bbox_head.{stack}{corner}_{name}"
        for group in ("fadp", "offset", "pool", "heat off_c off_c_2 off")
        for stack in ("", "mid_")
        for name in group.split()
        for corner in ("tl", "br")
    ],
}
_ORDER["squeeze"] = _ORDER["lite"]
_MODULE = ("princeton", "lite", "squeeze")  # those whose names begin with "module."
_PREFIX = {fmt: "module." if fmt in _MODULE else "" for fmt in FORMATS}


def _template(rule: _Rule, fmt: str) -> str | None:
    name = getattr(rule, fmt, None)
    if name is not None or rule.princeton is None or fmt in ("princeton", "mmdet"):
        return name
    if fmt == "squeeze" and "{H}" in rule.princeton:
        return None  # its hourglasses have fire blocks
    if fmt in ("lite", "squeeze"):
        first, rest = rule.princeton.split(".", 1)
        return f"{_LITE.get(first, first)}.{rest}"
    for theirs, ours in _CENTRIPETALNET.items():
        if rule.princeton.startswith(theirs):
            return ours + rule.princeton.removeprefix(theirs)
    return None


class _Pattern(NamedTuple):
    regex: "re.Pattern[str]"
    template: str
    slot: str | None  # the one of M, Q, R, F that the template holds


def _compile(rule: _Rule, fmt: str) -> _Pattern | None:
    template = _template(rule, fmt)
    if template is None:
        return None
    slot = next((name for name in "MQRF" if f"{{{name}}}" in template), None)
    regex = template.replace(".", r"\.")
    for name, pattern in _PATTERNS.items():
        regex = regex.replace(f"{{{name}}}", f"(?P<{name}>{pattern})")
    if slot is not None:
        words = "|".join(re.escape(word) for word in _WORDS[fmt][slot].values())
        regex = regex.replace(f"{{{slot}}}", f"(?P<word>{words})")
    return _Pattern(re.compile(rf"{regex}\.(?P<leaf>\w+)"), template, slot)


_COMPILED = {fmt: [_compile(rule, fmt) for rule in _RULES] for fmt in FORMATS}


def rename(key: str, source: str, target: str) -> str | None:
    """Translate one parameter's name.

    Args:
        key: a state-dict key; the ``module.`` of (Distributed)DataParallel may be there or not.
        source: format of ``key``, one of :data:`FORMATS`.
        target: format wanted; names of princeton and both of Lite begin with ``module.``.

    Returns:
        The new name, or None where ``key`` is no parameter of CornerNet in ``source``, or of none
        that ``target`` knows.
    """
    key = key.removeprefix("module.")
    for own, other in zip(_COMPILED[source], _COMPILED[target]):
        match = own and own.regex.fullmatch(key)
        if not match:
            continue
        if other is None:
            return None
        values = match.groupdict()
        if "m" in values:
            values["s"] = "01"[values["m"] == ""]
        values["m"] = _STACK_NAMES.get(values.get("s"))
        if "{m}" in other.template and values["m"] is None:
            return None  # a third stack
        if own.slot is not None:
            layers = {word: layer for layer, word in _WORDS[source][own.slot].items()}
            values[other.slot] = _WORDS[target][other.slot][layers[values.pop("word")]]
        leaf = values.pop("leaf")
        return f"{_PREFIX[target]}{other.template.format(**values)}.{leaf}"
    return None


def detect_format(keys: Iterable[str]) -> tuple[str | None, int]:
    """Find the code base that a state dict comes from.

    Returns:
        The format with the most recognised keys and their number; ``(None, 0)`` if no key is a
        CornerNet parameter of any format.
    """
    keys = list(keys)
    counts = {fmt: sum(rename(key, fmt, fmt) is not None for key in keys) for fmt in FORMATS}
    best = max(FORMATS, key=counts.__getitem__)
    return (best, counts[best]) if counts[best] else (None, 0)


def sort_keys(keys: Iterable[str], fmt: str) -> list[str]:
    """Put keys of format ``fmt`` into the order of that code base's own files.

    Our own files keep the order given: a model loads any.
    """
    if fmt not in _ORDER:
        return list(keys)
    modules = {name: place for place, name in enumerate(_ORDER[fmt])}

    def place(key: str) -> tuple[int, int]:
        parts = key[len(_PREFIX[fmt]) :].split(".")
        depth = 1 if parts[0] in modules else 2
        index = parts[depth]
        return modules[".".join(parts[:depth])], int(index) if index.isdigit() else 0

    return sorted(keys, key=place)
