"""The documents: links that lead somewhere, and the table of hostile inputs as the cases are."""

import re
from pathlib import Path

import pytest
from hostile.cases import SECTIONS

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def anchors(page: Path) -> set[str]:
    """Of the headings, as GitHub makes them."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), target
        assert not anchor or anchor in anchors(path), target


def test_the_table_of_hostile_inputs_is_complete() -> None:
    """`python -m tests.hostile docs/hostile-inputs.md` writes it."""
    text = (ROOT / "docs" / "hostile-inputs.md").read_text()
    lines = re.findall(r"^\| `(.*?)`", text, re.MULTILINE)
    assert [x for x in lines if x != "cornernet"] == [
        case.line for cases in SECTIONS.values() for case in cases
    ]
    assert f"{len(lines) - len(SECTIONS)} command lines" in text
    assert str(len(lines) - len(SECTIONS)) in (ROOT / "README.md").read_text()
    assert "Traceback" not in text
