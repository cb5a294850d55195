"""SparseMixer: two rounds of arg max, each weighed by a softmax over the experts close to that round's best."""

from __future__ import annotations

from typing import Any

from probes.families.base import Family, Parameters, Rule


def choose(logits: Any, parameters: Parameters) -> tuple[Any, Any]:
    """Evaluation mode. Further than 2 · jitter below the best, relative to the larger magnitude, an expert is out."""
    import torch

    first, first_weight = _best(logits, logits, parameters["jitter"])
    rest = logits.scatter(1, first, float("-inf"))
    second, second_weight = _best(rest, logits, parameters["jitter"])
    return torch.cat([first, second], dim=1), torch.cat([first_weight, second_weight], dim=1)


def _best(candidates: Any, logits: Any, jitter: float) -> tuple[Any, Any]:
    best, index = candidates.max(dim=-1, keepdim=True)
    far = (best - logits) / logits.abs().clamp(min=best) > 2 * jitter
    return index, candidates.masked_fill(far, float("-inf")).softmax(dim=-1).gather(1, index)


RULE = Rule(
    name="sparsemixer",
    formula="twice: e = arg max z; w = softmax(z over the experts within 2·jitter of the best)[e]; then e is out",
    choose=choose,
    source="SparseMixer-v2, arXiv 2409.12136; PhiMoE, arXiv 2404.14219",
)

FAMILIES = (Family("phimoe", RULE, notes="always two experts; the weights do not sum to 1"),)
