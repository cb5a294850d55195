"""What a metric needs is recorded when it is asked for by the metric's name, and named when it is missing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from probes.analysis import analyze
from probes.errors import ProbeError, UsageError
from probes.metrics import discover
from probes.metrics.registry import LEVELS as LEVEL_OF
from probes.recording.options import DEFAULT_CAPTURE, LEVELS, parse_capture
from probes.recording.record import record
from store.trace import open_trace


def test_a_metric_stands_for_the_levels_it_reads():
    assert parse_capture("for=load") == ("ids", "logits")
    assert parse_capture("for=srp") == ("ids",)
    assert parse_capture("for=srp,router_saturation,norms") == ("ids", "norms")
    assert parse_capture("for=srp,for=norm_vs_gate") == ("ids", "norms")
    assert parse_capture("logits,for=expert_importance") == ("ids", "weights", "logits", "norms", "moments", "hidden")
    assert parse_capture("for=super_experts") == ("ids", "norms", "hidden", "shared")
    assert parse_capture("for=vocabulary_specialization") == ("ids", "predictions")
    assert parse_capture(None) == DEFAULT_CAPTURE


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("for=expert_importence", "unknown metric 'expert_importence' \\(did you mean 'expert_importance'"),
        ("for=srp,lode", "unknown metric 'lode' \\(did you mean 'load'"),
        ("logts,for=srp", "unknown capture level 'logts' \\(did you mean 'logits'"),
    ],
)
def test_a_wrong_name_gets_the_nearest_right_one(text, message):
    with pytest.raises(UsageError, match=message):
        parse_capture(text)


def test_every_array_a_metric_needs_is_kept_by_a_level():
    """Ids, tokens and labels are always there; all else has a level, or a recording could never hold it."""
    always = {"token", "token_id", "label", "other_experts", "router_weight", "expert_weight"}  # or in the model
    for metric in discover().values():
        for options in metric._variants():
            needed = {name.rstrip("?") for name in metric.needed(options)} - always
            assert needed <= set(LEVEL_OF), metric.name
    assert set(LEVEL_OF.values()) <= set(LEVELS)


@pytest.fixture(scope="module")
def trace(olmoe, tokenizer, prompts_file, tmp_path_factory):
    path = tmp_path_factory.mktemp("needs") / "t.duckdb"
    record(olmoe, prompts_file, path, tokenizer=tokenizer, capture="for=expert_importance,super_experts")
    return open_trace(path)


def test_what_is_missing_is_named_with_how_to_get_it(olmoe, tokenizer, prompts_file, tmp_path):
    record(olmoe, prompts_file, tmp_path / "t.duckdb", tokenizer=tokenizer, limit=4, capture="weights,norms")
    for criterion, array in (("easy_ep", "similarity"), ("mone", "output_mean")):
        text = f"expert_importance {criterion} needs {array}.* record again with --capture for=expert_importance"
        with pytest.raises(ProbeError, match=text):
            analyze(tmp_path / "t.duckdb", "expert_importance", criterion=("frequency", criterion))
    assert open_trace(tmp_path / "t.duckdb").sql("SELECT count(*) AS n FROM hidden").n[0] == 0


def _by_hand(olmoe, ids):
    """(h, h + r, output vectors) of the first layer, out of its own modules."""
    layer = olmoe.model.layers[0]
    with torch.no_grad():
        before = []
        handle = layer.post_attention_layernorm.register_forward_pre_hook(lambda m, args: before.append(args[0][0]))
        after = olmoe(torch.tensor([ids]), output_hidden_states=True).hidden_states[1][0]
        handle.remove()
    return before[0], after


def test_the_residual_stream_is_the_models_own(trace, olmoe):
    chunk = next(iter(trace.chunks(columns=("similarity", "hidden_absmax", "hidden_absmedian"), sequences=[0])))
    h, after = _by_hand(olmoe, chunk["token_id"].tolist())
    cosine = torch.nn.functional.cosine_similarity(h, after, dim=-1).numpy()
    np.testing.assert_allclose(chunk["similarity"][:, 0], cosine, atol=1e-5)
    np.testing.assert_allclose(chunk["hidden_absmax"][:, 0], h.abs().amax(-1), rtol=1e-4)
    np.testing.assert_allclose(chunk["hidden_absmedian"][:, 0], h.abs().median(-1).values, rtol=1e-3)


def test_super_experts_know_their_inputs_and_the_layers_ratio(trace):
    frame = analyze(trace, "super_experts")
    stored = trace.sql(
        "SELECT layer, expert, max(max_abs_input) AS input FROM expert_stats GROUP BY ALL ORDER BY layer, expert"
    )
    np.testing.assert_allclose(frame["max_abs_input"], stored["input"].astype(float), rtol=1e-6)
    ratio = trace.sql("SELECT layer, max(hidden_absmax / hidden_absmedian) AS r FROM hidden GROUP BY ALL ORDER BY 1").r
    np.testing.assert_allclose(frame.groupby("layer")["massive_activation_ratio"].first(), ratio, rtol=1e-5)
    assert (ratio > 1).all()


@pytest.fixture(scope="module")
def shared_trace(tokenizer, prompts_file, tmp_path_factory):
    """A model with a shared expert in every layer, recorded with it and with every expert's norm."""
    from probes.families import family
    from probes.families.tiny import tiny_model

    torch.manual_seed(0)
    model = tiny_model(family("qwen2_moe"), "float32", 0)
    model.resize_token_embeddings(len(tokenizer))
    path = tmp_path_factory.mktemp("shared") / "t.duckdb"
    capture = "for=super_experts,logits,every_norm"
    record(model, prompts_file, path, tokenizer=tokenizer, capture=capture, limit=12)
    record(model, prompts_file, path, tokenizer=tokenizer, capture="norms,logits", limit=4)
    return open_trace(path)


