"""What a capture is asked for. What is not asked for costs nothing: no hook is registered for it."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Want:
    """What to keep of every token and MoE layer; the chosen ids are always kept.

    logits         router logits, all E of them, in the model's own precision
    weights        the weights the experts container really received
    norms          L2 norm and largest absolute component of every chosen expert's output before weighting, and the
                   largest absolute component of the experts' input
    outputs        those output vectors themselves, [T, k, H]
    moments        running count, mean and M2 of the output vectors per layer and expert, over real tokens
    hidden         per token: cosine between the residual stream before the experts and after adding what the experts
                   returned, largest absolute component and median absolute component of that residual stream
    router_inputs  what each router received, [T, H]
    every_norm     L2 norm of the output of every expert, not only the chosen: E / k times the work of the experts
    shared         largest absolute component of what the layer's shared expert received and returned, per token
    layers         layer numbers to look at (`Router.layer`); None is all of them
    """

    logits: bool = True
    weights: bool = True
    norms: bool = True
    outputs: bool = False
    moments: bool = False
    hidden: bool = False
    router_inputs: bool = False
    every_norm: bool = False
    shared: bool = False
    layers: tuple[int, ...] | None = None

    @property
    def slots(self) -> bool:
        """Are the experts' own outputs needed?"""
        return self.norms or self.outputs or self.moments

    def without_slots(self) -> Want:
        return replace(self, norms=False, outputs=False, moments=False, every_norm=False)
