"""Recording under interventions, from the command to the file and back."""

import json

import numpy as np
import pytest

import probes
from probes.cli.main import main
from probes.errors import ProbeError, UsageError
from probes.recording.record import record
from store.errors import TraceError
from store.info import as_text, describe
from store.trace import open_trace

SPECS = ["temperature:layer=0-1,tau=0.05", "top_p:p=0.5"]


def command(folder, prompts, out, *more):
    return main(["record", str(folder), "--prompts", str(prompts), "--out", str(out), "--limit", "12", *more])


def arrays(path, run_id=None, columns=("experts", "weights", "output_norm")):
    chunks = list(open_trace(path).chunks(run_id, columns=columns))
    return {key: np.concatenate([c[key] for c in chunks]) for key in (*columns, "sequence_id", "position")}


@pytest.fixture(scope="module")
def trace(olmoe_folder, prompts_file, tmp_path_factory):
    """A baseline, and a run under two interventions beside it."""
    path = tmp_path_factory.mktemp("traces") / "t.duckdb"
    assert command(olmoe_folder, prompts_file, path) == 0
    more = [word for spec in SPECS for word in ("--intervention", spec)]
    assert command(olmoe_folder, prompts_file, path, *more, "--baseline", "1", "--batch-size", "5") == 0
    return path


def test_a_run_says_what_it_was_recorded_under(trace):
    plain, steered = open_trace(trace).run(1), open_trace(trace).run(2)
    assert plain["intervention"] is None
    assert json.loads(steered["intervention"]) == [probes.interventions.parse(s).as_dict() for s in SPECS]
    assert (plain["baseline_run_id"], steered["baseline_run_id"]) == (None, 1)
    assert json.loads(steered["provenance"])["gating"].keys() == json.loads(plain["provenance"])["gating"].keys()


def test_info_shows_it(trace):
    text = as_text(describe(open_trace(trace)))
    assert "intervention  temperature tau=0.05 layers=0+1, then top_p p=0.5" in text
    assert "baseline      run 1" in text


def test_every_token_has_as_many_experts_as_it_got(trace):
    frame = open_trace(trace).sql("SELECT layer, top_k, slots FROM layers WHERE run_id = 2")
    assert frame.slots.tolist() == [8, 8, 8]
    assert frame.top_k.tolist() == [2, 2, 2]
    found = arrays(trace, 2)["experts"]
    used = (found >= 0).sum(-1)
    assert used.min() >= 1
    assert len(np.unique(used)) > 2
    lengths = open_trace(trace).sql(
        "SELECT len(experts) AS n, len(weights) AS w, list_contains(experts, NULL) AS holes FROM routing "
        "WHERE run_id = 2 ORDER BY sequence_id, position, layer"
    )
    assert lengths.n.tolist() == used.reshape(-1).tolist() == lengths.w.tolist()
    assert not lengths.holes.any()
    rows = open_trace(trace).sql("SELECT count(*) AS n, count(expert) AS e FROM assignments WHERE run_id = 2")
    assert rows.n[0] == rows.e[0] == used.sum()


def test_how_batches_are_cut_does_not_show(trace, olmoe_folder, prompts_file, tmp_path):
    """Slots are as wide as the widest token of a batch; that stays within."""
    more = [word for spec in SPECS for word in ("--intervention", spec)]
    assert command(olmoe_folder, prompts_file, tmp_path / "u.duckdb", *more, "--batch-size", "2") == 0
    one, two = arrays(trace, 2), arrays(tmp_path / "u.duckdb")
    assert np.array_equal(one["experts"], two["experts"])
    np.testing.assert_allclose(one["weights"], two["weights"], atol=1e-5)


def test_a_token_that_lost_everything_says_so(olmoe, tokenizer, prompts_file, tmp_path):
    path = tmp_path / "t.duckdb"
    specs = ["capacity:gamma=0.2", "boost:expert=0-7,factor=2"]
    record(olmoe, prompts_file, path, tokenizer=tokenizer, limit=8, interventions=specs, max_new_tokens=3)
    reasons = open_trace(path).sql("SELECT missing_reason AS reason, count(*) AS n FROM routing GROUP BY ALL")
    told = dict(zip(reasons.reason.astype(object).where(reasons.reason.notna(), None), reasons.n, strict=True))
    assert told["last generated token: never fed to the model"] == 8 * 3
    assert told["all its experts were dropped"] > 0
    counted = open_trace(path).sql("SELECT sum(n_tokens) AS n, sum(n_missing) AS m FROM layer_stats")
    assert (counted.n[0], counted.m[0]) == (told[None], sum(told.values()) - told[None])


def test_dropped_slots_count_for_nothing(olmoe, tokenizer, prompts_file, tmp_path):
    """Neither in the counts nor in the moments of the outputs."""
    path = tmp_path / "t.duckdb"
    options = {"tokenizer": tokenizer, "limit": 8, "capture": "weights,norms,moments"}
    record(olmoe, prompts_file, path, interventions="shrink:to=1", **options)
    found = arrays(path)
    assert found["experts"].shape[2] == 2
    assert (found["experts"][..., 1] == -1).all()
    assert np.isnan(found["weights"][..., 1]).all()
    assert np.isnan(found["output_norm"][..., 1]).all()
    for layer, (count, *_) in open_trace(path).moments().items():
        chosen = found["experts"][:, layer, 0]
        assert count.tolist() == np.bincount(chosen, minlength=8).tolist()