def test_shared_experts_are_compared_with_the_routed_ones(shared_trace):
    frame = analyze(shared_trace, "super_experts", run_id=1)
    assert frame.groupby("layer").kind.value_counts().unstack()["shared"].eq(1).all()
    sql = "SELECT layer, max(output_absmax) AS v, max(input_absmax) AS i FROM shared_outputs GROUP BY ALL ORDER BY 1"
    rows, shared = shared_trace.sql(sql), frame[frame.kind == "shared"]
    np.testing.assert_allclose(shared.max_abs_output, rows.v, rtol=1e-6)
    np.testing.assert_allclose(shared.max_abs_input, rows.i, rtol=1e-6)
    depth = int(shared_trace.run(1)["num_layers"])
    inside = frame[frame.layer < round(0.75 * depth)].max_abs_output.dropna()
    assert frame.threshold_percentile[0] == pytest.approx(np.percentile(inside, 99.5), rel=1e-6)
    routed = analyze(shared_trace, "super_experts", run_id=1, kind="routed")
    assert set(routed.kind) == {"routed"}
    assert routed.threshold_percentile[0] != frame.threshold_percentile[0]


def test_a_recording_without_its_shared_experts_says_so(shared_trace):
    with pytest.raises(ProbeError, match=r"super_experts shared needs shared_absmax.*for=super_experts.*--kind routed"):
        analyze(shared_trace, "super_experts", run_id=2)
    assert len(analyze(shared_trace, "super_experts", run_id=2, kind="routed"))


def test_norms_of_all_experts_against_the_gate(shared_trace):
    from scipy.stats import spearmanr

    frame = analyze(shared_trace, "norm_vs_gate", run_id=1, all_experts=True, summary=True)
    found = {int(layer): [] for layer in frame.layer}
    for chunk in shared_trace.chunks(1, columns=("logits", "expert_norm")):
        for i, layer in enumerate(chunk["layers"].tolist()):
            pairs = zip(chunk["logits"][:, i], chunk["expert_norm"][:, i], strict=True)
            found[layer] += [spearmanr(*pair).statistic for pair in pairs]
    np.testing.assert_allclose(frame.spearman, [np.mean(v) for v in found.values()], atol=1e-9)
    with pytest.raises(ProbeError, match=r"norm_vs_gate needs expert_norm.*record again with level every_norm"):
        analyze(shared_trace, "norm_vs_gate", run_id=2, all_experts=True)


def test_importance_from_a_recording_is_that_of_its_rows(trace):
    frame = analyze(trace, "expert_importance", criterion=("easy_ep", "mone_variance", "mone"))
    rows = trace.sql(
        "SELECT layer, expert, sum(weight::DOUBLE * output_norm * greatest(1 - similarity::DOUBLE, 0)) AS v "
        "FROM assignments JOIN hidden USING (run_id, sequence_id, position, layer) GROUP BY ALL ORDER BY layer, expert"
    )
    own = frame[frame.criterion == "easy_ep"].sort_values(["layer", "expert"])
    np.testing.assert_allclose(own[own.importance > 0].importance, rows.v, rtol=1e-6)
    moments = trace.moments()
    count, _, m2 = moments[1]
    variance = m2 / np.maximum(count - 1, 1)[:, None]
    mine = frame[(frame.layer == 1) & (frame.criterion == "mone_variance")].importance.to_numpy()
    np.testing.assert_allclose(mine[count > 1], np.linalg.norm(variance, axis=1)[count > 1], rtol=1e-5)
    with pytest.raises(UsageError, match="mone has no --by label"):
        analyze(trace, "expert_importance", criterion="mone", by="label")


