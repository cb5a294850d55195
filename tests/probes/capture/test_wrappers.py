"""Wrappers around a model: whichever way it is called, every pass is recorded and steered."""

import pytest
import torch
from models import TOKENS, build, ids_of
from seen import received, same
from torch import nn

import probes
from probes.capture import Want, capture, discover, lock_of, self_test
from probes.capture.within import core_of, language_model
from probes.errors import ProbeError

IDS = ids_of(TOKENS[:5], TOKENS[9:14])
NEW = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False}
pytestmark = pytest.mark.filterwarnings("ignore")  # adapters have much to say about tiny models


class ValueHead(nn.Module):
    """As trl's: the logits, no loss, a value per token; `generate` is the inner model's."""

    def __init__(self, model):
        super().__init__()
        self.pretrained_model = model
        self.v_head = nn.Linear(32, 1)

    def forward(self, input_ids=None, attention_mask=None, **kwargs):
        output = self.pretrained_model(input_ids=input_ids, attention_mask=attention_mask, **kwargs)
        return output.logits, None, output.logits[..., 0]

    def generate(self, *args, **kwargs):
        return self.pretrained_model.generate(*args, **kwargs)


class Passing(nn.Module):
    """As DistributedDataParallel: no config, no device, no generate."""

    def __init__(self, model):
        super().__init__()
        self.module = model

    def forward(self, *inputs, **kwargs):
        return self.module(*inputs, **kwargs)


class Bypassing(nn.Module):
    """Calls `forward` itself, past the hooks of the module it wraps."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, ids):
        return self.model.forward(ids)


class Plain:
    """No torch module: a class of somebody's own."""

    def __init__(self, model):
        self.inner = model

    def __call__(self, ids):
        return self.inner(ids)

    def generate(self, ids, **kwargs):
        return self.inner.generate(ids, **kwargs)


class Nested:
    """The model lies two objects and a list deep."""

    __slots__ = ("parts",)

    def __init__(self, model):
        self.parts = {"policy": [Plain(model)]}

    def __call__(self, ids):
        return self.parts["policy"][0](ids)


def lora(model, **settings):
    from peft import LoraConfig, get_peft_model

    return get_peft_model(model, LoraConfig(r=4, **{"target_modules": ["q_proj"], **settings})).eval()


WRAPPERS = {
    "none": lambda model: model,
    "lora": lora,
    "value head": ValueHead,
    "value head around lora": lambda model: ValueHead(lora(model)),
    "ddp": Passing,
    "bypassing": Bypassing,
    "plain object": Plain,
    "nested objects": lambda model: Nested(model),
    "object around ddp around lora": lambda model: Plain(Passing(lora(model))),
}
CALLS = {
    "call": lambda wrapper, model: wrapper(IDS),
    "generate": lambda wrapper, model: wrapper.generate(IDS, **NEW),
    "generate by name": lambda wrapper, model: wrapper.generate(input_ids=IDS, **NEW),
    "inner model": lambda wrapper, model: model(IDS),
    "inner generate": lambda wrapper, model: model.generate(IDS, **NEW),
    "text model": lambda wrapper, model: model.model(IDS),
    "text model, embeddings": lambda wrapper, model: model.model(inputs_embeds=model.model.embed_tokens(IDS)),
    "text model, forward": lambda wrapper, model: model.forward(IDS),
}


def possible(wrapper, call):
    generates = "generate" in call and "inner" not in call
    by_position = call == "generate" and "lora" in type(wrapper).__module__
    return not (generates and (by_position or not hasattr(wrapper, "generate") or isinstance(wrapper, (Plain, Nested))))


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("wrapper", WRAPPERS)
@torch.no_grad()
def test_every_pass_is_recorded_however_it_is_called(wrapper, call):
    model = build("qwen3_moe")
    wrapped = WRAPPERS[wrapper](model)
    if not possible(wrapped, call):
        pytest.skip("this wrapper cannot be called so")
    with received(model) as calls, capture(wrapped, Want(norms=False)) as recorder:
        CALLS[call](wrapped, model)
        forwards = recorder.take()
    same(forwards, calls)
    assert len(forwards) == (3 if "generate" in call else 1)
    assert [f.mask.shape for f in forwards] == [(2, 5), (2, 1), (2, 1)][: len(forwards)]
    assert [f.position[0, 0] for f in forwards] == [0, 5, 6][: len(forwards)]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("wrapper", WRAPPERS)
@torch.no_grad()
def test_every_pass_is_steered_however_it_is_called(wrapper, call):
    model = build("qwen3_moe")
    wrapped = WRAPPERS[wrapper](model)
    if not possible(wrapped, call):
        pytest.skip("this wrapper cannot be called so")
    with received(model) as calls, probes.steer(wrapped, ["force:layer=1,expert=3"]) as steering:
        CALLS[call](wrapped, model)
    assert all((ids == 3).any(1).all() for ids, _ in calls[1])
    assert calls[1]
    assert steering.ran
    assert steering.acted


