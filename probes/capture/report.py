"""What a self-test found: per layer, what can be recorded, how, and what is not guaranteed about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from probes.capture.discovery import MoELayer
from probes.capture.tap import OBSERVE
from probes.routing import Router


@dataclass(frozen=True)
class LayerReport:
    """What can be had from one layer.

    logits, choice, outputs   are the logits, the ids and weights, the experts' own outputs there?
    recomputed                what the family's rule gets right from the logits: "ids and weights", "ids" or ""
    mode, padded, copy        how the recorder has to go about it (see `Tap`)
    norm                      the norm module whose input is the residual stream before this layer, if it was found
    words                     what is not guaranteed, and why
    """

    found: MoELayer
    router: Router
    logits: bool
    choice: bool
    outputs: bool
    recomputed: str = ""
    mode: str = OBSERVE
    padded: bool = False
    copy: bool = False
    norm: Any = None
    words: tuple[str, ...] = ()

    @property
    def layer(self) -> int:
        return self.found.layer

    @property
    def capability(self) -> str:
        """In words: what a recording of this layer holds."""
        parts = ["logits"] * self.logits + ["ids", "weights"] * self.choice + ["outputs"] * self.outputs
        return ", ".join(parts) or "nothing"

    @property
    def twice(self) -> bool:
        """Do expert outputs take a second run of the experts?"""
        return self.outputs and self.mode == OBSERVE and self.found.layout.reruns

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "layer": self.layer,
            "module": self.router.module,
            "stream": self.router.stream,
            "num_experts": self.router.num_experts,
            "top_k": self.router.top_k,
            "rule": self.router.gating,
            "recorded": self.capability,
            "choice_recomputed": self.recomputed,
            "experts_run_twice": self.twice,
            "words": list(self.words),
        }


@dataclass(frozen=True)
class Report:
    """What can be recorded from a model, per layer, and what is not guaranteed about it."""

    layers: tuple[LayerReport, ...]
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Everything can be had from every layer."""
        return all(r.logits and r.choice and r.outputs for r in self.layers)

    @property
    def summary(self) -> str:
        """One line: how many layers can do what."""
        counts: dict[str, int] = {}
        for r in self.layers:
            counts[r.capability] = counts.get(r.capability, 0) + 1
        return "; ".join(f"{n} of {len(self.layers)} layers: {what}" for what, n in counts.items()) or "no MoE layers"

    def lines(self) -> list[str]:
        """The report as text: a line per layer, then what is not guaranteed."""
        table = [_line(r) for r in self.layers]
        words = [f"layer {r.layer}: {word}" for r in self.layers for word in r.words]
        return [*table, self.summary, *words, *self.notes]


def _line(report: LayerReport) -> str:
    router = report.router
    return (
        f"{router.layer:4} {router.module:40} {router.num_experts:4} experts, {router.top_k} chosen  "
        f"{router.gating or 'unknown rule':18} {report.capability:32} recomputed: {report.recomputed or '-'}"
    )
