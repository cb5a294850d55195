"""Pathways: what the routers of some layers say about one token per sequence; read, compared, and put in place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from probes.capture.hooks import Hooks
from probes.errors import ProbeError
from probes.families.layout import Point
from probes.interventions.adaptation.losses import forward_inputs, sequences
from probes.interventions.site import Site
from probes.interventions.spec import Scope, Spec
from probes.scores import UNKNOWN
from probes.steering import steer


@dataclass
class Switch:
    """Reads the logits of one token per sequence, or replaces them, in the passes that run under `switched`.

    at        int [B]: the position of that token in the pass; None leaves passes alone
    seen      layer -> float32 [B, E], as the router had them
    put       layer -> float32 [B, E], what the router goes on with; layers that are not in it go on as they are
    scoring   layer -> how its family makes scores of logits
    """

    at: Any = None
    seen: dict[int, torch.Tensor] = field(default_factory=dict)
    put: dict[int, torch.Tensor] = field(default_factory=dict)
    scoring: dict[int, str] = field(default_factory=dict)

    def __call__(self, site: Site, z: torch.Tensor) -> torch.Tensor:
        if self.at is None:
            return z
        length = len(sequences(site, z)) // len(self.at)
        rows = torch.arange(len(self.at), device=z.device) * length + self.at.to(z.device)
        self.seen[site.layer], self.scoring[site.layer] = z[rows].float(), site.scoring
        if site.layer not in self.put:
            return z
        return z.index_put((rows,), self.put[site.layer].to(z))


@contextmanager
def switched(model: Any, layers: tuple[int, ...], phase: str = "prefill") -> Iterator[Switch]:
    """A switch in `layers` (all where none is named) while the block lasts."""
    switch = Switch()
    with steer(
        model, [Spec("logit_vectors", {"vectors": switch, "mode": "add"}, Scope(layers=layers or None, phase=phase))]
    ):
        yield switch


def scores_of(z: torch.Tensor, scoring: str) -> torch.Tensor:
    """What the family makes of logits z [..., E]: scores p. ProbeError where that is not known."""
    if scoring == UNKNOWN:
        raise ProbeError("how this model's routers make scores of their logits is not known, so none can be learned")
    if scoring == "sigmoid":
        return z.sigmoid()
    return torch.nn.functional.softplus(z).sqrt() if scoring == "sqrtsoftplus" else z.softmax(-1)


def logits_of(p: torch.Tensor, scoring: str, like: torch.Tensor) -> torch.Tensor:
    """Logits [..., E] whose scores are p, on the scale of the logits `like` where scores do not tell it."""
    p = p.clamp(min=1e-12)
    if scoring == "sigmoid":
        return torch.logit(p.clamp(max=1 - 1e-7))
    if scoring == "sqrtsoftplus":
        return p.square().expm1().log()
    return p.log() + like.logsumexp(-1, keepdim=True)


def embed(model: Any, ids: torch.Tensor, mask: torch.Tensor, pool: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(mean last hidden state over the tokens `pool` [B, S] as float32 [B, H], logits [B, S, V]) of one pass.

    The state is what the output layer receives: asking transformers for hidden states would leave its hooks in the
    model. ProbeError for a model without an output layer.
    """
    seen: list[torch.Tensor] = []
    head = model.get_output_embeddings()
    if head is None:
        raise ProbeError(f"{type(model).__name__} has no output layer to read hidden states at")
    with Hooks([Point(head, "before", lambda module, args, kwargs: seen.append((*args, *kwargs.values())[0]))]):
        logits = model(**forward_inputs(model, ids, mask)).logits
    weight = pool.to(seen[-1].device)[..., None].float()
    return (seen[-1].float() * weight).sum(1) / weight.sum(1), logits
