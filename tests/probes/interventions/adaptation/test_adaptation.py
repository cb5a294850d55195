"""Test-time adaptation: what is learned, by hand-checkable laws, and that the model is bit for bit what it was."""

import numpy as np
import pytest
import torch

import probes
from probes.capture import Want, capture, discover
from probes.errors import ProbeError, UsageError
from probes.families import family
from probes.families.tiny import tiny_model
from probes.interventions import parse
from probes.interventions.adaptation import Example, expert_tuning, learn_vectors, references, rewiring, router_tuning
from probes.interventions.adaptation.c3po import c3po
from probes.interventions.adaptation.counts import chosen_counts, gained
from probes.interventions.adaptation.examples import batch_of, read_examples
from probes.interventions.adaptation.losses import forward_inputs, next_token_loss, predicted
from probes.interventions.adaptation.pathways import logits_of, scores_of
from probes.interventions.decoding import decode
from probes.prompts import read_prompts
from probes.steering import active, steer

IDS = torch.tensor([[0, 0, 5, 9, 17, 33], [41, 7, 7, 19, 23, 4]])
MASK = (IDS > 0).long()
PADDED = {"input_ids": IDS, "attention_mask": MASK}
OPTIONS = {"steps": 4, "lr": 0.1, "optimizer": "adam", "every": 0, "layers": (), "confident": 1.0}
EXAMPLES = [Example((5, 9, 17), (33, 7)), Example((41, 7), (19, 23, 4)), Example((8, 50, 12, 3), (6,))]


@pytest.fixture(scope="module")
def model():
    made = tiny_model(family("olmoe"))
    made.generation_config.eos_token_id = made.config.eos_token_id = None
    next(made.parameters()).requires_grad_(False)  # a flag of the user's own, that must survive
    return made


@pytest.fixture(autouse=True)
def untouched(model):
    """Every test in this file: parameters, flags, gradients and hooks are what they were."""
    before = {name: (p.detach().clone(), p.requires_grad, p.data_ptr()) for name, p in model.named_parameters()}
    hooks = hook_count(model)
    yield
    for name, p in model.named_parameters():
        value, flag, pointer = before[name]
        assert torch.equal(p, value), name
        assert (p.requires_grad, p.data_ptr(), p.grad) == (flag, pointer, None), name
    assert hook_count(model) == hooks
    assert active(model) is None


