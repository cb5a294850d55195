"""Padding, in every form in which a model may be told of it: recorded as padding, counted in no moment."""

import numpy as np
import pytest
import torch
from models import TOKENS, build
from seen import received, same

import probes
from probes.capture import Want, capture
from probes.capture.masks import padding_mask
from probes.errors import ProbeError

LENGTHS = (2, 6, 1)
WIDTH = max(LENGTHS)
WANT = Want(norms=False, moments=True)
pytestmark = pytest.mark.filterwarnings("ignore")


def batch(side):
    """(ids [B, S], mask [B, S]) of texts of different lengths."""
    gaps = [(0, WIDTH - n) if side == "right" else (WIDTH - n, 0) for n in LENGTHS]
    ids = [[0] * before + TOKENS[:n] + [0] * after for (before, after), n in zip(gaps, LENGTHS, strict=True)]
    mask = [[0] * before + [1] * n + [0] * after for (before, after), n in zip(gaps, LENGTHS, strict=True)]
    return torch.tensor(ids), torch.tensor(mask)


def pattern(mask, kind):
    """[B, 1, S, S], made by hand: a query sees the tokens up to its own."""
    seen = torch.ones(WIDTH, WIDTH).tril().bool()[None, None] & mask[:, None, None, :].bool()
    if kind == "bool":
        return seen
    return torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)


def per_kind(mask):
    """As models with several kinds of attention hand it to their text part."""
    return {kind: pattern(mask, "additive") for kind in ("sliding_attention", "full_attention")}


def right(mask):
    """The positions as they are."""
    return [[int(p) if real else -1 for p, real in zip(row.cumsum(0) - 1, row, strict=True)] for row in mask]


def check(forward, recorder, mask, ids=None):
    assert forward.mask.tolist() == mask.bool().tolist()
    assert forward.position.tolist() == right(mask)
    assert int(recorder.moments[0][0].sum()) == int(mask.sum()) * 2


GIVEN = {
    "2-D by name": lambda model, ids, mask: model(input_ids=ids, attention_mask=mask),
    "2-D by position": lambda model, ids, mask: model(ids, mask),
    "2-D to the text model, by position": lambda model, ids, mask: model.model(ids, mask),
    "2-D bool": lambda model, ids, mask: model(ids, mask.bool()),
    "embeddings": lambda model, ids, mask: model(inputs_embeds=model.model.embed_tokens(ids), attention_mask=mask),
    "4-D bool": lambda model, ids, mask: model(ids, pattern(mask, "bool")),
    "4-D additive": lambda model, ids, mask: model(ids, pattern(mask, "additive")),
    "one per kind of attention": lambda model, ids, mask: model(ids, per_kind(mask)),
    "one per kind, to the text model": lambda model, ids, mask: model.model(ids, per_kind(mask)),
}


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("given", GIVEN)
@torch.no_grad()
def test_padding_is_found_in_a_mask_of_any_form(given, side):
    model, (ids, mask) = build("gpt_oss" if "one per kind" in given else "mixtral"), batch(side)
    with received(model) as calls, capture(model, WANT) as recorder:
        GIVEN[given](model, ids, mask)
        (forward,) = recorder.take()
    same([forward], calls)
    check(forward, recorder, mask)


@pytest.mark.parametrize("cache", ["dynamic", "static"])
@pytest.mark.parametrize(
    ("name", "attention"),
    [("qwen3_moe", "sdpa"), ("qwen3_moe", "eager"), ("deepseek_v3", "sdpa"), ("gpt_oss", "eager"), ("mixtral", "sdpa")],
)
@torch.no_grad()
def test_generation_with_every_cache_and_attention(name, cache, attention):
    """With a static cache the model is handed 4-D patterns, wider than the text; gpt_oss has a dict of them."""
    model, (ids, mask) = build(name), batch("left")
    model.set_attn_implementation(attention)
    with received(model) as calls, capture(model, WANT) as recorder:
        model.generate(
            ids, attention_mask=mask, max_new_tokens=3, min_new_tokens=3, do_sample=False, pad_token_id=0,
            cache_implementation=cache, disable_compile=True,
        )  # fmt: skip
        first, *later = recorder.take()
    same([first, *later], calls)
    assert first.mask.tolist() == mask.bool().tolist()
    assert first.position.tolist() == right(mask)
    assert [f.position[:, 0].tolist() for f in later] == [[n + step for n in LENGTHS] for step in (0, 1)]
    assert all(f.mask.all() for f in later)
    layer = min(recorder.moments)
    assert (
        int(recorder.moments[layer][0].sum())
        == (sum(LENGTHS) + 2 * len(LENGTHS)) * first.routing[layer].experts.shape[1]
    )


