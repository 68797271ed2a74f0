"""CenterNet's triplets (Duankaiwen/CenterNet): the first release's names, and what is new."""

from . import cornernet
from .rules import Rule

_CENTER = tuple(
    Rule(rule.d2.replace("{c}", "center"), centernet=rule.princeton.replace("{c}", "ct"))
    for rule in cornernet.RULES
    if "{c}" in rule.d2 and ".embedding." not in rule.d2
)
RULES: tuple[Rule, ...] = (
    Rule("head.{s}.{c}.pool.look1{M}", centernet="{c}_cnvs.{s}.look_conv1{M}"),
    Rule("head.{s}.{c}.pool.look2{M}", centernet="{c}_cnvs.{s}.look_conv2{M}"),
    Rule("head.{s}.{c}.pool.mix1", centernet="{c}_cnvs.{s}.P1_look_conv"),
    Rule("head.{s}.{c}.pool.mix2", centernet="{c}_cnvs.{s}.P2_look_conv"),
    *_CENTER,
)
ORDER = (
    "pre kps cnvs tl_cnvs br_cnvs ct_cnvs tl_heats br_heats ct_heats tl_tags br_tags inters "
    "inters_ cnvs_ tl_regrs br_regrs ct_regrs"
).split()


def from_princeton(name: str) -> str:
    """The same."""
    return name
