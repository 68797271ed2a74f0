"""The report of an analysis: one page of HTML that needs nothing else."""

from collections.abc import Sequence

from ..data.reading import read_file
from ..visualize.training import distance_histogram
from . import pictures
from .analysis import Analysis
from .causes import FALSE, MISSED
from .galleries import draw_errors, examples
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
        parts += [
            *_oracle(each),
            *_settings(each),
            *class_parts(each.summary),
            *part_tables(each.summary),
        ]
        parts += [*_calibration(each.summary), *_pairing(each)]
        parts += [
            *gallery_parts(each.summary, gallery),
            *(_examples(each.summary) if gallery else ()),
        ]
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


def class_parts(summary: Summary) -> list[str]:
    """AP, thresholds and curves of the classes, and which are confused."""
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


def part_tables(summary: Summary) -> list[str]:
    """AP by size and by crowding."""
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


def _calibration(summary: Summary) -> list[str]:
    caption = "Of detections of about a score, the share that is right, and their number."
    return [
        heading("What a score means"),
        figure(pictures.calibration(summary.calibration()), caption),
    ]


def _pairing(analysis: Analysis) -> list[str]:
    view, names = analysis.pairing, analysis.summary.class_names
    if view.limit is None or not len(view.within):
        return []
    accepted, mixed = (
        (x <= view.limit).mean() if len(x) else 0 for x in (view.within, view.between)
    )
    histogram = distance_histogram(view.within, view.between, view.limit, (700, 300))
    parts = [
        heading("What the pairing makes of the true corners"),
        figure(
            pictures.photo(histogram),
            f"Distances at the corners of the truth. {accepted:.1%} of the objects' own corners "
            f"are accepted, and {mixed:.1%} of corners of two objects of an image.",
        ),
    ]
    if view.crowded is not None:
        caption = f"{view.crowded.output} of the objects of {view.crowded.name}, that of most."
        parts.append(figure(pictures.scatter(view.crowded, names, view.limit), caption))
    return parts


def _examples(summary: Summary) -> list[str]:
    parts, last = [heading("Examples of each cause")], ""
    for cause, picture, caption in examples(summary):
        if cause != last:
            parts.append(heading(cause, 4))
            last = cause
        parts.append(figure(pictures.photo(picture), caption))
    return parts if last else []


def gallery_parts(summary: Summary, number: int) -> list[str]:
    """The images of most errors.

    Raises:
        ValueError: one cannot be read.
    """
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
        drawn = draw_errors(read_file(image.name, "RGB"), image, shown, summary.class_names)
        parts.append(
            figure(
                pictures.photo(drawn),
                f"{image.name}: {missed} missed, {int(shown.sum())} confident and false",
            )
        )
    return parts
