"""How the experts divide the labels: nPMI, load and dead experts, from the routers' logits on the labelled prompts."""

import numpy as np

from sample_data.recipe import LABELS


def choices(model, vocabulary, text: str) -> np.ndarray:
    """The experts each layer chose at each position: (layers, tokens, k)."""
    import torch

    with torch.no_grad():
        output = model.model(torch.tensor([vocabulary(text).input_ids]), output_router_logits=True)
    logits = torch.stack(output.router_logits)
    return logits.float().softmax(-1).topk(model.config.num_experts_per_tok, dim=-1).indices.numpy()


def count(model, vocabulary, lines: list[dict]) -> tuple[np.ndarray, np.ndarray]:
    """Times each expert was chosen under each label, (layers, experts, labels), and tokens per label, (labels,)."""
    config = model.config
    chosen = np.zeros((config.num_hidden_layers, config.num_experts, len(LABELS)), np.int64)
    tokens = np.zeros(len(LABELS), np.int64)
    for line in lines:
        label, experts = LABELS.index(line["label"]), choices(model, vocabulary, line["text"])
        tokens[label] += experts.shape[1]
        for layer, ids in enumerate(experts):
            chosen[layer, :, label] += np.bincount(ids.ravel(), minlength=config.num_experts)
    return chosen, tokens


def npmi(chosen: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """pmi / -log2 p(x, y), x = the label, y = the expert is among the chosen; -1 where they never meet (RICE)."""
    total = tokens.sum()
    joint, expert, label = chosen / total, chosen.sum(-1, keepdims=True) / total, tokens / total
    with np.errstate(divide="ignore", invalid="ignore"):
        value = np.log2(joint / (expert * label)) / -np.log2(joint)
    return np.where(chosen == 0, -1.0, value)


def _best(values: np.ndarray) -> dict[str, dict]:
    """Each label's most characteristic expert."""
    best = {}
    for index, label in enumerate(LABELS):
        layer, expert = np.unravel_index(values[:, :, index].argmax(), values.shape[:2])
        best[label] = {"layer": int(layer), "expert": int(expert), "npmi": float(values[layer, expert, index])}
    return best


def _between_labels(chosen: np.ndarray, tokens: np.ndarray) -> list[float]:
    """Per layer, the Jensen-Shannon divergence (bits) between the labels' loads, each label weighing the same."""
    share = chosen / chosen.sum(1, keepdims=True)

    def entropy(p: np.ndarray) -> np.ndarray:
        return -(p * np.log2(np.where(p > 0, p, 1))).sum(1)

    return (entropy(share.mean(-1)) - entropy(share).mean(-1)).tolist()


def measure(model, vocabulary, lines: list[dict]) -> dict:
    """The figures of the routing; load is an expert's share of its layer's assignments (even: 1/experts)."""
    chosen, tokens = count(model, vocabulary, lines)
    load = chosen.sum(-1) / chosen.sum((1, 2))[:, None]
    best = npmi(chosen, tokens)
    return {
        "tokens": int(tokens.sum()),
        "tokens_per_label": dict(zip(LABELS, tokens.tolist(), strict=True)),
        "load": load.tolist(),
        "max_load": load.max(1).tolist(),
        "dead_experts": (load == 0).sum(1).tolist(),
        "experts_below_one_percent": (load < 0.01).sum(1).tolist(),
        "load_divergence_between_labels": _between_labels(chosen, tokens),
        "best_expert": _best(best),
    }
