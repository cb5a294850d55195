"""The page says what the declarations say."""

from pathlib import Path

from probes.interventions import interventions
from probes.interventions.document import BLOCK, PAGE, document, markers, with_block

ROOT = Path(__file__).resolve().parents[3]


def test_the_page_is_current():
    page = (ROOT / PAGE).read_text("utf-8")
    assert with_block(page, BLOCK, document()) == page, "run `python -m probes.interventions.document`"


def test_every_intervention_and_parameter_is_on_it():
    page = document()
    for one in interventions().values():
        section = page.split(f"## {one.name}\n", 1)[1].split("\n## ", 1)[0]
        assert one.formula in section
        assert all(f"| `{option.name}` |" in section for option in one.options)


def test_blocks_are_written_without_touching_others():
    page = with_block(with_block("", "one", "first"), "two", "second")
    assert with_block(page, "one", "changed") == page.replace("first", "changed")
    assert page.index(markers("one")[0]) < page.index(markers("two")[0])
    assert with_block(page, "two", "second") == page
