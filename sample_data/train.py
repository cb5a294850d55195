"""Training on one core: transformers' own OlmoeForCausalLM, AdamW, warm-up and cosine, a balance loss that fades."""

import json
import math
import time

from sample_data import checkpoint, stream, tokenizer
from sample_data.recipe import CACHE_DIR, RECIPE, TRAINING_FILE

LOG = CACHE_DIR / "log.jsonl"


def make_model(vocabulary):
    """A fresh OLMoE with the recipe's sizes, from the recipe's seed."""
    import torch
    from transformers import OlmoeConfig, OlmoeForCausalLM

    torch.manual_seed(RECIPE.seed)
    return OlmoeForCausalLM(
        OlmoeConfig(
            vocab_size=len(vocabulary),
            hidden_size=RECIPE.hidden_size,
            intermediate_size=RECIPE.intermediate_size,
            num_hidden_layers=RECIPE.num_layers,
            num_attention_heads=RECIPE.num_heads,
            num_experts=RECIPE.num_experts,
            num_experts_per_tok=RECIPE.top_k,
            initializer_range=RECIPE.initializer_range,
            max_position_embeddings=256,
            tie_word_embeddings=True,
            router_aux_loss_coef=RECIPE.balance_end,
            bos_token_id=vocabulary.bos_token_id,
            eos_token_id=vocabulary.eos_token_id,
            pad_token_id=vocabulary.pad_token_id,
        )
    )


def make_optimizer(model):
    """AdamW; norms and the router go without weight decay, for it would flatten the router's choice."""
    import torch

    def decays(name: str) -> bool:
        return "norm" not in name and "gate.weight" not in name

    named = list(model.named_parameters())
    groups = [
        {"params": [p for name, p in named if decays(name)], "weight_decay": RECIPE.weight_decay},
        {"params": [p for name, p in named if not decays(name)], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=RECIPE.peak_lr, betas=(0.9, 0.98), fused=True)


def learning_rate(step: int) -> float:
    """Linear warm-up, then half a cosine down to `final_lr`."""
    if step < RECIPE.warmup_steps:
        return RECIPE.peak_lr * (step + 1) / RECIPE.warmup_steps
    done = (step - RECIPE.warmup_steps) / max(1, RECIPE.steps - RECIPE.warmup_steps)
    return RECIPE.final_lr + (RECIPE.peak_lr - RECIPE.final_lr) * (1 + math.cos(math.pi * done)) / 2


def balance_coefficient(step: int) -> float:
    """From `balance_start` straight down to `balance_end` over `balance_steps`."""
    done = min(1.0, step / RECIPE.balance_steps)
    return RECIPE.balance_start + (RECIPE.balance_end - RECIPE.balance_start) * done


def positions_of(documents):
    """(rows, length) positions that start again with each document."""
    import torch

    index = torch.arange(documents.shape[1]).expand_as(documents)
    starts = torch.ones_like(documents, dtype=torch.bool)
    starts[:, 1:] = documents[:, 1:] != documents[:, :-1]
    return index - torch.where(starts, index, 0).cummax(dim=1).values


def document_mask(documents):
    """(rows, 1, length, length), true where a token may look: back, and within its own document."""
    same = documents[:, :, None] == documents[:, None, :]
    return same.tril()[:, None]


def balance_loss(router_logits, real):
    """Switch Transformer's loss, layer by layer, over the `real` tokens only.

    transformers' own adds the layers up before it multiplies, so that one layer's neglect can hide behind another's.
    """
    import torch

    total = 0.0
    for logits in router_logits:
        probabilities = logits[real].float().softmax(-1)
        chosen = probabilities.topk(RECIPE.top_k, dim=-1).indices
        load = torch.bincount(chosen.flatten(), minlength=RECIPE.num_experts) / chosen.numel()
        total = total + RECIPE.num_experts * (load * probabilities.mean(0)).sum()
    return total / len(router_logits)


def batch_of(rows):
    """Stack rows into tensors: tokens, weights, documents, each (rows, length)."""
    import numpy as np
    import torch

    fields = ("tokens", "weights", "documents")
    return tuple(torch.from_numpy(np.stack([getattr(row, field) for row in rows])) for field in fields)


def losses(model, batch):
    """The weighted cross-entropy of the next token and the balance loss of one batch."""
    import torch

    tokens, weights, documents = batch
    output = model.model(
        input_ids=tokens,
        attention_mask=document_mask(documents),
        position_ids=positions_of(documents),
        output_router_logits=True,
        use_cache=False,
    )
    scored = weights[:, 1:] > 0  # a `<s>` weighs nothing, so no prediction crosses a document's edge
    logits = model.lm_head(output.last_hidden_state[:, :-1][scored])
    each = torch.nn.functional.cross_entropy(logits, tokens[:, 1:][scored], reduction="none")
    weight = weights[:, 1:][scored]
    real = (tokens != model.config.pad_token_id).flatten()
    return (each * weight).sum() / weight.sum(), balance_loss(output.router_logits, real)


def train_step(model, optimizer, batch, step: int) -> tuple[float, float]:
    """One optimiser step; returns both losses."""
    import torch

    for group in optimizer.param_groups:
        group["lr"] = learning_rate(step)
    loss, balance = losses(model, batch)
    (loss + balance_coefficient(step) * balance).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), RECIPE.grad_clip)
    optimizer.step()
    optimizer.zero_grad()
    return loss.item(), balance.item()


