"""Families built, recorded and verified: a dozen different ones here, all of them where there is time."""

import pytest

from probes.capture.family_check import check_family
from probes.families import families, family

# One of every layout and nearly every rule; the usual ones stand for dozens.
DIVERSE = (
    "deepseek_v4", "dbrx", "doge", "ernie4_5_vl_moe", "gemma4", "gpt_oss", "jamba", "jetmoe", "llama4", "longcat_flash",
    "muse_spark", "nllb_moe", "phimoe", "qwen3_5_moe", "switch_transformers", "zaya",
)  # fmt: skip
KNOWN = {"deepseek_v4": "ids and weights | weights", "inkling": "ids", "nllb_moe": ""}


def holds(name):
    check = check_family(family(name))
    assert check.failures == ()
    assert check.complete != (name == "nllb_moe")
    assert check.recomputed == KNOWN.get(name, "ids and weights")
    assert all(check.identical.values())


@pytest.mark.parametrize("name", DIVERSE)
def test_a_family_does_what_the_page_says(name):
    holds(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(families()) - set(DIVERSE)))
def test_every_other_family_does_too(name):
    holds(name)


def test_a_wrong_record_is_found_out():
    """The check can fail: a claim about transformers that is not so, a family that is refused without need."""
    from dataclasses import replace

    right = family("olmoe")
    assert not check_family(right, ("float32",)).failures
    later = check_family(replace(right, official_since="99.0"), ("float32",))
    assert any("output_router_logits" in f for f in later.failures)
    assert check_family(replace(right, limits={"all": "no reason"})).failures == ("was not refused",)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("jamba", {"normalise": True}),
        ("jamba", {"scaling": 2.0}),
        ("deepseek_v3", {"bias": {"values": [3.0] + [0.0] * 7, "dtype": "float32"}}),
        ("deepseek_v3", {"groups": 1}),
        ("phimoe", {"jitter": 0.0}),
    ],
)
def test_wrong_gating_is_found_out(name, change, monkeypatch):
    from probes.capture import discovery

    real = discovery.gating_parameters
    monkeypatch.setattr(discovery, "gating_parameters", lambda parts, found: {**real(parts, found), **change})
    failures = check_family(family(name), ("float32",)).failures
    assert any("not what its logits lead to" in failure for failure in failures)
    assert any("recomputed" in failure for failure in failures)
