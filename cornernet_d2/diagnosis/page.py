"""The report of an analysis: one page of HTML that needs nothing else."""

from collections.abc import Iterable, Sequence
from html import escape

from . import pictures
from .analysis import Analysis
from .causes import FALSE, MISSED
from .oracle import METRICS, ROWS
from .summary import Summary

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em }
table { border-collapse: collapse; margin: 1em 0 } th, td { padding: .2em .8em; text-align: right }
th:first-child, td:first-child, .text { text-align: left }
tr:nth-child(even) { background: #f3f3f3 }
th { border-bottom: 1px solid #888 } img { max-width: 100%; display: block }
figure { margin: 1.5em 0 } figcaption { color: #555; overflow-wrap: anywhere }
"""


def page(analyses: Sequence[Analysis], title: str, gallery: int = 12) -> str:
    """The report as HTML.

    Args:
        analyses: of one model, a dataset each.
        title: heading, as text.
        gallery: images shown of each dataset, those with most errors first.

    Raises:
        ValueError: an image of the gallery cannot be read.
    """
    parts = [f"<h1>{escape(title)}</h1>"]
    for each in analyses:
        parts += [f"<h2>{escape(each.name)}</h2>", *_totals(each.summary), *_causes(each.summary)]
        parts += [*_oracle(each), *_settings(each), *_classes(each.summary), *_parts(each.summary)]
        parts += _gallery(each.summary, gallery)
    body = "\n".join(parts)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style></head>\n<body>\n{body}\n"
        "</body></html>\n"
    )


def _totals(summary: Summary) -> list[str]:
    totals = summary.totals
    return [
        f"<p>{totals['images']} images, {totals['objects']} objects: {totals['found']} found, "
        f"{totals['missed']} missed; {totals['false']} false detections; AP50 "
        f"{_number(100 * summary.ap)}. One scale, no mirror images; an object is found by a "
        "detection of its class that overlaps it by an IoU of 0.5.</p>"
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
        "<h3>Why objects were missed</h3>",
        _table(("cause", "objects", "AP50 if mended", "meaning"), missed),
        "<h3>What false detections are</h3>",
        "<p>Confident ones reach the score of best F1 of their class.</p>",
        _table(("cause", "all", "confident", "AP50 if mended", "meaning"), false),
        _image(
            pictures.bars({name: 100 * gain for name, gain in gains.items()}, "AP50 gained"),
            "What AP50 would gain if a cause were no more: missed objects found, at the median "
            "score of right detections; false detections gone.",
        ),
    ]


def _oracle(analysis: Analysis) -> list[str]:
    if not analysis.oracle:
        return []
    rows = [
        (", ".join(replaced) or "nothing", *(_number(result[metric]) for metric in METRICS))
        for replaced, result in zip(ROWS, analysis.oracle)
    ]
    return [
        "<h3>With outputs of the network replaced by the truth</h3>",
        _table(("perfect", *METRICS), rows),
    ]


def _settings(analysis: Analysis) -> list[str]:
    if not analysis.settings:
        return []
    caption = "AP50 with one setting of MODEL.CORNERNET.TEST changed; red is the one in use."
    return [
        "<h3>Other settings</h3>",
        _image(pictures.settings(analysis.settings, analysis.used), caption),
    ]


def _classes(summary: Summary) -> list[str]:
    numbers = summary.as_dict()
    rows = [
        (
            name,
            x["objects"],
            _number(x["AP50"]),
            f"{x['best_threshold']:.3f}",
            f"{x['best_F1']:.3f}",
        )
        for name, x in numbers["classes"].items()
    ]
    parts = [
        "<h3>Classes</h3>",
        _table(("class", "objects", "AP50", "score of best F1", "best F1"), rows),
        _image(
            pictures.precision_recall(summary.curves, summary.class_names),
            "Precision over recall at an IoU of 0.5.",
        ),
    ]
    if numbers["confusions"]:
        parts += [
            "<h3>Classes confused</h3>",
            _table(("object", "said to be", "detections"), numbers["confusions"][:20]),
        ]
    return parts


def _parts(summary: Summary) -> list[str]:
    parts = []
    for heading, rows in (
        ("Area of the box", summary.by_size()),
        ("Objects in the image", summary.by_crowding()),
    ):
        lines = [
            (name, x["objects"], x["found"], _number(100 * x["AP50"])) for name, x in rows.items()
        ]
        parts += [f"<h3>{heading}</h3>", _table(("", "objects", "found", "AP50"), lines)]
    return parts


def _gallery(summary: Summary, number: int) -> list[str]:
    worst = summary.worst_images(number)
    if not worst:
        return []
    parts = [
        "<h3>Images of most errors</h3>",
        "<p>Green: found. Red: missed, and why. Orange: confident and false, and what it is. "
        "Dashed lines join the corners of detections.</p>",
    ]
    for image in worst:
        shown = summary.visible_false(image)
        missed = sum(map(bool, image.missed))
        parts.append(
            _image(
                pictures.errors(image, shown, summary.class_names),
                f"{image.name}: {missed} missed, {int(shown.sum())} confident and false",
            )
        )
    return parts


def _table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    rows = [[str(cell) for cell in row] for row in rows]
    # Words to the left, numbers to the right.
    words = [any(cell[:1].isalpha() for cell in column) for column in zip(*rows)]

    def line(cells: Sequence[str], tag: str) -> str:
        kinds = [' class="text"' if is_word else "" for is_word in words or [False] * len(cells)]
        columns = zip(kinds, cells)
        return "<tr>" + "".join(f"<{tag}{k}>{escape(c)}</{tag}>" for k, c in columns) + "</tr>"

    body = "\n".join(line(row, "td") for row in rows)
    return f"<table>\n{line(heads, 'th')}\n{body}\n</table>"


def _image(uri: str, caption: str) -> str:
    text = escape(caption)
    return f'<figure><img src="{uri}" alt="{text}"><figcaption>{text}</figcaption></figure>'


def _number(value: float) -> str:
    return "none" if value != value else f"{value:.1f}"
