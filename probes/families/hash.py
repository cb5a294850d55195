"""The token id decides who is chosen, by a table; the logits only weigh the chosen."""

from __future__ import annotations

from typing import Any

from probes.families.base import Parameters, Rule
from probes.families.scoring import finished, scores


def choose(logits: Any, parameters: Parameters) -> tuple[Any, Any]:
    """`parameters["ids"]` are the ids that were chosen: no logits lead to them."""
    ids = parameters["ids"].long()
    return ids, finished(scores(logits, parameters).gather(1, ids), parameters)


RULE = Rule(
    name="hash",
    formula="ids = table[token id]; w = s(z)[ids] / sum · scaling",
    choose=choose,
    recomputes="weights",
    defaults={"score": "sqrtsoftplus", "normalise": True, "normalise_eps": 1e-20},
    source="hash layers, arXiv 2106.04426; transformers, deepseek_v4",
    needs="the table that leads from token ids to experts, which is a weight of the model",
)
