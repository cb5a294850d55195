"""What a model family means by routing, as data: a `Rule` (how logits become a choice) and a `Family` (who follows it).

Adding a family is one record in the file of its rule; adding a rule is one new file in this package with `FAMILIES`.
Notation: T tokens, E experts (the logits' last axis), k chosen per token.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from probes.families.layout import GENERIC, Layout

Parameters = dict[str, Any]

CORRECTION_BIAS = "the correction bias (e_score_correction_bias), which is a weight of the model"


@dataclass(frozen=True)
class Rule:
    """How router logits become chosen ids and weights.

    choose      (logits [T, E], gating parameters) -> (ids [T, k], weights [T, k]); the slots may come in any order
    recomputes  what `choose` gets right from stored logits alone: "ids and weights", "ids" or "" (nothing)
    defaults    gating parameters that hold for every family of the rule unless the family or the router says otherwise
    needs       what a choice depends on besides the logits and the model's config, in words ("" = nothing): logits
                that were recorded elsewhere do not lead to a choice without it
    """

    name: str
    formula: str
    choose: Callable[[Any, Parameters], tuple[Any, Any]]
    recomputes: str = "ids and weights"
    defaults: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""
    needs: str = ""

    def __call__(self, logits: Any, parameters: Parameters) -> tuple[Any, Any]:
        """Ids and weights that `logits` [T, E] (NumPy or torch) lead to under `parameters`; torch tensors."""
        return self.choose(as_tensor(logits), parameters)


@dataclass(frozen=True)
class Family:
    """One model family of transformers.

    name    directory name under transformers.models
    tiny    settings of the smallest model worth testing; see `probes.families.tiny`
    gating  gating parameters of this family that its router does not carry as attributes
    layout  where its tensors are, if not at the usual places
    config  `model_type` of the config to build, if it is neither the name nor the name and "_text"
    model   the class to build for the check, where transformers' auto classes have none
    official_since  first version of transformers whose `output_router_logits` is not ignored, where known to be later
            than the oldest we work with (its issue 48911); found by running the versions before and after
    variant the rule of one router (module) where a family mixes rules; None for the family's own
    limits  what cannot be had from it, and why: "recompute" or "all"
    unbiased  its routers have no correction bias, although its rule allows for one
    """

    name: str
    rule: Rule
    tiny: Mapping[str, Any] = field(default_factory=dict)
    gating: Mapping[str, Any] = field(default_factory=dict)
    layout: Layout = GENERIC
    config: str = ""
    model: str = ""
    official_since: str = ""
    variant: Callable[[Any], Rule | None] = lambda router: None
    limits: Mapping[str, str] = field(default_factory=dict)
    notes: str = ""
    unbiased: bool = False


def as_tensor(values: Any) -> Any:
    """A torch tensor of `values`; NumPy uint16 holds bf16 bit patterns, because NumPy has no bf16."""
    import numpy as np
    import torch

    if not isinstance(values, np.ndarray):
        return values
    if values.dtype == np.uint16:
        return torch.from_numpy(values.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(values)
