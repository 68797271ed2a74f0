"""Names of parameters from one code base to another, by the rules of all families."""

import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

from . import centernet, centripetalnet, cornernet, squeeze
from .rules import PATTERNS, WORDS, Rule

# "lite" is CornerNet-Lite's CornerNet, "squeeze" its CornerNet-Squeeze.
FORMATS = ("d2", "princeton", "lite", "mmdet", "centripetalnet", "squeeze", "centernet")
_RULES = (
    *cornernet.RULES,
    *centripetalnet.RULES,
    *centernet.RULES,
    *squeeze.RULES,
    Rule("head.{s}.{c}.{O}"),  # of a pairing that no other code base has
)
# What a format's names are where only the first release's are given.
_FROM_PRINCETON: dict[str, Callable[[str], str | None]] = {
    "lite": cornernet.lite,
    "centripetalnet": centripetalnet.from_princeton,
    "squeeze": squeeze.from_princeton,
    "centernet": centernet.from_princeton,
}
_ORDER = {
    "princeton": cornernet.PRINCETON_ORDER,
    "lite": cornernet.LITE_ORDER,
    "mmdet": cornernet.MMDET_ORDER + centripetalnet.MMDET_ORDER,
    "centripetalnet": centripetalnet.ORDER,
    "squeeze": squeeze.ORDER,
    "centernet": centernet.ORDER,
}
# Those whose names begin with "module.", of DataParallel.
_MODULE = ("princeton", "lite", "squeeze", "centernet")
_PREFIX = {fmt: "module." if fmt in _MODULE else "" for fmt in FORMATS}


def _template(rule: Rule, fmt: str) -> str | None:
    name = getattr(rule, fmt, None)
    if name is None and rule.princeton is not None and fmt in _FROM_PRINCETON:
        return _FROM_PRINCETON[fmt](rule.princeton)
    return name


class _Pattern(NamedTuple):
    regex: "re.Pattern[str]"
    template: str
    slot: str | None  # the one of M, Q, R, F that the template holds


def _compile(rule: Rule, fmt: str) -> _Pattern | None:
    template = _template(rule, fmt)
    if template is None:
        return None
    slot = next((name for name in "MQRF" if f"{{{name}}}" in template), None)
    regex = template.replace(".", r"\.")
    for name, pattern in PATTERNS.items():
        regex = regex.replace(f"{{{name}}}", f"(?P<{name}>{pattern})")
    if slot is not None:
        words = "|".join(re.escape(word) for word in WORDS[fmt][slot].values())
        regex = regex.replace(f"{{{slot}}}", f"(?P<word>{words})")
    return _Pattern(re.compile(rf"{regex}\.(?P<leaf>\w+)"), template, slot)


_COMPILED = {fmt: [_compile(rule, fmt) for rule in _RULES] for fmt in FORMATS}


def rename(key: str, source: str, target: str) -> str | None:
    """Translate one parameter's name.

    Args:
        key: a state-dict key; the ``module.`` of (Distributed)DataParallel may be there or not.
        source: format of ``key``, one of :data:`FORMATS`.
        target: format wanted; those of :data:`_MODULE` have names that begin with ``module.``.

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
        values["m"] = centripetalnet.STACK_NAMES.get(values.get("s"))
        if "{m}" in other.template and values["m"] is None:
            return None  # a third stack
        if own.slot is not None:
            layers = {word: layer for layer, word in WORDS[source][own.slot].items()}
            values[other.slot] = WORDS[target][other.slot][layers[values.pop("word")]]
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
