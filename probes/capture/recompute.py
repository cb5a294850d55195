"""Does a layer's rule lead from its logits to the choice it made? For unknown architectures: which rule does?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from probes.capture.discovery import MoELayer
from probes.families import families, rules
from probes.families.base import Parameters, Rule

# Weights are compared in the precision the model gave them; the rule works in float32.
WEIGHT_TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}


@dataclass(frozen=True)
class Recomputed:
    """what: "ids and weights", "ids" or "" (nothing); words: what does not agree; parameters: what it was done with."""

    what: str = ""
    words: str = ""
    parameters: Parameters = field(default_factory=dict)


def recompute(found: MoELayer, logits: Any, ids: Any, weights: Any) -> Recomputed:
    """Compare the rule's choice from logits [T, E] with ids [T, k] and weights [T, k]."""
    if logits is None or ids is None:
        return Recomputed(parameters=found.parameters)
    parameters = {**found.parameters, "top_k": int(ids.shape[-1])}
    if found.family is None:
        return _guess(parameters, logits, ids, weights)
    rule = rules()[parameters["rule"]]
    what = compare(rule, {**parameters, "ids": ids}, logits, ids, weights)
    if rule.recomputes == "weights" and what == "ids and weights":
        what = "weights"  # the ids were given
    if what in (rule.recomputes, "ids and weights"):
        return Recomputed(what, "", parameters)
    return Recomputed(what, f"its choice is not what its logits lead to (agreeing: {what or 'nothing'})", parameters)


def _guess(parameters: Parameters, logits: Any, ids: Any, weights: Any) -> Recomputed:
    """The most common rule that reproduces the choice, given what the router module tells of itself."""
    for rule, settings in _candidates(parameters):
        if compare(rule, settings, logits, ids, weights) == "ids and weights":
            return Recomputed("ids and weights", "", {**settings, "rule": rule.name})
    words = "of an architecture we do not know, and no rule we know leads from its logits to its choice"
    return Recomputed("", words, parameters)


def _candidates(parameters: Parameters) -> Iterator[tuple[Rule, Parameters]]:
    users = Counter(family.rule.name for family in families().values())
    for rule in sorted(rules().values(), key=lambda r: -users[r.name]):
        settings = {**rule.defaults, **parameters}
        yield rule, settings
        yield rule, {**settings, "normalise": not settings.get("normalise", False)}


def compare(rule: Rule, parameters: Parameters, logits: Any, ids: Any, weights: Any) -> str:
    """What `rule` gets right: "ids and weights", "ids" or ""."""
    try:
        again_ids, again = rule(logits, parameters)
    except (KeyError, ValueError, RuntimeError, IndexError):
        return ""  # a rule that needs what this router does not have
    if again_ids.shape != ids.shape:
        return ""
    order, again_order = ids.long().argsort(dim=-1), again_ids.long().argsort(dim=-1)
    if not torch.equal(ids.long().gather(1, order), again_ids.long().gather(1, again_order)):
        return ""
    limit = WEIGHT_TOLERANCE.get(weights.dtype, 1e-2)
    close = torch.allclose(
        again.gather(1, again_order).float(), weights.gather(1, order).float(), rtol=limit, atol=limit
    )
    return "ids and weights" if close else "ids"
