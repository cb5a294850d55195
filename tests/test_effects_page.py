"""The measured effects: the command runs at a tiny size, and what stands in the page has its pictures."""

import re
import sys
from pathlib import Path

import pytest

from probes.document import part

DOCS = Path(__file__).resolve().parent.parent / "docs"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The page and its folder, from a run with two items of each kind."""
    folder = tmp_path_factory.mktemp("effects")
    page = folder / "interventions.md"
    page.write_text("before\n<!-- effects: generated -->\n<!-- effects: end -->\nafter\n")
    sys.path.insert(0, str(DOCS))
    try:
        import effects
        from experiments.lab import TINY

        effects.write(page, folder, TINY)
    finally:
        sys.path.remove(str(DOCS))
    return page.read_text("utf-8"), folder


def headings(text):
    return re.findall(r"^### .*", text, re.MULTILINE)


def test_it_runs_and_keeps_the_rest_of_the_page(made):
    text, folder = made
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert len(headings(text)) == 6
    pictures = re.findall(r"\]\((img/[^)]+\.svg)\)", text)
    assert len(pictures) == len(set(pictures)) >= 8
    for picture in pictures:
        assert (folder / picture).read_text("utf-8").startswith("<svg")


def test_every_claim_is_decided_by_numbers(made):
    text, _ = made
    assert len(re.findall(r"(?:Found|Not found|Not known): ", text)) == 8
    # Two items cannot prove anything.
    assert not re.search(r"(?<!Not f)Found: the ban|(?<!Not f)Found: these sets", text)


def test_the_page_holds_the_same_experiments(made):
    text = part((DOCS / "interventions.md").read_text("utf-8"), "effects")
    assert headings(text) == headings(made[0])
    for picture in re.findall(r"\]\((img/[^)]+)\)", text):
        assert (DOCS / picture).exists(), picture
