"""The report of an analysis: one page of HTML that needs nothing else."""

from collections.abc import Sequence

from . import pictures
from .analysis import Analysis
from .causes import FALSE, MISSED
from .html import decimal, document, figure, heading, paragraph, table
from .oracle import METRICS
from .summary import Summary


def page(analyses: Sequence[Analysis], title: str, gallery: int = 12) -> str:
    """The report as HTML.

    Args:
        analyses: of one model, a dataset each.
        title: heading, as text.
        gallery: images shown of each dataset, those with most errors first.

    Raises:
        ValueError: an image of the gallery cannot be read.
    """
    parts = []
    for each in analyses:
        parts += [heading(each.name, 2), *_totals(each.summary), *_causes(each.summary)]
        parts += [*_oracle(each), *_settings(each), *_classes(each.summary), *_parts(each.summary)]
        parts += _gallery(each.summary, gallery)
    return document(title, parts)


def _totals(summary: Summary) -> list[str]:
    totals = summary.totals
    return [
        paragraph(
            f"{totals['images']} images, {totals['objects']} objects: {totals['found']} found, "
            f"{totals['missed']} missed; {totals['false']} false detections; AP50 "
            f"{decimal(100 * summary.ap)}. One scale, no mirror images; an object is found by a "
            "detection of its class that overlaps it by an IoU of 0.5."
        )
    ]


def _causes(summary: Summary) -> list[str]:
    gains, confident = summary.mended(), summary.confident_false
    missed = [
        (name, summary.missed[name], f"{100 * gains[name]:+.1f}", MISSED[name]) for name in MISSED
    ]
    false = [
        (name, summary.false[name], confident[name], f"{100 * gains[name]:+.1f}", FALSE[name])
        for name in FALSE
    ]
    return [
        heading("Why objects were missed"),
        table(("cause", "objects", "AP50 if mended", "meaning"), missed),
        heading("What false detections are"),
        paragraph("Confident ones reach the score of best F1 of their class."),
        table(("cause", "all", "confident", "AP50 if mended", "meaning"), false),
        figure(
            pictures.bars({name: 100 * gain for name, gain in gains.items()}, "AP50 gained"),
            "What AP50 would gain if a cause were no more: missed objects found, at the median "
            "score of right detections; false detections gone.",
        ),
    ]


def _oracle(analysis: Analysis) -> list[str]:
    if not analysis.oracle:
        return []
    rows = [
        (", ".join(replaced) or "nothing", *(decimal(result[metric]) for metric in METRICS))
        for replaced, result in analysis.oracle.items()
    ]
    return [
        heading("With outputs of the network replaced by the truth"),
        table(("perfect", *METRICS), rows),
    ]


def _settings(analysis: Analysis) -> list[str]:
    if not analysis.settings:
        return []
    caption = "AP50 with one setting of MODEL.CORNERNET.TEST changed; red is the one in use."
    return [
        heading("Other settings"),
        figure(pictures.settings(analysis.settings, analysis.used), caption),
    ]


def _classes(summary: Summary) -> list[str]:
    numbers = summary.as_dict()
    rows = [
        (
            name,
            x["objects"],
            decimal(x["AP50"]),
            f"{x['best_threshold']:.3f}",
            f"{x['best_F1']:.3f}",
        )
        for name, x in numbers["classes"].items()
    ]
    parts = [
        heading("Classes"),
        table(("class", "objects", "AP50", "score of best F1", "best F1"), rows),
        figure(
            pictures.precision_recall(summary.curves, summary.class_names),
            "Precision over recall at an IoU of 0.5.",
        ),
    ]
    if numbers["confusions"]:
        parts += [
            heading("Classes confused"),
            table(("object", "said to be", "detections"), numbers["confusions"][:20]),
        ]
    return parts


def _parts(summary: Summary) -> list[str]:
    parts = []
    for title, rows in (
        ("Area of the box", summary.by_size()),
        ("Objects in the image", summary.by_crowding()),
    ):
        lines = [
            (name, x["objects"], x["found"], decimal(100 * x["AP50"])) for name, x in rows.items()
        ]
        parts += [heading(title), table(("", "objects", "found", "AP50"), lines)]
    return parts


def _gallery(summary: Summary, number: int) -> list[str]:
    worst = summary.worst_images(number)
    if not worst:
        return []
    parts = [
        heading("Images of most errors"),
        paragraph(
            "Green: found. Red: missed, and why. Orange: confident and false, and what it is. "
            "Dashed lines join the corners of detections."
        ),
    ]
    for image in worst:
        shown = summary.visible_false(image)
        missed = sum(map(bool, image.missed))
        parts.append(
            figure(
                pictures.errors(image, shown, summary.class_names),
                f"{image.name}: {missed} missed, {int(shown.sum())} confident and false",
            )
        )
    return parts