def batches(encoder, first_step: int):
    """The batches from `first_step` on; only the shard in hand is in memory."""
    size = RECIPE.rows_per_step
    for number in range(first_step // RECIPE.steps_per_shard, RECIPE.steps // RECIPE.steps_per_shard):
        rows = stream.shard(number, encoder)
        for start in range(0, len(rows), size):
            step = number * RECIPE.steps_per_shard + start // size
            if step >= first_step:
                yield step, batch_of(rows[start : start + size])


def report(step: int, loss: float, balance: float, started: float, first: int) -> None:
    """One line on the screen and in the log."""
    seconds = time.monotonic() - started
    left = seconds / (step + 1 - first) * (RECIPE.steps - step - 1)
    print(
        f"step {step + 1}/{RECIPE.steps}  loss {loss:.4f}  balance {balance:.3f}  left {left / 60:.1f} min", flush=True
    )
    line = {"step": step + 1, "loss": loss, "balance": balance, "seconds": round(seconds, 1), "first_step": first}
    with LOG.open("a") as log:
        log.write(json.dumps(line) + "\n")


def summary() -> dict:
    """Minutes of all resumed parts together, and the mean loss over the last reports."""
    lines = [json.loads(line) for line in LOG.read_text().splitlines()]
    parts = {line["first_step"]: line["seconds"] for line in lines}
    last = [line["loss"] for line in lines[-5:]]
    return {"minutes": round(sum(parts.values()) / 60, 1), "final_loss": round(sum(last) / len(last), 4)}


def build() -> None:
    """Train from the last checkpoint, or from scratch, to the end of the recipe, and publish the weights."""
    import torch

    torch.set_num_threads(1)  # sums are added in one order only, so the seed decides every bit
    vocabulary = tokenizer.load()
    model = make_model(vocabulary)
    model.set_experts_implementation("grouped_mm")
    optimizer = make_optimizer(model)
    first, started = checkpoint.restore(model, optimizer), time.monotonic()
    CACHE_DIR.mkdir(parents=True, exist_ok=True)
    for step, batch in batches(stream.Encoder(vocabulary), first):
        loss, balance = train_step(model, optimizer, batch, step)
        if (step + 1) % 50 == 0:
            report(step, loss, balance, started, first)
        if (step + 1) % RECIPE.checkpoint_every == 0 or step + 1 == RECIPE.steps:
            checkpoint.save(model, optimizer, step + 1)
    TRAINING_FILE.write_text(json.dumps(summary()) + "\n")
    checkpoint.publish(model)
