"""Specs: what is written is read back as it was, in every form; and what is wrong is told in one line."""

import json
import math

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import probes
from probes.errors import UsageError
from probes.interventions import Spec, interventions, parse, parse_all

FLAGS = ("renormalize", "spare_ends")
WORDS = st.text("abc ,+=\"'é\n7", min_size=1, max_size=4)


def values(option):
    """Values an option takes, as people may give them."""
    if option.choices:
        return st.sampled_from(option.choices)
    if option.name in FLAGS:
        return st.booleans()
    low = -50.0 if option.low is None else option.low
    high = 50.0 if option.high is None else min(option.high, 50.0)
    numbers = st.floats(low, high, allow_nan=False)
    rows = st.dictionaries(
        st.integers(0, 9), st.lists(st.floats(-9, 9), min_size=1, max_size=3), min_size=1, max_size=2
    )
    shares = st.dictionaries(st.integers(0, 9), st.floats(0.1, 9), min_size=1, max_size=3)
    special = {
        "experts": st.lists(st.tuples(st.integers(0, 9), st.integers(0, 63)), min_size=1, max_size=3),
        "vectors": rows,
        "means": st.dictionaries(st.integers(0, 9), rows, min_size=1, max_size=2),
        "members": st.dictionaries(
            st.integers(0, 9),
            st.dictionaries(st.integers(0, 9), shares, min_size=1, max_size=2),
            min_size=1,
            max_size=2,
        ),
        "int": st.integers(int(low), int(high)),
    }
    return special.get(option.kind, numbers)


@st.composite
def specs(draw):
    name = draw(st.sampled_from(sorted(interventions())))
    options = interventions()[name].options
    given_ = {o.name: draw(values(o)) for o in options if draw(st.booleans())}
    scope = {
        "layers": st.lists(st.integers(0, 60), min_size=1, max_size=3),
        "experts": st.lists(
            st.one_of(st.integers(0, 63), st.tuples(st.integers(0, 60), st.integers(0, 63)).map(list)),
            min_size=1,
            max_size=4,
        ),
        "phase": st.sampled_from(["all", "prefill", "decode"]),
        "positions": st.tuples(st.integers(0, 9), st.integers(9, 99)).map(list),
        "last": st.integers(1, 9),
        "tokens": st.lists(st.one_of(st.integers(0, 999), WORDS), min_size=1, max_size=3),
        "sequences": st.lists(st.integers(0, 9), min_size=1, max_size=2),
        "probability": st.floats(0.01, 1.0),
        "seed": st.integers(0, 2**31),
    }
    chosen = {key: draw(strategy) for key, strategy in scope.items() if draw(st.booleans())}
    return parse({"name": name, **given_, **chosen})


@given(specs())
def test_a_spec_is_read_back_as_it_was(spec):
    assert parse(spec.as_dict()) == spec
    stored = json.dumps([spec.as_dict()])
    assert "NaN" not in stored
    assert parse_all(stored) == (spec,)
    assert json.loads(stored) == [json.loads(json.dumps(parse(stored).as_dict()))]
    assert parse(str(spec)) == spec


@given(st.lists(specs(), min_size=1, max_size=3))
def test_files_hold_several(tmp_path_factory, some):
    folder = tmp_path_factory.mktemp("specs")
    for name, write in (("s.json", json.dumps), ("s.yaml", yaml.safe_dump), ("s.yml", yaml.safe_dump)):
        for content in ([s.as_dict() for s in some], {"interventions": [s.as_dict() for s in some]}):
            (folder / name).write_text(write(content), "utf-8")
            assert parse_all(folder / name) == tuple(some)
            assert parse_all(str(folder / name)) == tuple(some)


