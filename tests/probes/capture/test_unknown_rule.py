"""A router whose rule nobody knows: its logits and its choice are kept, and no number is made by another rule."""

import copy

import duckdb
import numpy as np
import pytest
import torch
from torch import nn

import probes
from probes import metrics
from probes.capture import self_test
from probes.errors import UsageError

REASON = "how it makes scores of its logits is not known"


class Odd(nn.Module):
    """Chooses by the squares of the logits: no rule we know does."""

    def __init__(self, router):
        super().__init__()
        self.weight, self.top_k = router.weight, router.top_k

    def forward(self, hidden):
        logits = nn.functional.linear(hidden.reshape(-1, hidden.shape[-1]), self.weight)
        weights, ids = logits.square().topk(self.top_k, dim=-1)
        return logits, weights / weights.sum(-1, keepdim=True), ids


@pytest.fixture(scope="module")
def odd(olmoe):
    model = copy.deepcopy(olmoe)
    for layer in model.model.layers:
        layer.mlp.gate = Odd(layer.mlp.gate)
    return model.eval()


@pytest.fixture(scope="module")
def trace(odd, tokenizer, tmp_path_factory):
    """(path, what `record` said)."""
    folder = tmp_path_factory.mktemp("odd")
    (folder / "p.txt").write_text("the quick brown fox jumps over the lazy dog")
    return folder / "t.duckdb", probes.record(
        odd, folder / "p.txt", folder / "t.duckdb", tokenizer=tokenizer, progress=False
    )


def test_the_trace_has_logits_and_choices_but_no_scores(trace):
    path, recorded = trace
    con = duckdb.connect(str(path), read_only=True)
    n, experts, entropy, margin = con.execute(
        "SELECT count(*), count(experts), count(entropy), count(margin) FROM routing"
    ).fetchone()
    assert n == experts > 0
    assert con.execute("SELECT count(*) FROM router_logits").fetchone() == (8 * n,)
    assert entropy == margin == 0
    assert con.execute("SELECT DISTINCT gating FROM layers").fetchall() == [("unknown: ",)]
    assert f"layers 0,1,2: {REASON}: no entropy, no margin" in recorded.notes
    assert REASON in con.execute("SELECT provenance FROM runs").fetchone()[0]


@pytest.mark.parametrize(
    ("metric", "columns"),
    [
        ("routing_entropy", ["entropy_mean", "normalized_mean", "margin_mean", "uncertain_share", "effective_experts"]),
        ("top_p_experts", ["mean"]),
        ("unchosen_mass", ["mean", "p95"]),
    ],
)
def test_metrics_of_scores_are_missing(trace, metric, columns):
    table = probes.analyze(probes.open_trace(trace[0]), metric)
    assert len(table) == 3
    assert table[columns].isna().all().all()
    assert (table["n_tokens"] == 0).all()
    assert (table["missing_share"] == 1).all()
    if metric == "routing_entropy":
        assert set(table["scores"]) == {"unknown rule: no scores"}


def test_the_balance_loss_is_missing_and_the_load_is_not(trace):
    table = probes.analyze(probes.open_trace(trace[0]), "load", summary=True)
    assert table["balance_loss"].isna().all()
    assert table["cv"].notna().all()


def test_mean_probabilities_that_are_summed_while_recording(trace):
    con = duckdb.connect(str(trace[0]), read_only=True)
    known = "count(sum_probability) FILTER (NOT isnan(sum_probability))"
    count, sums = con.execute(f"SELECT count(*), {known} FROM expert_stats").fetchone()
    assert count > 0
    assert sums == 0


def test_a_trace_of_an_earlier_version_called_it_softmax():
    """It wrote "softmax: ", a rule of no name."""
    from probes.sources import _score_rule

    assert _score_rule("softmax: ") == "unknown"
    assert _score_rule("softmax: softmax_topk") == "softmax"
    assert _score_rule("softmax") == "softmax"
    assert _score_rule("sigmoid: sigmoid_bias") == "sigmoid"


def test_pure_functions_take_it_too():
    table = metrics.routing_entropy([[0, 1]], num_experts=4, logits=[[1.0, 0.0, 0.0, 0.0]], scores="unknown")
    assert np.isnan(table.entropy_mean[0])
    assert table.n_tokens[0] == 0


@pytest.mark.parametrize(
    "spec", ["top_p:p=0.4", "broadcast:threshold=0.5", "capacity:gamma=1", "expert_choice:gamma=1"]
)
def test_interventions_that_need_scores_are_refused(odd, spec):
    words = "cannot be carried out in layer 0: how its router makes scores"
    with pytest.raises(UsageError, match=words), probes.steer(odd, [spec]):
        pass


@torch.no_grad()
def test_those_that_need_none_go_on_working(odd):
    with probes.steer(odd, ["shrink:to=1"]) as steering:
        odd(torch.tensor([[5, 6, 7]]))
    assert steering.acted
    assert {r.recomputed for r in self_test(odd).layers} == {""}


def test_stored_scores_of_sqrtsoftplus_are_its_own():
    """By hand: sqrt(ln(1 + e^z)), scaled to sum 1. They were taken for softmax."""
    from store.aggregate import scores_of

    logits = np.array([[0.0, 1.0, -2.0]], np.float32)
    scores, share = scores_of(logits, "sqrtsoftplus: sqrtsoftplus_bias")
    expected = np.sqrt(np.log1p(np.exp(logits.astype(np.float64))))
    np.testing.assert_allclose(scores * share[:, None], expected / expected.sum(), rtol=1e-6)
