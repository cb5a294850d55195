"""Whatever is entered first, and left first: the same routing."""

import itertools
from contextlib import ExitStack

import numpy as np
import pytest
import torch
from models import TOKENS, build, ids_of
from seen import received, same, sets

import probes
from probes.capture import Want, capture, self_test
from probes.capture.predictions import Predictions

IDS = ids_of(TOKENS[:7], TOKENS[20:27])
WANT = Want(moments=True)
SPECS = ["top_p:p=0.4", "force:layer=1,expert=5", "capacity:gamma=0.5"]
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def model():
    return build("olmoe")


@torch.no_grad()
def recorded(model, order, leaving=None):
    """(each recorder's passes and moments, each Predictions', calls, logits) of one pass, entered in this order."""
    with ExitStack() as stack:
        entered = []
        for what in order:
            context = {
                "capture": lambda: capture(model, WANT),
                "predictions": lambda: Predictions(model),
            }.get(what, lambda what=what: probes.steer(model, [what]))()
            entered.append((what, stack.enter_context(context)))
        calls = stack.enter_context(received(model))
        logits = model(IDS).logits
        recorders = [one for what, one in entered if what == "capture"]
        return (
            [(one.take(), one.moments) for one in recorders],
            [one.take() for what, one in entered if what == "predictions"],
            {layer: list(some) for layer, some in calls.items()},
            logits,
        )


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize(
    "order",
    [
        ("capture", "steer"),
        ("steer", "capture"),
        ("capture", "steer", "capture"),
        ("capture", "predictions", "steer"),
        ("predictions", "steer", "capture"),
        ("steer", "predictions", "capture", "capture"),
    ],
    ids="-".join,
)
def test_one_intervention(model, order, spec):
    """The first use of a model in a process: its self-test, and what steering learns, fall inside the outer block."""
    order = [spec if what == "steer" else what for what in order]
    recorders, predictions, calls, logits = recorded(model, order)
    assert len(recorders) == order.count("capture")
    for forwards, moments in recorders:
        same(forwards, calls, dropped=spec != "force:layer=1,expert=5")
        assert len(forwards) == 1
        slots = sum((forwards[0].routing[layer].experts >= 0).sum() for layer in calls)
        assert sum(int(count.sum()) for count, _, _ in moments.values()) == slots
    expected = logits.log_softmax(-1)[:, :-1].gather(-1, IDS[:, 1:, None])[..., 0]
    for (forward,) in predictions:
        torch.testing.assert_close(forward.logprob[:, 1:], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("order", list(itertools.permutations(["capture", *SPECS[:2]])), ids="-".join)
def test_several_interventions_around_and_inside(model, order):
    """Edits act in the order in which they were entered; where the capture stands makes no difference."""
    (((forwards, _),), _, calls, _) = recorded(model, order)
    same(forwards, calls, dropped=True)
    (((alone, _),), _, _, _) = recorded(build("olmoe"), [*(o for o in order if o != "capture"), "capture"])
    for layer, routing in forwards[0].routing.items():
        assert np.array_equal(routing.experts, alone[0].routing[layer].experts)
        np.testing.assert_allclose(routing.output_norm, alone[0].routing[layer].output_norm, rtol=1e-5)


@torch.no_grad()
def test_no_pass_is_recorded_that_the_user_did_not_make(model):
    with capture(model, WANT) as recorder:
        with probes.steer(model, ["top_p:p=0.4"]), probes.steer(model, ["ban:layer=0,expert=1"]):
            pass
        self_test(model, again=True)
        assert recorder.take() == []
        assert recorder.moments == {}
        model(IDS)
        assert [f.length for f in recorder.take()] == [7]


@torch.no_grad()
def test_the_self_test_is_of_the_plain_model():
    """Inside of a steering that was entered before the model's experts were switched to another implementation."""
    model, plain = build("olmoe"), build("olmoe")
    plain.set_experts_implementation("eager")
    expected = [r.as_dict() for r in self_test(plain).layers]
    with probes.steer(model, ["top_k:k=1"]):
        model.set_experts_implementation("eager")
        with capture(model) as recorder:
            assert [r.as_dict() for r in recorder.report.layers] == expected
            assert {router.top_k for router in recorder.routers} == {2}


@torch.no_grad()
def test_what_is_entered_within_ends_with_it(model):
    """steer, steer, capture: left one by one in any order, the ones that are left go on."""
    first, second = "force:layer=0,expert=5", "force:layer=1,expert=6"
    for leave in itertools.permutations(range(3)):
        stacks = [ExitStack() for _ in range(3)]
        stacks[0].enter_context(probes.steer(model, [first]))
        recorder = stacks[1].enter_context(capture(model, Want(norms=False)))
        stacks[2].enter_context(probes.steer(model, [second]))
        there = {0, 1, 2}
        with received(model) as calls:
            for gone in (None, *leave):
                if gone is not None:
                    stacks[gone].close()
                    there.discard(gone)
                for some in calls.values():
                    some.clear()
                model(IDS)
                forced = [all(5 in one for one in sets(calls[0][0][0])), all(6 in one for one in sets(calls[1][0][0]))]
                assert forced == [0 in there, 2 in there]
                if 1 in there:
                    same(recorder.take(), calls)
        assert sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()) == 0


