"""docs/findings.md is what docs/findings.py makes: the published counts exactly, the rest from a fresh recording."""

import importlib.util
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGE = (DOCS / "findings.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def generator():
    spec = importlib.util.spec_from_file_location("docs_findings", DOCS / "findings.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_published_counts_give_the_page_and_its_picture(generator, tmp_path):
    (tmp_path / "img").mkdir()
    assert "\n".join(generator._published(tmp_path)).rstrip() in PAGE
    made = (tmp_path / "img" / "findings-olmoe.svg").read_text(encoding="utf-8")
    assert made == (DOCS / "img" / "findings-olmoe.svg").read_text(encoding="utf-8")


def test_every_picture_and_link_is_there():
    for target in re.findall(r"\]\(([^)#]+)", PAGE):
        assert (DOCS / target).exists(), target


@pytest.mark.slow
def test_a_fresh_recording_gives_the_page(generator, tmp_path):
    """Other processors round otherwise, so the words are compared, and the numbers only as far as they are counts."""
    from probes.demo import make_demo

    make_demo(tmp_path / "demo.duckdb")
    generator.write(tmp_path / "demo.duckdb", tmp_path)
    made = (tmp_path / "findings.md").read_text(encoding="utf-8")
    assert re.findall(r"^#+ .*|^\*\*.*?\*\*", made, re.MULTILINE) == re.findall(
        r"^#+ .*|^\*\*.*?\*\*", PAGE, re.MULTILINE
    )
    assert re.search("Recorded: .*", made)[0] == re.search("Recorded: .*", PAGE)[0]
    assert (tmp_path / "img" / "findings-npmi.svg").exists()
