"""CornerNet: the first release (princeton-vl/CornerNet), CornerNet-Lite's, and MMDetection's."""

from .rules import Rule

RULES: tuple[Rule, ...] = (
    Rule("backbone.stem.0{M}", "pre.0{M}", "backbone.stem.0{M}"),
    Rule("backbone.stem.1.{R}", "pre.1.{R}", "backbone.stem.1.0.{R}"),
    Rule(
        "backbone.stacks.{s}.{H}.{R}", "kps.{s}.{H}.{R}", "backbone.hourglass_modules.{s}.{H}.{R}"
    ),
    Rule("backbone.out_convs.{s}{M}", "cnvs.{s}{M}", "backbone.out_convs.{s}{M}"),
    Rule("backbone.inters.{s}.{R}", "inters.{s}.{R}", "backbone.inters.{s}.{R}"),
    Rule("backbone.inter_convs.{s}{M}", "inters_.{s}{Q}", "backbone.conv1x1s.{s}{M}"),
    Rule("backbone.remap_convs.{s}{M}", "cnvs_.{s}{Q}", "backbone.remap_convs.{s}{M}"),
    Rule(
        "head.{s}.{c}.pool.p1{M}",
        "{c}_cnvs.{s}.p1_conv1{M}",
        "bbox_head.{c}_pool.{s}.direction1_conv{M}",
    ),
    Rule(
        "head.{s}.{c}.pool.p2{M}",
        "{c}_cnvs.{s}.p2_conv1{M}",
        "bbox_head.{c}_pool.{s}.direction2_conv{M}",
    ),
    Rule(
        "head.{s}.{c}.pool.merge",
        "{c}_cnvs.{s}.p_conv1",
        "bbox_head.{c}_pool.{s}.aftpool_conv.conv",
    ),
    Rule(
        "head.{s}.{c}.pool.merge.norm",
        "{c}_cnvs.{s}.p_bn1",
        "bbox_head.{c}_pool.{s}.aftpool_conv.bn",
    ),
    Rule("head.{s}.{c}.pool.skip", "{c}_cnvs.{s}.conv1", "bbox_head.{c}_pool.{s}.conv1.conv"),
    Rule("head.{s}.{c}.pool.skip.norm", "{c}_cnvs.{s}.bn1", "bbox_head.{c}_pool.{s}.conv1.bn"),
    Rule("head.{s}.{c}.pool.out{M}", "{c}_cnvs.{s}.conv2{M}", "bbox_head.{c}_pool.{s}.conv2{M}"),
    Rule("head.{s}.{c}.heatmap.0", "{c}_heats.{s}.0.conv", "bbox_head.{c}_heat.{s}.0.conv"),
    Rule("head.{s}.{c}.heatmap.1", "{c}_heats.{s}.1", "bbox_head.{c}_heat.{s}.1.conv"),
    Rule("head.{s}.{c}.embedding.0", "{c}_tags.{s}.0.conv", "bbox_head.{c}_emb.{s}.0.conv"),
    Rule("head.{s}.{c}.embedding.1", "{c}_tags.{s}.1", "bbox_head.{c}_emb.{s}.1.conv"),
    Rule("head.{s}.{c}.offset.0", "{c}_regrs.{s}.0.conv", "bbox_head.{c}_off.{s}.0.conv"),
    Rule("head.{s}.{c}.offset.1", "{c}_regrs.{s}.1", "bbox_head.{c}_off.{s}.1.conv"),
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

# The order in which each code base's model registers its modules, hence of keys in its files.
PRINCETON_ORDER = (
    "pre kps cnvs tl_cnvs br_cnvs tl_heats br_heats tl_tags br_tags inters inters_ cnvs_ "
    "tl_regrs br_regrs"
).split()
LITE_ORDER = (
    "hg.pre hg.hgs hg.cnvs hg.inters hg.inters_ hg.cnvs_ tl_modules br_modules tl_heats "
    "br_heats tl_tags br_tags tl_offs br_offs"
).split()
MMDET_ORDER = (
    "backbone.stem backbone.hourglass_modules backbone.inters backbone.conv1x1s "
    "backbone.out_convs backbone.remap_convs bbox_head.tl_pool bbox_head.br_pool "
    "bbox_head.tl_heat bbox_head.br_heat bbox_head.tl_off bbox_head.br_off "
    "bbox_head.tl_emb bbox_head.br_emb"
).split()


def lite(princeton: str) -> str:
    """A name of the first release in CornerNet-Lite's file."""
    first, rest = princeton.split(".", 1)
    return f"{_LITE.get(first, first)}.{rest}"