def test_forms_that_mean_the_same():
    spec = parse("ban:layer=3,expert=7+9")
    assert (
        spec
        == parse({"ban": {"layer": 3, "experts": [7, 9]}})
        == parse('{"name": "ban", "layers": "3", "expert": "7+9"}')
    )
    assert parse("steermoe:activate=3.7+5.1") == parse({"name": "steermoe", "activate": {3: [7], 5: 1}})
    assert parse("prune:layer=3,keep=0-5") == parse("prune:layer=3,experts=0-5")
    members = parse({"name": "output", "mode": "other", "members": {3: {7: [8, 9]}}})
    assert members.options["members"] == {"3": {"7": {"8": 1.0, "9": 1.0}}}
    assert isinstance(spec, Spec)


def test_a_table_in_a_file(tmp_path):
    path = tmp_path / "means.json"
    path.write_text('{"3": {"7": [1, 2]}}')
    spec = parse(f"output:mode=mean,means={path}")
    assert spec.options["means"] == {"3": {"7": [1.0, 2.0]}}
    assert parse(json.dumps(spec.as_dict())) == spec


BAD = {
    "bann:expert=3": "unknown intervention 'bann'.*did you mean 'ban'",
    "boost:expert=3,facter=2": "unknown parameter of boost 'facter'.*did you mean 'factor'",
    "boost:expert=3,factor=nan": "finite",
    "boost:expert=3,factor=inf": "finite",
    "boost:expert=3,factor=lots": "factor takes",
    "boost:expert=3,factor=-1": "factor must be at least 0",
    "boost:expert=3,renormalize=maybe": "renormalize takes",
    "mask_top:r=1.5": "r takes int",
    "capacity:gamma=0": "gamma must be between",
    "capacity:mode=dropp": "mode 'dropp'.*did you mean 'drop'",
    "top_p:p=1.2": "p must be between 0 and 1",
    "ban:expert": "no key=value",
    "ban:layer=,expert=3": "the scope is empty: no layers",
    "ban:expert=": "the scope is empty: no experts",
    "ban:layer=3-1,expert=2": "range '3-1' is empty",
    "ban:expert=x": "experts are whole numbers",
    "ban:expert=3,phase=decoding": "unknown phase 'decoding'.*did you mean 'decode'",
    "ban:expert=3,probability=0": "probability is a share",
    "ban:expert=3,probability=nan": "probability is a share",
    "ban:expert=3,last=0": "last takes",
    "ban:expert=3,positions=5-2": "positions: the range '5-2' is empty",
    "steermoe:activate=x": "steermoe: experts are whole numbers",
    "output:expert=3,mode=mean,means=/nowhere/m.json": "cannot read /nowhere/m.json",
    '{"name": "ban"': "no JSON",
    "[]": "holds no interventions",
    '{"layers": [3]}': "unknown intervention 'layers'|needs a name",
    "nowhere.yaml": "cannot read the interventions in nowhere.yaml",
}


@pytest.mark.parametrize("text", BAD)
def test_bad_specs_are_told_in_one_line(text):
    with pytest.raises(UsageError, match=BAD[text]) as told:
        parse(text)
    assert "\n" not in str(told.value)


TABLES = {
    "[1, 2]": "are a table",
    '{"3": [1]}': "are a table",
    '{"x": {"7": [1]}}': "'x' is no number of a layer",
    '{"3": {"7": [NaN]}}': "finite numbers",
    '{"3": {"7": []}}': "finite numbers",
    '{"3": {"7": "a"}}': "a list of numbers",
    '{"3": {': "no JSON",
}


@pytest.mark.parametrize("text", TABLES)
def test_bad_tables_are_told_in_one_line(text):
    with pytest.raises(UsageError, match=TABLES[text]):
        parse({"name": "output", "mode": "mean", "means": text})