@torch.no_grad()
def test_padding_that_generate_finds_itself():
    """No mask is given; transformers makes one of the padding tokens, and only the 4-D pattern tells of it."""
    model, (ids, mask) = build("qwen3_moe"), batch("left")
    model.generation_config.pad_token_id, model.generation_config.eos_token_id = 0, 1
    with capture(model, WANT) as recorder:
        model.generate(ids, max_new_tokens=2, min_new_tokens=2, do_sample=False, cache_implementation="static",
                       disable_compile=True)  # fmt: skip
        first, then = recorder.take()
    assert first.mask.tolist() == mask.bool().tolist()
    assert then.position[:, 0].tolist() == list(LENGTHS)


@torch.no_grad()
def test_packed_texts_go_on_being_told_by_their_positions():
    model = build("mixtral")
    ids, positions = torch.tensor([TOKENS[:6]]), torch.tensor([[0, 1, 2, 0, 1, 2]])
    block = torch.block_diag(torch.ones(3, 3), torch.ones(3, 3)).tril().bool()[None, None]
    with capture(model, WANT) as recorder:
        model(ids, block, positions)
        (forward,) = recorder.take()
    assert forward.mask.all()
    assert forward.position.tolist() == positions.tolist()


@torch.no_grad()
def test_a_scope_of_positions_goes_by_the_pattern():
    model, (ids, mask) = build("mixtral"), batch("left")
    model(ids, pattern(mask, "bool"))
    with probes.steer(model, ["force:layer=0,expert=5,positions=1-2"]), received(model) as calls:
        model(ids, pattern(mask, "additive"))
        model(ids, mask)
    inside = np.isin(np.array(right(mask)).ravel(), (1, 2))
    for ids_, _ in calls[0]:
        assert (ids_ == 5).any(1)[inside].all()
        assert not (ids_ == 5).any(1)[~inside & mask.bool().numpy().ravel()].all()


class TestByHand:
    """`padding_mask` on small masks whose answer is plain to see."""

    @staticmethod
    def read(mask, batch=1, length=2, past=0, told=None):
        from probes.capture.inputs import Level

        generating = [] if told is None else [Level(None, {"attention_mask": told}, True)]
        found = padding_mask([Level(None, {"attention_mask": mask})], generating, batch, length, past)
        return None if found is None else found.int().tolist()

    def test_keys_of_the_cache_are_real_if_somebody_looks_at_them(self):
        seen = torch.tensor([[[[0, 1, 1, 0, 0], [0, 1, 1, 1, 0]]]], dtype=torch.bool)
        assert self.read(seen, past=2) == [[0, 1, 1, 1]]

    def test_a_mask_for_all_sequences(self):
        seen = torch.tensor([[[[1, 0], [1, 1]]]], dtype=torch.bool)
        assert self.read(seen, batch=2) == [[1, 1], [1, 1]]

    def test_heads_that_look_at_different_keys(self):
        heads = torch.tensor([[[[1, 0], [0, 1]], [[1, 0], [1, 0]]]], dtype=torch.bool)
        assert self.read(heads) == [[1, 1]]

    def test_penalties_for_distance_are_not_masks(self):
        low = torch.finfo(torch.float32).min
        assert self.read(torch.tensor([[[[0.0, low, low], [-3.0, 0.0, low], [-6.0, -3.0, 0.0]]]]), length=3) == [
            [1, 1, 1]
        ]

    def test_a_sliding_window_knows_its_last_keys(self):
        seen = torch.tensor([[[[0, 1, 1]]]], dtype=torch.bool)
        assert self.read(seen, length=1, past=4) == [[1, 1, 0, 1, 1]]
        assert self.read(seen, length=1, past=4, told=torch.tensor([[0, 0, 1]])) == [[0, 0, 1, 1, 1]]

    def test_no_mask_and_an_empty_one(self):
        assert self.read(None) is None
        assert self.read({"full_attention": None, "sliding_attention": None}) is None

    def test_a_kind_that_cannot_be_read_is_refused_unless_generate_was_told(self):
        with pytest.raises(ProbeError, match=r"the attention mask is a object, .* give a mask \[batch, tokens\]"):
            self.read(object())
        assert self.read(object(), told=torch.tensor([[0, 1]])) == [[0, 1]]
