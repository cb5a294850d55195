"""The page says what the declarations say."""

from pathlib import Path

from probes.document import part
from probes.interventions import interventions
from probes.interventions.document import BLOCK, PAGE, RECIPES, document, recipes_table
from probes.recipes import recipes

ROOT = Path(__file__).resolve().parents[3]


def test_the_page_is_current():
    page = (ROOT / PAGE).read_text("utf-8")
    assert part(page, BLOCK) == document().strip("\n"), "run `python -m probes.interventions.document`"


def test_the_recipes_are_current():
    page = (ROOT / PAGE).read_text("utf-8")
    assert part(page, RECIPES) == recipes_table(), "run `python -m probes.interventions.document`"
    assert all(f"`{name}`" in recipes_table() for name in recipes())


def test_every_intervention_and_parameter_is_on_it():
    page = document()
    for one in interventions().values():
        section = page.split(f"### {one.name}\n", 1)[1].split("\n### ", 1)[0]
        assert one.formula in section
        assert all(f"| `{option.name}` |" in section for option in one.options)
