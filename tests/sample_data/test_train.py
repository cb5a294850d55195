"""Training: it can be taken up again without a trace, and its schedules and balance loss are what they say."""

import math

import pytest

from sample_data import checkpoint, stream, tokenizer, train
from sample_data.recipe import RECIPE


@pytest.fixture(scope="module")
def batch():
    return train.batch_of(stream.shard(0, stream.Encoder(tokenizer.load()))[:2])


def _fresh():
    model = train.make_model(tokenizer.load())
    return model, train.make_optimizer(model)


def test_resumed_training_is_the_same_training(batch, tmp_path, monkeypatch):
    import torch

    monkeypatch.setattr(checkpoint, "CACHE_DIR", tmp_path)
    monkeypatch.setattr(checkpoint, "CHECKPOINT", tmp_path / "checkpoint.safetensors")
    model, optimizer = _fresh()
    assert checkpoint.restore(model, optimizer) == 0
    for step in range(2):
        train.train_step(model, optimizer, batch, step)
    checkpoint.save(model, optimizer, 2)
    resumed, resumed_optimizer = _fresh()
    assert checkpoint.restore(resumed, resumed_optimizer) == 2
    assert train.train_step(resumed, resumed_optimizer, batch, 2) == train.train_step(model, optimizer, batch, 2)
    assert all(map(torch.equal, resumed.parameters(), model.parameters()))


def test_batches_start_where_training_stopped():
    encoder = stream.Encoder(tokenizer.load())
    step, batch = next(iter(train.batches(encoder, RECIPE.steps_per_shard + 3)))
    size = RECIPE.rows_per_step
    assert step == RECIPE.steps_per_shard + 3
    assert batch[0].equal(train.batch_of(stream.shard(1, encoder)[3 * size : 4 * size])[0])


def test_schedules():
    assert train.learning_rate(RECIPE.warmup_steps) == pytest.approx(RECIPE.peak_lr)
    assert train.learning_rate(RECIPE.steps) == pytest.approx(RECIPE.final_lr)
    assert train.balance_coefficient(0) == RECIPE.balance_start
    assert train.balance_coefficient(RECIPE.steps) == pytest.approx(RECIPE.balance_end)


def test_balance_loss_is_one_when_even_and_grows():
    """Even logits: 1. All tokens sure of the same expert: its share 1/k times the number of experts."""
    import torch

    real = torch.ones(64, dtype=torch.bool)
    even = torch.zeros(64, RECIPE.num_experts)
    sure = even.clone()
    sure[:, 0] = 50.0
    assert train.balance_loss([even], real).item() == pytest.approx(1)
    assert train.balance_loss([sure], real).item() == pytest.approx(RECIPE.num_experts / RECIPE.top_k)
    assert train.balance_loss([even, sure], real).item() == pytest.approx((1 + RECIPE.num_experts / RECIPE.top_k) / 2)


def test_the_first_loss_is_that_of_guessing(batch):
    """An untrained model must not know anything: about ln(vocabulary) nats a token."""
    model, _ = _fresh()
    loss, _ = train.losses(model, batch)
    assert loss.item() == pytest.approx(math.log(RECIPE.vocab_size), rel=0.15)