@torch.no_grad()
def test_random_numbers_go_on_where_they_were(model):
    """An inner steering comes and goes; the outer one's draws are those it would have made without it."""

    def choices(inner):
        with capture(model, Want(norms=False)) as recorder, probes.steer(model, ["random:seed=3"]):
            model(IDS)
            with ExitStack() as stack:
                if inner:
                    stack.enter_context(probes.steer(model, ["ban:layer=0,expert=1"]))
            model(IDS)
            return [f.routing[0].experts.tolist() for f in recorder.take()]

    assert choices(True) == choices(False)


@torch.no_grad()
def test_two_recordings_at_once_are_those_of_each_alone(model):
    wants = (Want(moments=True, outputs=True), Want(every_norm=True), Want(norms=False, layers=(1,)))
    alone = []
    for want in wants:
        with capture(model, want) as recorder:
            model(IDS)
            alone.append(recorder.take()[0])
    with ExitStack() as stack:
        recorders = [stack.enter_context(capture(model, want)) for want in wants]
        logits = model(IDS).logits
        together = [recorder.take()[0] for recorder in recorders]
    assert torch.equal(logits, model(IDS).logits)
    for one, other in zip(alone, together, strict=True):
        assert one.routing.keys() == other.routing.keys()
        for layer, routing in one.routing.items():
            assert np.array_equal(routing.experts, other.routing[layer].experts)
            if routing.output_norm is not None:
                assert np.array_equal(routing.output_norm, other.routing[layer].output_norm)


def test_helpers_inside_of_a_capture(model, tokenizer, olmoe, tmp_path):
    """An evaluation under interventions, and a recording, inside of a capture: all their passes are seen, no other."""
    from probes.generation import Decoding, generate

    tasks = tmp_path / "t.jsonl"
    tasks.write_text('{"text": "12+34=", "target": "46"}\n')
    prompts = tmp_path / "p.txt"
    prompts.write_text("the quick brown fox")
    with capture(olmoe, Want(norms=False)) as recorder, received(olmoe) as calls:
        probes.evaluate(
            olmoe, [tasks], ["ban:layer=1,expert=3"], tokenizer=tokenizer, control_seeds=1, max_new_tokens=2
        )
        probes.record(olmoe, prompts, tmp_path / "t.duckdb", tokenizer=tokenizer, progress=False)
        with probes.steer(olmoe, ["top_p:p=0.4"]):
            generate(olmoe, tokenizer, [[5, 6, 7]], Decoding(2))
        forwards = recorder.take()
    tokens = [forward.length * forward.batch for forward in forwards]
    assert 8 not in tokens
    # What steering (8 tokens) and predictions (2) learn of a model runs once, by itself: only torch's hooks see it.
    own = [n for n, (ids, _) in enumerate(calls[0]) if len(ids) in (2, 8)]
    seen = {layer: [one for n, one in enumerate(some) if n not in own] for layer, some in calls.items()}
    same(forwards, seen, dropped=True)
