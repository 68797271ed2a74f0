"""CentripetalNet: its authors' (KiveeDong/CentripetalNet) and MMDetection's."""

from .rules import Rule

RULES: tuple[Rule, ...] = (
    Rule(
        "head.{s}.{c}.guiding_shift.0",
        mmdet="bbox_head.{c}_guiding_shift.{s}.0.conv",
        centripetalnet="bbox_head.{m}{c}_off_c.0.conv",
    ),
    Rule(
        "head.{s}.{c}.guiding_shift.1",
        mmdet="bbox_head.{c}_guiding_shift.{s}.1.conv",
        centripetalnet="bbox_head.{m}{c}_off_c.1",
    ),
    Rule(
        "head.{s}.{c}.shift.places",
        mmdet="bbox_head.{c}_dcn_offset.{s}.conv",
        centripetalnet="bbox_head.{m}{c}_offset",
    ),
    Rule(
        "head.{s}.{c}.shift.gather",
        mmdet="bbox_head.{c}_feat_adaption.{s}",
        centripetalnet="bbox_head.{m}{c}_fadp",
    ),
    Rule(
        "head.{s}.{c}.shift.branch.0",
        mmdet="bbox_head.{c}_centripetal_shift.{s}.0.conv",
        centripetalnet="bbox_head.{m}{c}_off_c_2.0.conv",
    ),
    Rule(
        "head.{s}.{c}.shift.branch.1",
        mmdet="bbox_head.{c}_centripetal_shift.{s}.1.conv",
        centripetalnet="bbox_head.{m}{c}_off_c_2.1",
    ),
)

# The authors have the first release's backbone, and one head with a name a stack.
_FIRST_RELEASE = {
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
STACK_NAMES = {"0": "mid_", "1": ""}

ORDER = [f"backbone.{x}" for x in "pre hg_modules inters inters_ cnvs cnvs_".split()] + [
    f"bbox_head.{stack}{corner}_{name}"
    for group in ("fadp", "offset", "pool", "heat off_c off_c_2 off")
    for stack in ("", "mid_")
    for name in group.split()
    for corner in ("tl", "br")
]
# What comes in MMDetection's files after the modules of its CornerNet.
MMDET_ORDER = [
    f"bbox_head.{corner}_{name}"
    for name in ("feat_adaption", "dcn_offset", "guiding_shift", "centripetal_shift")
    for corner in ("tl", "br")
]


def from_princeton(name: str) -> str | None:
    """A name of the first release in the authors' file."""
    for theirs, ours in _FIRST_RELEASE.items():
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return None