def hook_count(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@torch.no_grad()
def loss_of(model, ids=IDS, mask=MASK):
    return next_token_loss(model(**forward_inputs(model, ids, mask)).logits, ids, predicted(mask))


class TestLosses:
    def test_by_hand(self):
        logits = torch.zeros(1, 3, 4)
        logits[0, 1, 2] = 1.0
        ids = torch.tensor([[1, 3, 2]])
        wanted = torch.tensor([[False, False, True]])
        assert next_token_loss(logits, ids, wanted)[0] == pytest.approx(np.log(3 + np.e) - 1)
        assert next_token_loss(logits, ids, torch.zeros_like(wanted))[0] == 0

    def test_padding_predicts_nothing(self):
        assert predicted(MASK).tolist() == [[False] * 3 + [True] * 3, [False] + [True] * 5]

    def test_scores_and_their_logits(self):
        z = torch.randn(3, 8)
        for scoring in ("softmax", "sigmoid", "sqrtsoftplus"):
            torch.testing.assert_close(logits_of(scores_of(z, scoring), scoring, z), z, atol=1e-4, rtol=1e-3)


class TestRewire:
    @pytest.mark.parametrize("optimizer", ["adam", "sgd"])
    def test_it_lowers_the_loss_of_every_sequence(self, model, optimizer):
        before = loss_of(model)
        with rewiring(model, {**OPTIONS, "optimizer": optimizer, "lr": 0.05}) as learner:
            learner.learn(IDS, MASK)
            after = loss_of(model)
        torch.testing.assert_close(learner.losses[0], before)
        assert (after < before).all()
        assert torch.equal(loss_of(model), before)

    def test_a_sequence_learns_by_itself(self, model):
        with rewiring(model, OPTIONS) as together:
            together.learn(IDS, MASK)
        for row in range(2):
            keep = MASK[row].bool()
            with rewiring(model, OPTIONS) as alone:
                alone.learn(IDS[row][keep][None], MASK[row][keep][None])
            for layer in alone.vectors:
                torch.testing.assert_close(together.vectors[layer][row], alone.vectors[layer][0], atol=1e-4, rtol=1e-3)

    def test_the_first_step_is_the_gradient(self, model):
        """SGD's step against a difference quotient of the loss."""
        with rewiring(model, {**OPTIONS, "steps": 1, "optimizer": "sgd", "lr": 1.0}) as learner:
            learner.learn(IDS[1:], MASK[1:])
        step, size = learner.vectors[2][0], 1e-2
        for expert in range(3):
            losses = []
            for sign in (size, -size):
                vector = [sign * (e == expert) for e in range(8)]
                with steer(model, {"name": "logit_vectors", "vectors": {2: vector}, "layer": 2}):
                    losses.append(float(loss_of(model, IDS[1:], MASK[1:])[0]))
            assert -float(step[expert]) == pytest.approx((losses[0] - losses[1]) / (2 * size), abs=2e-3)

    def test_only_the_most_confident_layers_learn(self, model):
        with rewiring(model, {**OPTIONS, "confident": 0.3}) as learner:
            learner.learn(IDS, MASK)
        confidence = torch.stack([learner.confidence[layer] for layer in learner.vectors])
        moved = torch.stack([v.detach().abs().sum(1) > 0 for v in learner.vectors.values()])
        assert (moved.sum(0) == 1).all()
        assert torch.equal(moved.long().argmax(0), confidence.argmax(0))

    def test_named_layers_alone_learn(self, model):
        with rewiring(model, {**OPTIONS, "layers": (1,)}) as learner:
            learner.learn(IDS, MASK)
        assert list(learner.vectors) == [1]

    def test_what_is_learned_can_be_kept(self, model):
        before = loss_of(model).mean()
        spec = learn_vectors(model, PADDED, steps=4, lr=0.05)
        assert parse(str(spec)).as_dict() == spec.as_dict()
        with steer(model, parse(str(spec))):
            assert loss_of(model).mean() < before

    def test_it_learns_again_and_computes_the_cache_anew(self, model):
        out = decode(model, PADDED, "rewire:steps=3,every=2,confident=1", 5)
        assert out.forwards == 5 + 3 * 3  # before the tokens 0, 2 and 4
        assert out.rows == 2 * (3 * 6 + 3 * 8 + 3 * 10) + 2 * (6 + 1 + 8 + 1 + 10)

    def test_an_exception_leaves_nothing(self, model):
        def fail():
            with rewiring(model, OPTIONS) as learner:
                learner.learn(IDS, MASK)
                raise RuntimeError("enough")

        with pytest.raises(RuntimeError, match="enough"):
            fail()

    def test_within_steering(self, model):
        with steer(model, "ban:layer=1,expert=3"), capture(model, Want(norms=False)) as recorder:
            decode(model, PADDED, "rewire:steps=2,lr=1,confident=1", 2)
        assert not any((f.routing[1].experts == 3).any() for f in recorder.take())

    def test_one_token_teaches_nothing(self, model):
        with pytest.raises(UsageError, match="one token"):
            learn_vectors(model, torch.tensor([[5]]))

    def test_routers_without_a_place_for_logits_are_refused(self):
        with pytest.raises(UsageError, match="logits was not found"):
            decode(tiny_model(family("doge")), PADDED, "rewire", 2)

    def test_every_experts_implementation_has_the_same_gradient(self):
        made = tiny_model(family("olmoe"))
        learned = []
        for name in ("grouped_mm", "batched_mm", "eager"):
            made.set_experts_implementation(name)
            with rewiring(made, {**OPTIONS, "optimizer": "sgd", "steps": 1}) as learner:
                learner.learn(IDS, MASK)
            learned.append(torch.stack([v.detach() for v in learner.vectors.values()]))
        for other in learned[1:]:
            torch.testing.assert_close(other, learned[0], atol=1e-6, rtol=1e-4)


class TestLogitVectors:
    def test_they_are_added_or_put_in_place(self, model):
        vector = [0.5, -1, 0, 2, 0, 0, 1, -3]
        with torch.no_grad(), capture(model, Want(norms=False)) as recorder:
            model(input_ids=IDS)
            for mode in ("add", "replace"):
                with steer(model, {"name": "logit_vectors", "vectors": {1: vector}, "layer": 1, "mode": mode}):
                    model(input_ids=IDS)
        plain, added, replaced = (f.routing[1] for f in recorder.take())
        scores = torch.from_numpy(plain.logits + np.float32(vector)).softmax(-1)
        assert torch.equal(scores.topk(2).indices, torch.from_numpy(added.experts))
        assert (np.sort(replaced.experts) == [3, 6]).all()

    @pytest.mark.parametrize(
        ("spec", "words"),
        [
            ({"vectors": {"1": [0.0] * 8}}, "no vector for it; say layers="),
            ({"vectors": {"1": [0.0] * 7}, "layer": 1}, "7 numbers, and there are 8 experts"),
            ({"vectors": {"9": [0.0] * 8}, "layer": 9}, "layer 9 has no router"),
            ({"layer": 1}, "which vectors"),
            ({"vectors": {"1": [float("nan")] * 8}, "layer": 1}, "finite"),
        ],
    )
    def test_mistakes_are_named(self, model, spec, words):
        with pytest.raises(UsageError, match=words), steer(model, {"name": "logit_vectors", **spec}):
            pass


@pytest.fixture(scope="module")
def right(model):
    """Examples whose targets are what the model says."""
    prompts = [torch.tensor([[5 + i, 9, 17 + i, 33]]) for i in range(6)]
    return [Example(tuple(p[0].tolist()), tuple(decode(model, p, "plain", 2).ids[0].tolist())) for p in prompts]


def c3po_options(known, **others):
    usual = {"references": known, "method": "kernel", "neighbors": 2, "layers": 2, "core": 8, "kernel": "gaussian"}
    return {**usual, "alpha": None, "steps": 5, "lr": 0.1, **others}


class TestC3PO:
    def test_only_what_is_answered_correctly_guides(self, model, right):
        wrong = Example(right[0].prompt, tuple((t + 1) % 128 for t in right[0].target))
        known = references(model, [wrong, *right])
        assert known.examples == tuple(right)
        assert known.asked == 7
        assert torch.allclose(known.embeddings.norm(dim=1), torch.ones(6))
        with pytest.raises(UsageError, match="none of the 1 reference"):
            references(model, [wrong])

    def test_the_pathway_becomes_the_neighbours(self, model, right):
        """One neighbour, α = 0, all experts: the last token's scores are those of the neighbour's last token."""
        known = references(model, right)
        prompt = torch.tensor([[5, 9, 18, 34]])
        with c3po(model, c3po_options(known, neighbors=1, alpha=0.0)) as learner:
            learner.learn(prompt, torch.ones_like(prompt))
            put = dict(learner._switch.put)
            near, kernel = learner._neighbours(learner._vectors, prompt, torch.ones_like(prompt))
        assert sorted(put) == [1, 2]
        assert kernel.tolist() == [[1.0]]
        for layer, z in put.items():
            torch.testing.assert_close(z.softmax(-1)[0], known.logits[layer][near[0, 0]].softmax(-1))

    def test_core_experts_alone_move(self, model, right):
        known, prompt = references(model, right), torch.tensor([[5, 9, 18, 34]])
        with c3po(model, c3po_options(known, alpha=0.0, core=3)) as learner:
            own = learner._look(prompt, torch.ones_like(prompt))
            learner.learn(prompt, torch.ones_like(prompt))
            for layer, z in learner._switch.put.items():
                moved = (z != own[layer])[0]
                assert set(moved.nonzero()[:, 0].tolist()) <= set(own[layer][0].topk(3).indices.tolist())
                assert moved.any()

    def test_a_prompt_is_not_its_own_neighbour(self, model, right):
        known, prompt = references(model, right), torch.tensor([right[2].prompt])
        with c3po(model, c3po_options(known)) as learner:
            with torch.no_grad():
                learner._look(prompt, torch.ones_like(prompt))
            near, kernel = learner._neighbours(learner._vectors, prompt, torch.ones_like(prompt))
        assert 2 not in near[0].tolist()
        assert float(kernel.sum()) == pytest.approx(1)

    def test_the_gradient_lowers_the_neighbours_loss(self, model, right):
        known = references(model, right)
        with c3po(model, c3po_options(known, method="gradient")) as learner, torch.no_grad():
            own = learner._look(IDS, MASK)
            near, kernel = learner._neighbours(learner._vectors, IDS, MASK)
            before = learner._loss(own, near, kernel)
            learner.learn(IDS, MASK)
            after = learner._loss(dict(learner._switch.put), near, kernel)
        assert (after < before).all()

    @pytest.mark.parametrize("others", [{"alpha": 1.0}, {"method": "gradient", "steps": 0}])
    def test_nothing_moved_is_plain(self, model, right, others):
        plain = decode(model, PADDED, "plain", 4, keep_scores=True)
        known = references(model, right)
        with c3po(model, c3po_options(known, **others)) as learner:
            learner.learn(IDS, MASK)
            out = decode(model, PADDED, "plain", 4, keep_scores=True)
        assert torch.equal(out.scores, plain.scores)

    @pytest.mark.parametrize("method", ["kernel", "gradient"])
    def test_the_cache_changes_nothing(self, model, right, method):
        plan = {"name": "c3po", "references": references(model, right), "method": method, "neighbors": 2}
        cached, anew = (decode(model, PADDED, plan, 4, use_cache=c, keep_scores=True) for c in (True, False))
        torch.testing.assert_close(cached.scores, anew.scores, atol=1e-4, rtol=1e-3)
        assert not torch.allclose(cached.scores, decode(model, PADDED, "plain", 4, keep_scores=True).scores)

    def test_embeddings_of_ones_own(self, model, right):
        """By the first token's distance: the neighbours are those with the nearest first token."""

        def embedder(ids, mask):
            first = ids.gather(1, mask.argmax(1, keepdim=True)).float()
            assert mask[:, -1].all()
            return torch.cat([torch.cos(first / 10), torch.sin(first / 10)], 1)

        known = references(model, right, embedder=embedder)
        assert known.embeddings.shape == (6, 2)
        prompt = torch.tensor([[0, 8, 50, 51]])
        with c3po(model, c3po_options(known)) as learner:
            learner._look(prompt, (prompt > 0).long())
            near, _ = learner._neighbours(learner._vectors, prompt, (prompt > 0).long())
        assert near[0, 0] == 3  # the reference that starts with 8


class TestTuning:
    def test_router_tuning_trains_the_routers_and_nothing_else(self, model):
        tuned = router_tuning(model, EXAMPLES, epochs=6, lr=0.05, batch_size=2)
        routers = {f"{found.module}.weight" for found in discover(model)}
        assert set(tuned.values) == routers
        assert np.mean(tuned.losses[-2:]) < np.mean(tuned.losses[:2])
        own = dict(model.named_parameters())
        assert all(not torch.equal(own[name], value) for name, value in tuned.values.items())

    def test_the_table_counts_what_the_tuned_model_chooses(self, model):
        tuned = router_tuning(model, EXAMPLES, epochs=6, lr=0.1, batch_size=2)
        tokens = sum(len(e.prompt) + len(e.target) for e in EXAMPLES)
        assert (tuned.table.groupby("layer")[["before", "after"]].sum() == 2 * tokens).all(axis=None)
        with tuned.applied(model):
            again = chosen_counts(model, EXAMPLES)
        for row in tuned.table.itertuples():
            assert again[row.layer][:, row.expert].sum() == row.after
        best = tuned.experts(2)
        for layer, some in tuned.table.groupby("layer"):
            assert set(best[layer]) == set(some.nlargest(2, "difference").expert)

    def test_low_rank_changes_are_of_low_rank(self, model):
        tuned = router_tuning(model, EXAMPLES, epochs=2, lr=0.05, rank=1)
        own = dict(model.named_parameters())
        for name, value in tuned.values.items():
            assert torch.linalg.matrix_rank(value - own[name], rtol=1e-3) == 1

    def test_zero_steps_change_nothing(self, model):
        tuned = router_tuning(model, EXAMPLES, epochs=0)
        own = dict(model.named_parameters())
        assert all(torch.equal(own[name], value) for name, value in tuned.values.items())
        assert (tuned.table.difference == 0).all()
        assert not tuned.table.gained.any()

    def test_expert_tuning_trains_the_named_experts_alone(self, model):
        tuned = expert_tuning(model, EXAMPLES, {1: [3, 5]}, epochs=4, lr=0.02)
        own, moved = dict(model.named_parameters()), set()
        for name, value in tuned.values.items():
            assert ".layers.1." in name
            changed = (own[name] != value).flatten(1).any(1).nonzero()[:, 0].tolist()
            moved |= set(changed)
        assert moved
        assert moved <= {3, 5}
        with tuned.applied(model):
            assert not torch.equal(dict(model.named_parameters())[name].detach(), own[name].detach()) or name

    def test_small_steps_are_not_lost_in_16_bits(self):
        made = tiny_model(family("olmoe"), "bfloat16")
        tuned = router_tuning(made, EXAMPLES, epochs=40, lr=2e-4, batch_size=3)
        own = dict(made.named_parameters())
        assert all(value.dtype == torch.bfloat16 for value in tuned.values.values())
        assert any(not torch.equal(own[name], value) for name, value in tuned.values.items())

    def test_a_seed_gives_the_same_training(self, model):
        first, again, other = (
            router_tuning(model, EXAMPLES, epochs=2, lr=0.05, batch_size=1, seed=s) for s in (1, 1, 2)
        )
        assert first.losses == again.losses
        assert first.losses != other.losses

    def test_an_exception_leaves_nothing(self, model):
        def stop(step, steps, loss):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            router_tuning(model, EXAMPLES, progress=stop)
        tuned = router_tuning(model, EXAMPLES, epochs=1)
        with pytest.raises(KeyboardInterrupt), tuned.applied(model):
            raise KeyboardInterrupt

    def test_it_stops_at_a_loss_that_is_none(self, model):
        with pytest.raises(ProbeError, match="smaller step size"):
            router_tuning(model, EXAMPLES, epochs=30, lr=1e38)

    # Softmax, sigmoid with a bias, groups, experts as modules, product keys: each keeps its parameters elsewhere.
    @pytest.mark.parametrize(
        "name", ["mixtral", "deepseek_v3", "gpt_oss", "dbrx", "jamba", "llama4", "gemma4", "phimoe"]
    )
    def test_other_families(self, name):
        made = tiny_model(family(name))
        before = {n: p.detach().clone() for n, p in made.named_parameters()}
        tuned = router_tuning(made, EXAMPLES, epochs=3, lr=0.05)
        assert tuned.losses[-1] < tuned.losses[0]
        assert all(torch.equal(before[n], p) and p.grad is None and p.requires_grad for n, p in made.named_parameters())

    def test_refusals(self, model):
        with pytest.raises(UsageError, match="layer 7 has no experts"):
            expert_tuning(model, EXAMPLES, {7: [0]})
        with pytest.raises(UsageError, match="experts 0 to 7"):
            expert_tuning(model, EXAMPLES, {1: [8]})
        with pytest.raises(ProbeError, match="not stored one by one"):
            expert_tuning(tiny_model(family("dbrx")), EXAMPLES, {1: [0]})
        with pytest.raises(UsageError, match="no examples"):
            router_tuning(model, [])
        with pytest.raises(UsageError, match="need the tokenizer"):
            router_tuning(model, [{"text": "12+70=", "target": "82"}])


class TestExamples:
    def test_targets_are_joined_as_written(self, tokenizer):
        first, second = read_examples(
            [{"text": "1+1=", "target": "2"}, {"text": "Answer:", "target": "fox"}], tokenizer, ""
        )
        assert tokenizer.decode(first.target) == "2"
        assert tokenizer.decode(second.target) == " fox"

    def test_batches_are_padded_on_the_left(self):
        batch = batch_of(EXAMPLES[:2], 0, "cpu")
        assert batch.ids.tolist() == [[5, 9, 17, 33, 7], [41, 7, 19, 23, 4]]
        assert batch.last.tolist() == [2, 1]
        assert batch.target.sum(1).tolist() == [2, 3]

    def test_gains_by_hand(self):
        before = {0: np.array([[2, 0], [2, 0]])}
        after = {0: np.array([[1, 1], [1, 1]])}
        table = gained(before, after)
        assert table.difference.tolist() == [0.5, -0.5]
        assert table.expert.tolist() == [1, 0]
        assert table.gained.tolist() == [True, False]
        assert table.low.tolist() == table.high.tolist() == [0.5, -0.5]


def test_rewiring_lowers_the_loss_on_the_sample_model():
    made, tokenizer = probes.load_model("sample_data/model")
    prompts = read_prompts("sample_data/tasks/context_text.jsonl", limit=8).good
    batch = batch_of([Example(tuple(tokenizer(p.text).input_ids), ()) for p in prompts], 0, "cpu")
    before = loss_of(made, batch.ids, batch.mask)
    with rewiring(made, {**OPTIONS, "steps": 6}) as learner:
        learner.learn(batch.ids, batch.mask)
        after = loss_of(made, batch.ids, batch.mask)
    assert after.mean() < before.mean() - 0.01
    assert (after < before).float().mean() > 0.7
    assert torch.equal(loss_of(made, batch.ids, batch.mask), before)
