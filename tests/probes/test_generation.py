"""Writing and reading text in batches: the same as alone, as transformers' `generate`, as a plain forward pass."""

from itertools import pairwise

import numpy as np
import pytest
import torch

import probes
from probes.errors import UsageError
from probes.generation import Decoding, cut, distributions, generate, kl
from probes.sample import sample_path

SUMS = ["12+70=", "719+595=", "9+4"]


@pytest.fixture(scope="module")
def sample():
    model, tokenizer = probes.load_model(sample_path() / "model", dtype="float32")
    return model, tokenizer


def ids_of(tokenizer, texts=SUMS, special=True):
    return [tokenizer(text, add_special_tokens=special)["input_ids"] for text in texts]


def test_text_ends_before_the_first_stop(sample):
    model, tokenizer = sample
    first, second, _ = generate(model, tokenizer, ids_of(tokenizer), Decoding(64, ("\n",)))
    assert first.text == "<think>2+0=2 carry 0; 1+7+0=8</think>82"
    assert second.text.endswith("</think>1314")
    assert first.finished
    assert tokenizer.decode(first.ids) == first.text + "\n"
    assert first.length == len(first.ids) - 1


def test_several_stops_cut_at_the_first(sample):
    model, tokenizer = sample
    (written,) = generate(model, tokenizer, ids_of(tokenizer, SUMS[:1]), Decoding(64, (";", "carry")))
    assert written.text == "<think>2+0=2 "
    assert cut("a;b", (";", "b")) == "a"


def test_what_does_not_end_is_said_to(sample):
    model, tokenizer = sample
    (written,) = generate(model, tokenizer, ids_of(tokenizer, SUMS[:1]), Decoding(5, ("\n",)))
    assert not written.finished
    assert written.length == len(written.ids) == 5


def test_a_batch_writes_what_each_would_alone(sample):
    model, tokenizer = sample
    ids = ids_of(tokenizer)
    together = generate(model, tokenizer, ids, Decoding(24))
    for prompt, written in zip(ids, together, strict=True):
        (alone,) = generate(model, tokenizer, [prompt], Decoding(24))
        assert alone.ids.tolist() == written.ids.tolist()
    plain = model.generate(torch.tensor([ids[0]]), max_new_tokens=24, do_sample=False)
    assert plain[0, len(ids[0]) :].tolist() == together[0].ids.tolist()


def test_sampling_is_seeded_and_leaves_the_global_generator_alone(sample):
    model, tokenizer = sample
    ids = ids_of(tokenizer)
    state = torch.random.get_rng_state()
    draws = [generate(model, tokenizer, ids, Decoding(12, sample=True, temperature=3, seed=s)) for s in (1, 1, 2)]
    assert torch.equal(state, torch.random.get_rng_state())
    first, same, other = ([d.ids.tolist() for d in some] for some in draws)
    assert first == same != other


def test_steps_are_told(sample):
    model, tokenizer = sample
    told = []
    (written,) = generate(model, tokenizer, ids_of(tokenizer, SUMS[:1]), Decoding(64, ("\n",)), told.append)
    assert len(told) == len(written.ids)
    assert told[-1] == [written.text]
    assert all(later[0].startswith(earlier[0]) for earlier, later in pairwise(told))


@pytest.mark.parametrize("stepwise", [False, True])
def test_distributions_are_those_of_a_plain_pass(sample, stepwise):
    model, tokenizer = sample
    prompts, targets = ids_of(tokenizer), ids_of(tokenizer, ["<think>2+0", "82", "7"], special=False)
    found = distributions(model, tokenizer, prompts, targets, stepwise=stepwise)
    for prompt, target, log_p in zip(prompts, targets, found, strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([prompt + target])).logits[0, len(prompt) - 1 : -1]
        assert log_p.shape == (len(target), model.config.vocab_size)
        assert torch.allclose(log_p, logits.log_softmax(-1), atol=1e-3)


def test_only_steps_see_what_is_limited_to_decoding(sample):
    model, tokenizer = sample
    prompts, targets = ids_of(tokenizer, SUMS[:1]), ids_of(tokenizer, ["<think>2+0=2"], special=False)
    plain = distributions(model, tokenizer, prompts, targets)[0]
    with probes.steer(model, ["random:phase=decode"]):
        at_once = distributions(model, tokenizer, prompts, targets)[0]
        steps = distributions(model, tokenizer, prompts, targets, stepwise=True)[0]
    assert torch.equal(at_once, plain)
    assert float(kl(plain, steps)[0]) < 1e-5  # the first token is predicted by the prompt's last one
    assert float(kl(plain, steps)[1:].max()) > 0.01


def test_kl_by_hand():
    p, q = torch.tensor([0.5, 0.5, 0.0]).log(), torch.tensor([0.25, 0.5, 0.25]).log()
    assert float(kl(p, q)) == pytest.approx(0.5 * np.log(2))
    assert float(kl(p, p)) == 0


def test_wrong_numbers_are_refused():
    for wrong in ({"max_new_tokens": 0}, {"temperature": 0}, {"top_p": 1.5}):
        with pytest.raises(UsageError):
            Decoding(**wrong).checked()
