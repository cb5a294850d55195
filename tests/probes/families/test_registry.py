"""The records of families and rules: complete, unique, and the same as the generated page says."""

import json
import re
from pathlib import Path

import pytest
import torch

from probes.errors import UsageError
from probes.families import Family, families, family, family_of, layouts, rules
from probes.families.tiny import tiny_config

PAGE = Path(__file__).resolve().parents[3] / "docs" / "families.md"


def page_rows():
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    header, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [dict(zip(header, row, strict=True)) for row in rows[1:]]


def test_every_moe_family_of_transformers_has_a_record():
    """Read from the sources: a directory whose modelling code has routed experts in a language model."""
    import transformers

    found = {
        path.parent.name
        for path in Path(transformers.__file__).parent.glob("models/*/modeling_*.py")
        if re.search(r"^class \w*(Experts\b|CDMoE|JetMoeMoE)", path.read_text(), re.M)
    }
    missing = found - set(families())
    assert not missing, f"new in transformers {transformers.__version__}: {sorted(missing)}"
    assert len(families()) == 72


def test_names_are_unique_and_nothing_is_blank():
    from probes.families import _modules

    names = [f.name for module in _modules() for f in getattr(module, "FAMILIES", ())]
    assert len(names) == len(set(names)) == len(families())
    rule_names = [module.RULE.name for module in _modules() if hasattr(module, "RULE")]
    assert len(rule_names) == len(set(rule_names)) == len(rules())
    for rule in rules().values():
        assert rule.formula
        assert rule.source
        assert rule.recomputes in ("ids and weights", "ids", "weights")
    assert {f.rule.name for f in families().values()} <= set(rules())


def test_every_rule_is_in_the_file_of_its_name():
    from probes.families import _modules

    for module in _modules():
        if hasattr(module, "RULE"):
            assert module.__name__.rsplit(".", 1)[1] == module.RULE.name


def test_records_are_json():
    for f in families().values():
        json.dumps([dict(f.tiny), dict(f.gating), dict(f.limits), dict(f.rule.defaults)])


def test_special_layouts_come_before_the_usual_one():
    assert layouts()[-1].name == "block"
    assert len({layout.name for layout in layouts()}) == len(layouts())


def test_the_page_lists_the_families_and_rules_of_the_registry():
    rows = page_rows()
    assert [row["family"] for row in rows] == list(families())
    assert {row["family"]: row["rule"] for row in rows} == {f.name: f.rule.name for f in families().values()}
    text = PAGE.read_text()
    for rule in rules().values():
        assert f"**{rule.name}**" in text
        assert rule.formula in text
    for f in families().values():
        assert f.notes in text


def test_the_page_holds_what_is_promised():
    """At least 70 families give logits, ids, weights and norms; at least 65 recompute their choice exactly."""
    rows = page_rows()
    assert sum(row["recorded"] == "logits, ids, weights, norms" for row in rows) >= 70
    assert sum(row["choice recomputed"] == "ids and weights" for row in rows) >= 65
    assert sum(row["output unchanged"] == "float32, bfloat16" for row in rows) >= 70
    assert not [row["family"] for row in rows if "**fails**" in row["notes"]]


def test_an_unknown_family_suggests_the_nearest():
    with pytest.raises(UsageError, match="did you mean 'olmoe'"):
        family("olmo")
    assert family("mixtral").rule.name == "softmax_topk"


def test_a_module_belongs_to_the_family_of_its_source():
    from transformers.models.mixtral.modeling_mixtral import MixtralTopKRouter

    assert family_of(MixtralTopKRouter(tiny_config(family("mixtral")))) is family("mixtral")
    assert family_of(torch.nn.Linear(2, 2)) is None


def test_a_family_this_transformers_lacks_is_an_error_that_says_so():
    from probes.errors import ProbeError

    with pytest.raises(ProbeError, match="has no grok"):
        tiny_config(Family("grok", rules()["softmax_topk"]))