@pytest.mark.parametrize(
    ("name", "text", "match"),
    [
        ("s.yaml", "- ban: {layer: 3", "no YAML .line 1"),
        ("s.yaml", "- {name: ban, expert: 3.7}", "in quotes"),
        ("s.yaml", "- {name: ban, expert: 3}\n- {name: boost, facter: 2}", "intervention 2.*did you mean 'factor'"),
        ("s.json", '[{"name": "ban",}]', "no JSON .line 1"),
        ("s.json", "[3]", "3 is no intervention"),
        ("s.yaml", "", "holds no interventions"),
        ("s.yaml", "!!python/object/apply:os.system ['true']", "no YAML"),
    ],
)
def test_bad_files_are_told_in_one_line(tmp_path, name, text, match):
    (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match=match) as told:
        parse_all(tmp_path / name)
    assert "\n" not in str(told.value)


UNFIT = {
    "ban:layer=9,expert=3": "layer 9 has no router; layers that have: 0-3",
    "ban:expert=9.3": "layer 9 has no router",
    "ban:expert=16": "layer 0 has experts 0 to 15, not 16",
    "ban": "no experts are named, as in 'ban:layer=3,expert=7'",
    "ban:layer=1,expert=2.3": "the scope is empty: no expert is named in layers 1",
    "ban:expert=0-14": "layer 0 would have 1 of 16 experts left to choose, and a token needs 2",
    "mask:expert=0-14": "1 of 16 experts left",
    "prune:layer=2,keep=5": "layer 2 would have 1 of 16 experts left",
    "mask_top:r=15": "mask_top: layer 0 would have 1 of 16",
    "force:expert=1+2+3": "3 experts are to be forced, but a token gets 2",
    "reroute:from=3": "to which expert",
    "reroute:from=3,to=16": "experts 0 to 15, not 16",
    "top_k": "how many experts",
    "top_k:k=17": "more than the 16 experts",
    "top_k:k=3,last=1": "acts on whole passes",
    "capacity:tokens=5": "acts on whole passes",
    "temperature:expert=3": "takes no experts",
    "steermoe": "no experts are named, as in 'steermoe:activate=3.7",
    "steermoe:activate=1.3,deactivate=1.3": "expert 3 is to be activated and deactivated",
    "steermoe:activate=1.99": "layer 1 has experts 0 to 15, not 99",
    "output": "no experts are named",
    "output:expert=3,mode=mean": "means has no entry for expert 3",
    "output:expert=3,mode=other": "members has no entry for expert 3.*to=EXPERT",
    "output:expert=3,mode=other,to=99": "experts 0 to 15, not 99",
    "ban:expert=3,tokens=the": "needs the tokenizer",
}


@pytest.mark.parametrize("text", UNFIT)
def test_what_does_not_fit_the_model_is_told_before_it_runs(text, sample):
    with pytest.raises(UsageError, match=UNFIT[text]) as told, probes.steer(sample[0], text):
        pass
    assert "\n" not in str(told.value)


def test_several_that_ban_too_many_together(sample):
    with pytest.raises(UsageError, match="ban, prune: layer 1 would have 1 of 16"):
        probes.steer(sample[0], ["ban:layer=1,expert=0-1", "prune:layer=1,keep=0-2"]).__enter__()
    with pytest.raises(UsageError, match=r"ban, mask_top: layer 0 would have 3 of 16 .* needs 4"):
        probes.steer(sample[0], ["ban:expert=0-9", "mask_top:r=3", "top_k:k=4"]).__enter__()


def test_a_mean_of_another_width(sample):
    import torch

    spec = {"name": "output", "mode": "mean", "means": {0: {3: [1.0, 2.0]}}}
    with (
        pytest.raises(probes.errors.ProbeError, match=r"the mean of 0\.3 has 2 numbers, its outputs 128"),
        probes.steer(sample[0], [spec, "force:expert=3"]),
    ):
        sample[0](torch.tensor([[5, 6]]))


def test_neutral_values_are_numbers_a_file_can_hold():
    for declared in interventions().values():
        for value in (declared.neutral or {}).values():
            assert not isinstance(value, float) or math.isfinite(value)
