"""CornerNet-Squeeze (princeton-vl/CornerNet-Lite)."""

from .cornernet import LITE_ORDER as ORDER
from .cornernet import lite
from .rules import Rule

__all__ = ["ORDER", "RULES", "from_princeton"]

RULES: tuple[Rule, ...] = (
    Rule("backbone.stem.2.{R}", squeeze="hg.pre.2.{R}"),
    Rule("backbone.stacks.{s}.{H}.{F}", squeeze="hg.hgs.{s}.{H}.{F}"),
    Rule("backbone.stacks.{s}.{U}", squeeze="hg.hgs.{s}.{U}"),
)


def from_princeton(name: str) -> str | None:
    """As CornerNet-Lite's CornerNet, but the hourglasses, which have fire blocks."""
    return None if "{H}" in name else lite(name)
