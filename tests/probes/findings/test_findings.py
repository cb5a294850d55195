"""What is said about a trace: the numbers are the metrics' own, noise is called noise, and a bare trace says less."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from probes.analysis import analyze
from probes.cli.main import main
from probes.errors import UsageError
from probes.findings import Finding, findings, overview
from probes.ingest import import_npz
from store.trace import open_trace

LAYERS, EXPERTS, TOP_K, LENGTH = 3, 8, 2, 30


def make(path: Path, taste: float, sequences: int = 24, seed: int = 0, **leave_out: None) -> Path:
    """A trace whose label "b" prefers expert 5 of layer 1 by `taste`; sequences have habits of their own."""
    rng = np.random.default_rng(seed)
    label = np.array(["a", "b"])[np.arange(sequences) % 2]
    habit = rng.normal(0, 1, (sequences, LAYERS, EXPERTS))
    habit[label == "b", 1, 5] += taste
    logits = np.repeat(habit, LENGTH, axis=0) + rng.gumbel(size=(sequences * LENGTH, LAYERS, EXPERTS))
    experts = np.argsort(-logits, axis=-1)[..., :TOP_K]
    arrays = {
        "logits": logits.astype(np.float32),
        "experts": experts,
        "output_norm": rng.random(experts.shape).astype(np.float32) + 1,
        "output_absmax": rng.random(experts.shape).astype(np.float32) + 1,
        "sequence_id": np.repeat(np.arange(sequences), LENGTH),
        "token": np.array([f"t{n % 7}" for n in range(sequences * LENGTH)]),
        "label": label,
        "num_experts": EXPERTS,
        "layer": np.arange(2, 2 + LAYERS),
    }
    np.savez(path.with_suffix(".npz"), **{k: v for k, v in arrays.items() if k not in leave_out})
    import_npz(path.with_suffix(".npz"), path)
    return path


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("findings") / "t t.duckdb", taste=4.0)


@pytest.fixture(scope="module")
def found(trace: Path) -> dict[str, Finding]:
    return {f.command.split()[2]: f for f in overview(open_trace(trace), resamples=200)}


def test_the_dozen_is_there(found: dict[str, Finding]) -> None:
    assert set(found) == {
        "npmi", "dataset_distance", "risk_difference", "load", "routing_entropy", "coactivation", "cross_layer",
        "cache_hit_rate", "super_experts", "norm_vs_gate",
    }  # fmt: skip


def test_numbers_are_the_metrics_own(trace: Path, found: dict[str, Finding]) -> None:
    npmi = analyze(trace, "npmi", ci=True, resamples=200)
    top = npmi.loc[npmi["npmi"].idxmax()]
    assert (top["layer"], top["expert"], top["target"]) == (3, 5, "b")
    fact = found["npmi"]
    assert (fact.value, fact.ci_low, fact.ci_high) == (top["npmi"], top["ci_low"], top["ci_high"])
    assert "b → 3·5" in fact.text
    lru = analyze(trace, "cache_hit_rate", level=("layer",), cache_size=(4,), ci=True, resamples=200)
    assert found["cache_hit_rate"].value == lru["hit_rate"].min()
    rd = analyze(trace, "risk_difference", label="a", against="b")
    assert found["risk_difference"].value == rd["rd"].iloc[0]


def test_certainty_and_its_interval(trace: Path) -> None:
    entropy = analyze(trace, "routing_entropy", ci=True, resamples=300)
    low = entropy.loc[entropy["entropy_mean"].idxmin()]
    ours = next(f for f in overview(open_trace(trace), resamples=300) if f.title == "Certainty by layer")
    assert (ours.value, ours.ci_low, ours.ci_high) == pytest.approx(
        (low["entropy_mean"], low["ci_low"], low["ci_high"]), rel=1e-4
    )


def test_lift_and_its_interval(trace: Path, found: dict[str, Finding]) -> None:
    fact, pairs = found["coactivation"], analyze(trace, "coactivation")
    assert fact.value == pytest.approx(pairs.loc[pairs["npmi_distinct"].idxmax(), "lift_distinct"])
    assert fact.ci_low is not None
    assert fact.ci_low < fact.value < fact.ci_high


def test_every_fact_says_how_much_it_rests_on(found: dict[str, Finding]) -> None:
    for fact in found.values():
        assert fact.n_tokens is not None
        assert f"{fact.n_tokens:,}" in fact.text
        assert fact.unit
        assert fact.value is not None


def test_what_differs_by_chance_is_called_noise(tmp_path: Path) -> None:
    """Sequences with habits of their own and labels that mean nothing: the tokens differ, the labels do not."""
    said = {f.command.split()[2]: f for f in overview(open_trace(make(tmp_path / "n.duckdb", 0.0, seed=1)))}
    assert "Within noise: " in said["npmi"].text
    assert "0 of 48 label–expert pairs are more than noise" in said["npmi"].text
    assert "within noise" in said["risk_difference"].title


def test_stored_sums_say_the_same(trace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = open_trace(trace)
    monkeypatch.setattr(opened, "chunks", lambda *a, **k: pytest.fail("read the trace"))
    cheap = findings(opened)
    whole = {f.title: f for f in overview(open_trace(trace), resamples=20, permutations=50)}
    assert len(cheap) >= 7
    for fact in cheap:
        assert fact.value == pytest.approx(whole[fact.title].value)
        assert fact.command == whole[fact.title].command


def test_the_metrics_own_test_says_the_same(trace: Path, found: dict[str, Finding]) -> None:
    npmi = analyze(trace, "npmi", test=True)
    assert f"{(npmi['q'] <= 0.05).sum()} of {len(npmi)} label–expert pairs" in found["npmi"].text
    rd = analyze(trace, "risk_difference", label="b", against="a", test=True)
    assert (rd["layer"][0], rd["expert"][0]) == (3, 5)
    assert rd["q"][0] <= 0.05
    assert (rd["q"] >= rd["p"]).all()
    with pytest.raises(UsageError, match="no --test"):
        analyze(trace, "npmi", target="token", test=True)


def test_a_bare_trace_says_what_it_can(tmp_path: Path) -> None:
    path = make(
        tmp_path / "bare.duckdb", 1.0, sequences=3, logits=None, output_norm=None, output_absmax=None, label=None
    )
    for said in (findings(open_trace(path)), overview(open_trace(path))):
        commands = {f.command.split()[2] for f in said}
        assert {"load", "coactivation"} <= commands
        assert not commands & {"npmi", "routing_entropy", "norm_vs_gate", "super_experts"}
        assert all(f.ci_low is None for f in said), "three sequences say nothing about others"


def test_commands_can_be_typed(trace: Path, found: dict[str, Finding], monkeypatch: pytest.MonkeyPatch) -> None:
    import shlex

    monkeypatch.chdir(trace.parent)
    for fact in findings(open_trace(trace)):
        words = shlex.split(fact.command)
        assert words[:2] == ["probe", "analyze"]
        assert words[3] == "t t.duckdb"
        assert main([*words[1:], "--json"]) == 0


def test_the_command_prints_the_envelope(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["analyze", "overview", str(trace), "--resamples", "50", "--permutations", "50"]
    assert main([*words, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert list(said) == ["metric", "params", "run_id", "columns", "rows"]
    assert said["metric"] == "overview"
    wanted = {"title", "text", "value", "ci_low", "ci_high", "unit", "n_tokens", "command"}
    assert set(said["rows"][0]) == wanted
    first = asdict(overview(open_trace(trace), resamples=50, permutations=50)[0])
    assert said["rows"][0] == {name: pytest.approx(v) if isinstance(v, float) else v for name, v in first.items()}
    assert main(words) == 0
    assert "more: probe analyze npmi" in capsys.readouterr().out


def test_wrong_words(trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["analyze", "overview", str(tmp_path / "no.duckdb")]) == 1
    assert main(["analyze", "overview", str(trace), "--run", "9"]) == 1
    assert "no run 9" in capsys.readouterr().err
    assert main(["analyze", "overview", str(trace), "--resamples", "-1"]) == 2


def test_some_sequences_tell_the_noise_and_sums_the_values(trace: Path) -> None:
    opened = open_trace(trace)
    part = {f.title: f for f in overview(opened, resamples=200, sequences=list(range(12)))}
    whole = {f.title: f for f in overview(opened, resamples=200)}
    exact = {f.title: f for f in findings(opened)}
    assert len(part) == len(whole)
    for title in ("Labels that differ most", "The busiest expert", "Certainty by layer", "Experts that go together"):
        assert part[title].value == pytest.approx(exact[title].value)
        assert part[title].n_tokens == exact[title].n_tokens
        narrow, wide = (f.ci_high - f.ci_low for f in (whole[title], part[title]))
        assert 0.3 < wide / narrow < 3
    lru = part["What a cache of experts would hit"]
    assert lru.n_tokens == 12 * LENGTH
    unsure = part["The most uncertain tokens"]
    assert unsure.n_tokens == whole["The most uncertain tokens"].n_tokens


def test_a_token_without_text_is_named_by_its_place() -> None:
    from probes.findings.sequences import _placed

    place = {"sequence_id": 3, "position": 7}
    assert _placed(SimpleNamespace(token=" cat", **place)) == "' cat' (sequence 3, position 7)"
    assert _placed(SimpleNamespace(token=None, **place)) == "sequence 3, position 7"
