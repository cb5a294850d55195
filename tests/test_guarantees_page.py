"""Each test that docs/guarantees.md names is there."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NAMED = sorted(
    set(re.findall(r"`((?:tests|findings)/[^`]+)`", (ROOT / "docs/guarantees.md").read_text(encoding="utf-8")))
)


def test_the_page_names_tests():
    assert len(NAMED) > 25


@pytest.mark.parametrize("named", NAMED)
def test_it_is_there(named):
    path, *inside = named.split("::")
    assert (ROOT / path).exists(), f"{path} is not there"
    if inside:
        names = {
            node.name for node in ast.parse((ROOT / path).read_text(encoding="utf-8")).body if hasattr(node, "name")
        }
        assert inside[0] in names, f"{path} has no {inside[0]}"
