"""Which row is which token: positions, padding and phase of a pass."""

import numpy as np
import pytest
import torch
from models import TOKENS, build, ids_of, record, rows, same_routing

from probes.capture import Want, capture
from probes.capture.forward import locate


@pytest.mark.parametrize(
    ("mask", "ids", "past", "expected", "phase"),
    [
        (None, None, 0, [[0, 1, 2], [0, 1, 2]], "prefill"),
        (None, None, 5, [[5, 6, 7], [5, 6, 7]], "prefill"),
        ([[0, 1, 1], [1, 1, 1]], None, 0, [[-1, 0, 1], [0, 1, 2]], "prefill"),
        ([[1, 1, 0], [1, 1, 1]], None, 0, [[0, 1, -1], [0, 1, 2]], "prefill"),
        ([[0, 1, 1], [1, 1, 1]], [[0, 1, 2], [0, 1, 2]], 0, [[-1, 0, 1], [0, 1, 2]], "prefill"),
        ([[1, 1, 1], [1, 1, 1]], [[0, 1, 0], [0, 0, 1]], 0, [[0, 1, 0], [0, 0, 1]], "prefill"),
        ([[0, 1, 1, 1, 1], [1, 1, 1, 1, 1]], None, 2, [[1, 2, 3], [2, 3, 4]], "prefill"),
        ([[1, 1, 1], [1, 1, 1]], None, 4, [[4, 5, 6], [4, 5, 6]], "prefill"),
    ],
    ids=["plain", "chunk", "left", "right", "mask beats ids", "packed", "chunk after left", "mask of the chunk alone"],
)
def test_positions_of_several_tokens(mask, ids, past, expected, phase):
    mask, ids = (None if v is None else np.array(v) for v in (mask, ids))
    real, position, found = locate(2, 3, mask, ids, past)
    assert position.tolist() == expected
    assert np.array_equal(real, position >= 0)
    assert found == phase


def test_a_single_token_after_others_is_decoding_and_alone_is_prefill():
    assert locate(1, 1, np.ones((1, 4)), None, 3)[2] == "decode"
    assert locate(1, 1, np.ones((1, 4)), None, 0)[1].tolist() == [[3]]
    assert locate(1, 1, None, None, 0)[2] == "prefill"


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_does_not_change_routing(side):
    model = build("qwen3_moe")
    texts = [TOKENS[:9], TOKENS[20:25], TOKENS[40:41]]
    padded, mask = [], []
    for text in texts:
        gap = [0] * (9 - len(text))
        padded.append(gap + text if side == "left" else text + gap)
        mask.append([0] * len(gap) + [1] * len(text) if side == "left" else [1] * len(text) + [0] * len(gap))
    mask = torch.tensor(mask)
    # Position ids as generation makes them; without them a left-padded model would rotate by the wrong angle.
    position_ids = (mask.cumsum(-1) - 1).clamp(min=0)
    (together,), _ = record(model, input_ids=ids_of(*padded), attention_mask=mask, position_ids=position_ids)
    for sequence, text in enumerate(texts):
        (alone,), _ = record(model, input_ids=ids_of(text))
        assert together.position[sequence][together.mask[sequence]].tolist() == list(range(len(text)))
        for layer in together.routing:
            same_routing(rows(together, layer, sequence), rows(alone, layer, 0))


@pytest.mark.parametrize("name", ["olmoe", "deepseek_v3", "qwen3_next"])
def test_decoding_with_a_cache_routes_like_one_full_pass(name):
    model = build(name)
    prompt, mask = ids_of([0, 0, *TOKENS[:4]], TOKENS[10:16]), torch.tensor([[0, 0, 1, 1, 1, 1], [1] * 6])
    with torch.no_grad(), capture(model, Want()) as recorder:
        produced = model.generate(
            input_ids=prompt, attention_mask=mask, max_new_tokens=4, min_new_tokens=4, do_sample=False
        )
        steps = recorder.take()
    assert [f.phase for f in steps] == ["prefill", "decode", "decode", "decode"]
    assert [f.position.tolist() for f in steps[1:]] == [[[4], [6]], [[5], [7]], [[6], [8]]]
    fed = produced[:, :-1]
    mask = torch.cat([mask, torch.ones(2, 3, dtype=torch.long)], dim=1)
    (full,), _ = record(model, input_ids=fed, attention_mask=mask, position_ids=(mask.cumsum(-1) - 1).clamp(min=0))
    for layer in full.routing:
        for sequence in (0, 1):
            parts = [rows(f, layer, sequence) for f in steps]
            joined = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
            same_routing(joined, rows(full, layer, sequence), atol=1e-4)


def test_a_prefill_in_chunks_goes_on_from_the_cache():
    model = build("mixtral")
    with torch.no_grad(), capture(model, Want(norms=False)) as recorder:
        cache = model(input_ids=ids_of(TOKENS[:5]), use_cache=True).past_key_values
        model(input_ids=ids_of(TOKENS[5:8]), past_key_values=cache)
        model(input_ids=ids_of(TOKENS[8:9]), past_key_values=cache)
        forwards = recorder.take()
    assert [f.position[0].tolist() for f in forwards] == [[0, 1, 2, 3, 4], [5, 6, 7], [8]]
    assert [f.phase for f in forwards] == ["prefill", "prefill", "decode"]


def test_embeddings_instead_of_ids():
    model = build("olmoe")
    ids = ids_of(TOKENS[:5])
    (by_id,), _ = record(model, input_ids=ids)
    (by_vector,), _ = record(model, inputs_embeds=model.get_input_embeddings()(ids).detach())
    for layer in by_id.routing:
        same_routing(rows(by_id, layer, 0), rows(by_vector, layer, 0))