def test_what_is_kept_per_model_is_the_same_for_every_wrapper():
    model = build("qwen3_moe")
    outer = Plain(Passing(lora(model)))
    assert core_of(outer) is core_of(model) is model.model
    assert language_model(outer) is model
    assert lock_of(outer) is lock_of(model) is lock_of(model.model)
    assert [m.module for m in discover(outer)] == [m.module for m in discover(model)]
    assert self_test(outer) is self_test(model)


def test_steering_of_the_inside_is_seen_from_the_outside():
    from probes.steering import active

    model = build("qwen3_moe")
    wrapper = ValueHead(model)
    with probes.steer(model, ["top_p:p=0.3"]), received(model) as calls, capture(wrapper, Want()) as recorder:
        assert active(wrapper) is active(model.model) is not None
        with torch.no_grad():
            wrapper(IDS)
        same(recorder.take(), calls, dropped=True)


def test_nothing_of_ours_stays_on_a_wrapper():
    model = build("qwen3_moe")
    wrapper = ValueHead(lora(model))
    before = {id(m): set(vars(m)) for m in wrapper.modules()}
    with capture(wrapper, Want()), probes.steer(wrapper, ["ban:layer=1,expert=3"]):
        wrapper.generate(input_ids=IDS, **NEW)
    assert sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in wrapper.modules()) == 0
    assert {id(m): set(vars(m)) - {"generation_config"} for m in wrapper.modules()} == {
        key: names - {"generation_config"} for key, names in before.items()
    }


class TestRefused:
    def test_two_models_in_one_wrapper(self):
        both = nn.ModuleDict({"policy": build("qwen3_moe"), "reference": build("qwen3_moe")}).eval()
        with pytest.raises(ProbeError, match=r"two routers in layer 0 .*give the one model"), capture(both):
            pass
        pair = Plain(build("qwen3_moe"))
        pair.other = build("qwen3_moe")
        with pytest.raises(ProbeError, match="holds several models"), capture(pair):
            pass

    def test_an_object_without_a_model(self):
        with pytest.raises(ProbeError, match="is not a model"), capture(object()):
            pass

    def test_a_compiled_wrapper(self):
        model = build("qwen3_moe")
        self_test(model)
        with pytest.raises(ProbeError, match="compiled"), capture(Plain(torch.compile(model))):
            pass

    @torch.no_grad()
    def test_routers_that_run_outside_of_any_pass(self):
        """Somebody runs the decoder layers in a loop of their own."""
        model = build("qwen3_moe")
        hidden = model.model.embed_tokens(IDS)
        with pytest.raises(ProbeError, match=r"routers ran .* nothing was recorded"), capture(model):
            model.model.layers[0].mlp(hidden)
        words = r"ban.*outside of any pass.*nothing was steered"
        with pytest.raises(ProbeError, match=words), probes.steer(model, ["ban:layer=0,expert=1"]):
            model.model.layers[0].mlp(hidden)

    @torch.no_grad()
    def test_an_intervention_whose_layer_never_ran(self):
        model = build("qwen3_moe")

        def past_the_layer():
            with probes.steer(model, ["ban:layer=1,expert=1"]):
                model.model.layers[1].mlp.forward = lambda hidden: hidden
                model(IDS)

        with pytest.raises(ProbeError, match=r"ban.*nothing was steered"):
            past_the_layer()

    def test_another_error_is_not_hidden(self):
        model = build("qwen3_moe")

        def outside():
            model.model.layers[0].mlp(model.model.embed_tokens(IDS))
            raise KeyError

        with pytest.raises(KeyError), capture(model):
            outside()

    @torch.no_grad()
    def test_out_of_scope_is_no_error_and_is_said(self):
        model = build("qwen3_moe")
        with probes.steer(model, ["ban:layer=1,expert=1,phase=decode"]) as steering:
            model(IDS)
        assert steering.ran
        assert steering.acted is False
        with probes.steer(model, ["ban:layer=1,expert=1,positions=2-3"]) as steering:
            model(IDS)
        assert steering.acted is True
        with probes.steer(model, ["ban:layer=1,expert=1,positions=90-93"]) as steering:
            model(IDS)
        assert steering.acted is False

    def test_another_thread_is_told_of(self, caplog):
        from threading import Thread

        model = build("qwen3_moe")
        with probes.steer(model, ["ban:layer=1,expert=1"]), capture(model):
            thread = Thread(target=lambda: model(IDS))
            thread.start()
            thread.join()
        assert [r.message for r in caplog.records] == [
            "1 passes ran in another thread and were not recorded; only the thread that entered capture is",
            "ban: 1 passes ran in another thread and were not steered; only the thread that entered steer is",
        ]

    @pytest.mark.parametrize("name", ["generate_batch", "init_continuous_batching"])
    def test_continuous_batching(self, name):
        model = build("qwen3_moe")
        with pytest.raises(ProbeError, match=f"{name} packs sequences"), capture(model):
            getattr(model, name)([TOKENS[:4]])
        words, wrapped = "neither recorded nor steered", lora(model)
        with pytest.raises(ProbeError, match=words), probes.steer(model, ["ban:layer=1,expert=1"]):
            getattr(wrapped, name)([TOKENS[:4]])
        assert name not in vars(model)
