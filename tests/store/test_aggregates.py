"""The counts kept while recording are those of the rows, however the rows came in."""

import numpy as np
import pytest

from store.batch import Batch, LayerInfo, LayerRows
from store.errors import TraceError
from store.trace import open_trace
from store.writer import TraceWriter
from tests.store.made import RUN, Plan, dump, make_batch, write

FROM_ROWS = """
SELECT a.layer, a.expert, s.label, count(*) AS n_tokens, count(*) FILTER (rank = 1) AS n_first,
    sum(weight::DOUBLE) AS sum_weight, count(output_norm) AS n_norm, sum(output_norm::DOUBLE) AS sum_norm,
    sum(weight::DOUBLE * output_norm) AS sum_weight_norm,
    max(output_absmax) AS max_abs_output, max(r.input_absmax) AS max_abs_input
FROM assignments a JOIN sequences s USING (run_id, sequence_id)
JOIN routing r USING (run_id, sequence_id, position, layer) GROUP BY ALL ORDER BY ALL"""
FROM_STATS = """
SELECT layer, expert, label, n_tokens, n_first, sum_weight, n_norm, sum_norm, sum_weight_norm, max_abs_output,
    max_abs_input
FROM expert_stats WHERE n_tokens > 0 ORDER BY ALL"""


@pytest.fixture(scope="module")
def trace(tmp_path_factory):
    path = tmp_path_factory.mktemp("aggregates") / "t.duckdb"
    write(path, Plan(logit_rate=0.5), batches=10)
    return open_trace(path)


def test_expert_stats_are_those_of_the_rows(trace):
    rows, stats = trace.sql(FROM_ROWS), trace.sql(FROM_STATS)
    assert len(rows) > 50
    for name in rows.columns:
        if name == "label":
            assert rows.label.fillna("").tolist() == stats.label.fillna("").tolist()
        else:
            np.testing.assert_allclose(stats[name].astype(float), rows[name].astype(float), rtol=1e-12, err_msg=name)


def test_the_maximum_is_found_where_it_was_made(trace):
    found = trace.sql(
        "SELECT count(*) AS n, count(*) FILTER (a.output_absmax = s.max_abs_output) AS same FROM expert_stats s "
        "JOIN assignments a ON a.layer = s.layer AND a.expert = s.expert AND a.sequence_id = s.max_output_sequence_id "
        "AND a.position = s.max_output_position WHERE s.n_tokens > 0"
    )
    wanted = trace.sql("SELECT count(*) AS n FROM expert_stats WHERE n_tokens > 0").n[0]
    assert found.n[0] == found.same[0] == wanted


def test_probabilities_are_summed_over_kept_logits(trace):
    rows = trace.sql(
        "SELECT layer, expert, label, sum(probability::DOUBLE) AS p FROM router_logits "
        "JOIN sequences USING (run_id, sequence_id) GROUP BY ALL ORDER BY ALL"
    )
    stats = trace.sql("SELECT layer, expert, label, sum_probability AS p FROM expert_stats ORDER BY ALL")
    np.testing.assert_allclose(stats.p, rows.p, rtol=1e-5)


def test_layer_stats_are_those_of_the_rows(trace):
    rows = trace.sql(
        "SELECT layer, label, count(experts) AS n_tokens, count(missing_reason) AS n_missing, "
        "count(entropy) AS n_entropy, sum(entropy::DOUBLE) AS sum_entropy, "
        "sum(entropy::DOUBLE ** 2) AS sum_entropy_squared, count(margin) AS n_margin, "
        "sum(margin::DOUBLE) AS sum_margin, sum(margin::DOUBLE ** 2) AS sum_margin_squared "
        "FROM routing JOIN sequences USING (run_id, sequence_id) GROUP BY ALL ORDER BY ALL"
    )
    stats = trace.sql("SELECT * FROM layer_stats ORDER BY layer, label")
    for name in rows.columns.drop("label"):
        np.testing.assert_allclose(stats[name].astype(float), rows[name].astype(float), rtol=1e-12, err_msg=name)


def test_coactivation_is_that_of_the_rows(trace):
    rows = trace.sql(
        "SELECT a.layer, a.expert, b.expert AS other, count(*) AS n_tokens FROM assignments a "
        "JOIN assignments b USING (run_id, sequence_id, position, layer) GROUP BY ALL ORDER BY ALL"
    )
    pairs = trace.sql("SELECT layer, expert, other, n_tokens FROM coactivation WHERE n_tokens > 0 ORDER BY ALL")
    assert rows.values.tolist() == pairs.values.tolist()


def test_arrays_are_those_of_the_views(trace):
    a = trace.aggregates()
    assert a["label_names"] == ("code", "prose")
    assert a["count"].shape == (3, 16, 3)
    stats = trace.sql("SELECT * REPLACE (coalesce(label, '') AS label) FROM expert_stats")
    for row in stats.itertuples():
        at = (a["layers"].tolist().index(row.layer), row.expert, ["code", "prose", ""].index(row.label or ""))
        assert a["count"][at] == row.n_tokens
        assert a["sum_weight"][at] == row.sum_weight
        assert a["tokens"][at[0], at[2]] == row.n_group_tokens
    pairs = trace.sql("SELECT * FROM coactivation WHERE layer = 2")
    np.testing.assert_array_equal(pairs.n_tokens.to_numpy().reshape(16, 16), a["coactivation"][1])


def test_nothing_depends_on_how_batches_were_grouped_into_flushes(tmp_path):
    write(tmp_path / "one.duckdb", Plan(outputs=True))
    write(tmp_path / "many.duckdb", Plan(outputs=True), flush_bytes=1)
    assert dump(tmp_path / "one.duckdb") == dump(tmp_path / "many.duckdb")


