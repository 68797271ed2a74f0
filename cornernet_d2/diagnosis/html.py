"""Pieces of a page of HTML that needs nothing else: no script, no other file."""

from collections.abc import Iterable, Sequence
from html import escape

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em }
table { border-collapse: collapse; margin: 1em 0 } th, td { padding: .2em .8em; text-align: right }
th:first-child, td:first-child, .text { text-align: left }
tr:nth-child(even) { background: #f3f3f3 }
th { border-bottom: 1px solid #888 } img { max-width: 100%; display: block }
figure { margin: 1.5em 0 } figcaption { color: #555; overflow-wrap: anywhere }
pre { background: #f3f3f3; padding: .6em; white-space: pre-wrap; overflow-wrap: anywhere }
.fault { border-left: 4px solid #c0392b; padding-left: .8em }
"""


def document(title: str, parts: Iterable[str]) -> str:
    """The page; ``parts`` are HTML, the title is text."""
    body = "\n".join((f"<h1>{escape(title)}</h1>", *parts))
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style></head>\n<body>\n{body}\n"
        "</body></html>\n"
    )


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Of text: words to the left, numbers to the right."""
    rows = [[str(cell) for cell in row] for row in rows]
    words = [any(cell[:1].isalpha() for cell in column) for column in zip(*rows)]

    def line(cells: Sequence[str], tag: str) -> str:
        kinds = [' class="text"' if is_word else "" for is_word in words or [False] * len(cells)]
        columns = zip(kinds, cells)
        return "<tr>" + "".join(f"<{tag}{k}>{escape(c)}</{tag}>" for k, c in columns) + "</tr>"

    body = "\n".join(line(row, "td") for row in rows)
    return f"<table>\n{line(heads, 'th')}\n{body}\n</table>"


def figure(uri: str, caption: str) -> str:
    """A picture, as a data URI, with its caption."""
    text = escape(caption)
    return f'<figure><img src="{uri}" alt="{text}"><figcaption>{text}</figcaption></figure>'


def heading(text: str, level: int = 3) -> str:
    return f"<h{level}>{escape(text)}</h{level}>"


def paragraph(text: str) -> str:
    return f"<p>{escape(text)}</p>"


def listing(items: Iterable[str], kind: str = "") -> str:
    """Points of text; ``kind`` is a class of the style sheet."""
    inside = "\n".join(f"<li>{escape(item)}</li>" for item in items)
    return f'<ul class="{kind}">\n{inside}\n</ul>' if kind else f"<ul>\n{inside}\n</ul>"


def code(text: str) -> str:
    return f"<pre>{escape(text)}</pre>"


def decimal(value: float) -> str:
    """With one digit; "none" of NaN."""
    return "none" if value != value else f"{value:.1f}"