def test_an_outer_steering_belongs_to_the_run(olmoe, tokenizer, prompts_file, tmp_path):
    with probes.steer(olmoe, "ban:expert=3"):
        record(olmoe, prompts_file, tmp_path / "t.duckdb", tokenizer=tokenizer, limit=4, interventions="top_k:k=1")
    stored = json.loads(open_trace(tmp_path / "t.duckdb").run()["intervention"])
    assert [spec["name"] for spec in stored] == ["ban", "top_k"]
    assert not (arrays(tmp_path / "t.duckdb")["experts"] == 3).any()


class TestResume:
    OPTIONS = {"batch_size": 4, "limit": 20}  # noqa: RUF012

    @pytest.fixture
    def interrupted(self, olmoe, tokenizer, prompts_file, tmp_path, monkeypatch):
        """Two of five batches under a spec that draws."""
        from probes.recording.session import Feeder

        path, original = tmp_path / "t.duckdb", Feeder.batch

        def stops(self, index, group):
            if index == 2:
                raise KeyboardInterrupt
            return original(self, index, group)

        record(olmoe, prompts_file, path, tokenizer=tokenizer, limit=4)
        monkeypatch.setattr(Feeder, "batch", stops)
        with pytest.raises(KeyboardInterrupt):
            self.go_on(olmoe, tokenizer, prompts_file, path, resume=False)
        monkeypatch.setattr(Feeder, "batch", original)
        return path

    def go_on(self, olmoe, tokenizer, prompts, path, **changed):
        options = {"interventions": ["random:seed=3"], "baseline": 1, "resume": True, **self.OPTIONS, **changed}
        return record(olmoe, prompts, path, tokenizer=tokenizer, **options)

    def test_draws_go_on_as_if_uninterrupted(self, interrupted, olmoe, tokenizer, prompts_file, tmp_path):
        done = self.go_on(olmoe, tokenizer, prompts_file, interrupted)
        assert done.notes == ["went on after 2 of 5 batches"]
        whole = tmp_path / "whole.duckdb"
        self.go_on(olmoe, tokenizer, prompts_file, whole, resume=False, baseline=None)
        one, two = arrays(interrupted, done.run_id), arrays(whole)
        assert all(np.array_equal(one[key], two[key], equal_nan=True) for key in one)
        run = open_trace(interrupted).run(done.run_id)
        assert (run["status"], run["baseline_run_id"]) == ("complete", 1)
        assert json.loads(run["intervention"]) == [{"name": "random", "seed": 3}]

    @pytest.mark.parametrize(
        ("changed", "match"),
        [
            (
                {"interventions": "random:seed=4"},
                "under random seed=3, and this is to be under random seed=4",
            ),
            ({"interventions": None}, "under random seed=3, and this is to be without interventions"),
            ({"baseline": 2}, "run 2 has run 1 as its baseline, not run 2"),
            ({"batch_size": 3}, "other prompts, options or batches"),
        ],
    )
    def test_another_plan_is_refused(self, interrupted, olmoe, tokenizer, prompts_file, changed, match):
        with pytest.raises(ProbeError, match=match) as told:
            self.go_on(olmoe, tokenizer, prompts_file, interrupted, **changed)
        assert "\n" not in str(told.value)
        assert open_trace(interrupted).runs().status.tolist() == ["complete", "interrupted"]


class TestRefusals:
    def test_a_baseline_that_is_not_there(self, trace, olmoe, tokenizer, prompts_file, tmp_path):
        with pytest.raises(TraceError, match="no run 7; there are: 1, 2"):
            record(olmoe, prompts_file, trace, tokenizer=tokenizer, baseline=7)
        with pytest.raises(ProbeError, match=r"--baseline 1: .* does not exist yet"):
            record(olmoe, prompts_file, tmp_path / "new.duckdb", tokenizer=tokenizer, baseline=1)

    @pytest.mark.parametrize("spec", ["bann:expert=3", "ban:expert=99", "boost:expert=3,facter=2", "ban:expert=0-7"])
    def test_a_bad_spec_writes_nothing(self, spec, olmoe, tokenizer, prompts_file, tmp_path):
        with pytest.raises(UsageError):
            record(olmoe, prompts_file, tmp_path / "t.duckdb", tokenizer=tokenizer, interventions=spec)
        assert not (tmp_path / "t.duckdb").exists()

    def test_the_command_says_so_in_one_line(self, olmoe_folder, prompts_file, tmp_path, capsys):
        assert command(olmoe_folder, prompts_file, tmp_path / "t.duckdb", "--intervention", "ban:expert=99") == 2
        assert capsys.readouterr().err.splitlines()[-1] == "probe: ban: layer 0 has experts 0 to 7, not 99"

    def test_a_dry_run_reads_the_spec(self, olmoe_folder, prompts_file, tmp_path, capsys):
        more = ("--dry-run", "--intervention", "bann")
        assert command(olmoe_folder, prompts_file, tmp_path / "t.duckdb", *more) == 2
        assert "did you mean 'ban'" in capsys.readouterr().err