def test_counts_add_up_over_any_split_into_batches(tmp_path):
    whole = make_batch(Plan(sequences=6, outputs=False), 0)
    for name, cuts in (("one", [6]), ("three", [1, 3, 6])):
        with TraceWriter.create(tmp_path / f"{name}.duckdb", RUN, Plan().infos) as writer:
            for i, batch in enumerate(split(whole, cuts)):
                writer.write(Batch(i, *batch))
    one, three = (dump(tmp_path / f"{n}.duckdb") for n in ("one", "three"))
    for view in ("routing", "tokens", "coactivation"):
        assert one[view] == three[view]
    a, b = (open_trace(tmp_path / f"{n}.duckdb").aggregates() for n in ("one", "three"))
    for name, array in a.items():
        if isinstance(array, np.ndarray):
            np.testing.assert_allclose(array, b[name], rtol=1e-6)  # probabilities are float32


def split(batch, cuts):
    """The batch's sequences cut into groups that end at `cuts`."""
    of = batch.tokens["sequence_id"]
    for first, last in zip([0, *cuts[:-1]], cuts, strict=True):
        rows = np.flatnonzero((of >= first) & (of < last))
        tokens = {k: [v[i] for i in rows] if isinstance(v, list) else v[rows] for k, v in batch.tokens.items()}
        yield batch.sequences[first:last], tokens, [cut(layer, rows) for layer in batch.layers]


def cut(layer, rows):
    values = {k: v[rows] if isinstance(v, np.ndarray) else v for k, v in vars(layer).items()}
    return LayerRows(**values)


def test_an_expert_named_twice_is_refused(tmp_path):
    tokens = {"sequence_id": np.zeros(2, int), "position": np.arange(2)}
    batch = Batch(0, [{"sequence_id": 0}], tokens, [LayerRows(0, np.array([[0, 1], [3, 3]]))])
    writer = TraceWriter.create(tmp_path / "t.duckdb", RUN, [LayerInfo(0, "gate", 8, 2)])
    writer.write(batch)
    with pytest.raises(TraceError, match=r"names an expert twice: \[3, 3\]"):
        writer.finish()
    assert not (tmp_path / "t.duckdb").exists()


def test_too_many_labels_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("store.aggregate.MEMORY_LIMIT", 100_000)
    plan = Plan(labels=tuple(f"unique {i}" for i in range(3000)), sequences=50, length=2)
    with pytest.raises(TraceError, match="labels are too many"):
        write(tmp_path / "t.duckdb", plan, batches=20)


def test_a_run_without_rows_has_empty_sums(tmp_path):
    """A recording that has just begun can be looked at."""
    writer = TraceWriter.create(tmp_path / "t.duckdb", RUN, Plan().infos)
    found = open_trace(tmp_path / "t.duckdb").aggregates()
    writer.abort()
    assert found["count"].shape == (3, 16, 1)
    assert not found["count"].any()
    assert not found["tokens"].any()
    assert np.isnan(found["max_abs_output"]).all()
    assert (found["max_output_position"] == -1).all()
    assert not found["coactivation"].any()


def test_router_inputs_add_up_over_batches(tmp_path):
    path = tmp_path / "t.duckdb"
    batches = write(path, Plan(outputs=True), batches=4)
    stored = open_trace(path).router_inputs()
    assert set(stored) == {1, 2, 4}
    for layer, sums in stored.items():
        for i, values in enumerate(sums):
            expected = sum(batch.router_inputs[layer][i] for batch in batches)
            np.testing.assert_allclose(values, expected, rtol=1e-12)
    count, total, _ = stored[2]
    shown = open_trace(path).sql("SELECT mean FROM router_inputs WHERE layer = 2 ORDER BY expert")["mean"]
    np.testing.assert_allclose(shown[0], total[0] / count[0])


def test_the_measured_stream_comes_back_where_it_was(tmp_path):
    path = tmp_path / "t.duckdb"
    batches = write(path, Plan(outputs=True), batches=3)
    names = ("similarity", "hidden_absmax", "hidden_absmedian", "shared_absmax", "shared_input_absmax")
    chunks = list(open_trace(path).chunks(columns=("experts", *names), max_rows=60))
    assert len(chunks) > 1
    norms = [chunk["expert_norm"] for chunk in open_trace(path).chunks(layers=[2], columns=("expert_norm",))]
    made = np.concatenate([next(r.expert_norm for r in b.layers if r.layer == 2) for b in batches])
    np.testing.assert_array_equal(np.concatenate(norms)[:, 0], made.astype(np.float32))
    for name in names:
        got = np.concatenate([chunk[name] for chunk in chunks])
        made = np.concatenate([np.stack([getattr(r, name) for r in b.layers], axis=1) for b in batches])
        np.testing.assert_array_equal(got, made)
    write(tmp_path / "bare.duckdb", Plan(), batches=1)
    bare = open_trace(tmp_path / "bare.duckdb")
    assert bare.router_inputs() == {}
    assert bare.moments() == {}
    assert all(np.isnan(chunk["similarity"]).all() for chunk in bare.chunks(columns=("similarity",)))


def test_a_new_run_is_noticed(tmp_path):
    path = tmp_path / "t.duckdb"
    write(path, batches=1)
    trace = open_trace(path)
    assert trace._id(None) == 1
    write(path, batches=1)
    assert trace._id(None) == 2
    with pytest.raises(TraceError, match="no run 3; there are: 1, 2"):
        trace.layers(3)