def test_router_inputs_are_those_of_the_tokens(olmoe, tokenizer, prompts_file, tmp_path):
    """Sums over padded batches against one sequence at a time; padding must not count."""
    path = tmp_path / "t.duckdb"
    record(olmoe, prompts_file, path, tokenizer=tokenizer, limit=12, capture="router_inputs")
    trace = open_trace(path)
    total, count, products = np.zeros((8, 32)), np.zeros(8, int), np.zeros((32, 32))
    for chunk in trace.chunks(max_rows=1):
        seen = []
        handle = olmoe.model.layers[1].mlp.gate.register_forward_pre_hook(
            lambda m, args, seen=seen: seen.append(args[0])
        )
        with torch.no_grad():
            olmoe(torch.tensor([chunk["token_id"].tolist()]))
        handle.remove()
        x = seen[0].reshape(-1, 32).double().numpy()
        for row, first in zip(x, chunk["experts"][:, 1, 0], strict=True):
            total[first] += row
            count[first] += 1
        products += x.T @ x
    stored = trace.router_inputs()[1]
    assert stored[0].tolist() == count.tolist()
    np.testing.assert_allclose(stored[1], total, atol=1e-3)
    np.testing.assert_allclose(stored[2], products, atol=1e-3)


def test_collapse_from_a_recording_is_that_of_its_sums(olmoe, tokenizer, prompts_file, tmp_path):
    path = tmp_path / "t.duckdb"
    record(olmoe, prompts_file, path, tokenizer=tokenizer, limit=12, capture="for=representation_collapse")
    frame = analyze(path, "representation_collapse")
    count, total, products = open_trace(path).router_inputs()[2]
    n, means = count.sum(), total / np.maximum(count, 1)[:, None]
    away = np.sqrt(count / n)[:, None] * (means - total.sum(0) / n)
    within = products / n - (means.T * count) @ means / n
    rc = np.trace(within @ np.linalg.pinv(away.T @ away, rcond=1e-9, hermitian=True))
    assert frame.rc[2] == pytest.approx(rc, rel=1e-4)
    assert frame.n_tokens.tolist() == [n] * 3
    assert analyze(path, "representation_collapse", layers="2").rc[0] == frame.rc[2]
    record(olmoe, prompts_file, path, tokenizer=tokenizer, limit=2, capture="ids")
    with pytest.raises(ProbeError, match=r"needs router_input.* --capture for=representation_collapse"):
        analyze(path, "representation_collapse")


def test_clusters_and_similarity_from_a_recording(trace, olmoe, olmoe_folder):
    mean = trace.moments()[0][1].astype(float)
    alike = analyze(trace, "expert_similarity", layers="0")
    unit = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    pairs = alike[["expert", "other"]].to_numpy()
    np.testing.assert_allclose(alike.similarity, (unit @ unit.T)[pairs[:, 0], pairs[:, 1]], atol=1e-6)
    groups = analyze(trace, "expert_clusters", clusters=3, layers="0")
    assert groups.cluster.nunique() == 3
    assert groups[groups.is_dominant].expert.tolist() == sorted(groups.cluster.unique())
    with pytest.raises(UsageError, match="give --model FOLDER"):
        analyze(trace, "expert_similarity", kind="router")
    read = analyze(trace, "expert_similarity", kind=("router", "weights", "matched"), model=str(olmoe_folder))
    rows = olmoe.model.layers[1].mlp.gate.weight.detach().double().numpy()
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    router = read[(read.layer == 1) & (read.kind == "router")]
    pairs = router[["expert", "other"]].to_numpy()
    np.testing.assert_allclose(router.similarity, (unit @ unit.T)[pairs[:, 0], pairs[:, 1]], atol=1e-6)
    same, best = (read[read.kind == kind].similarity.to_numpy() for kind in ("weights", "matched"))
    assert (best >= same - 1e-6).all()
    assert best.mean() > same.mean() + 0.01
