"""Random but valid routing, the same for the same numbers, written through the real writer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from store.batch import HIDDEN, SHARED, Batch, LayerInfo, LayerRows, RunInfo
from store.trace import open_trace
from store.writer import TraceWriter

VIEWS = (
    *("layers", "sequences", "tokens", "routing", "assignments", "router_logits", "expert_stats", "layer_stats"),
    *("coactivation", "output_vectors", "expert_outputs", "hidden", "shared_outputs", "expert_norms", "router_inputs"),
)
RUN_FACTS = "run_id, name, model, revision, status, n_sequences, n_tokens, batches_done, provenance"


@dataclass(frozen=True)
class Plan:
    """What a made-up recording looks like: layers as (layer, experts, k)."""

    layers: tuple[tuple[int, int, int], ...] = ((1, 8, 2), (2, 16, 3), (4, 8, 2))
    logits: str | None = "float32"
    logit_rate: float = 1.0
    sequences: int = 3
    length: int = 20
    labels: tuple[str | None, ...] = ("code", "prose", None)
    norms: bool = True
    outputs: bool = False
    missing: bool = True
    seed: int = 0

    @property
    def infos(self) -> list[LayerInfo]:
        return [LayerInfo(n, f"model.layers.{n}.mlp.gate", e, k) for n, e, k in self.layers]


def as_type(values: np.ndarray, name: str) -> np.ndarray:
    """float32 logits in the given type; bfloat16 as its bits."""
    if name == "bfloat16":
        return (values.view(np.uint32) >> 16).astype(np.uint16)
    return values.astype(name)


def make_batch(plan: Plan, index: int) -> Batch:
    """Batch number `index` of a plan."""
    rng = np.random.default_rng([plan.seed, index])
    ids = [index * plan.sequences + i for i in range(plan.sequences)]
    lengths = rng.integers(1, plan.length + 1, plan.sequences)
    sequence = np.repeat(ids, lengths)
    position = np.concatenate([np.arange(n) for n in lengths])
    words = rng.integers(0, 50, len(sequence))
    return Batch(
        index,
        [_sequence(plan, i) for i in ids],
        {
            "sequence_id": sequence,
            "position": position,
            "token_id": words,
            "phase": (position > 5).astype(np.uint8),
            "logprob": np.where(position == 0, np.nan, -rng.random(len(sequence))),
            "predicted_id": np.where(position % 4 == 0, -1, words[::-1]),
            "token": [f" w{w}" for w in words],
        },
        [_rows(plan, rng, layer, e, k, len(sequence)) for layer, e, k in plan.layers],
        moments=_moments(plan, rng) if plan.outputs else None,
        router_inputs=_router_inputs(plan, rng) if plan.outputs else None,
    )


def _sequence(plan: Plan, i: int) -> dict[str, Any]:
    label = plan.labels[i % len(plan.labels)]
    return {
        "sequence_id": i,
        "prompt_id": f"p{i}",
        "label": label,
        "source": "made",
        "text": f"text {i}",
        "metadata": {"n": i},
    }


def _rows(plan: Plan, rng: np.random.Generator, layer: int, e: int, k: int, n: int) -> LayerRows:
    logits = rng.standard_normal((n, e)).astype(np.float32) * 1.5
    experts = np.argsort(-logits, axis=1)[:, :k].astype(np.int16)
    weights = np.take_along_axis(logits, experts.astype(int), 1)
    if plan.missing:
        experts[rng.random(n) < 0.1] = -1
        experts[rng.random(n) < 0.1, k - 1] = -1  # one slot without an expert
    kept = rng.random(n) < plan.logit_rate
    norm = rng.gamma(2, 1, (n, k)).astype(np.float32)
    return LayerRows(
        layer,
        experts,
        weights,
        None if plan.logits is None else as_type(logits, plan.logits),
        logits_kept=None if plan.logit_rate == 1 else kept,
        output_norm=norm if plan.norms else None,
        output_absmax=norm / 3 if plan.norms else None,
        input_absmax=norm[:, 0] / 2 if plan.norms else None,
        outputs=rng.standard_normal((int(kept.sum()), k, 4)).astype(np.float32) if plan.outputs else None,
        outputs_kept=kept if plan.outputs else None,
        entropy=np.where(rng.random(n) < 0.05, np.nan, rng.random(n)).astype(np.float32),
        margin=rng.random(n).astype(np.float32),
        missing_reason="padding",
        **_measured(rng, n, HIDDEN) if plan.outputs else {},
        **_measured(rng, n, SHARED) if plan.outputs else {},
        expert_norm=np.where(rng.random((n, 1)) < 0.1, np.nan, rng.random((n, e))) if plan.outputs else None,
    )


def _measured(rng: np.random.Generator, n: int, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    unknown = rng.random(n) < 0.1
    return {name: np.where(unknown, np.nan, rng.random(n)).astype(np.float32) for name in names}


def _router_inputs(plan: Plan, rng: np.random.Generator) -> dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    made = {}
    for layer, e, _ in plan.layers:
        x = rng.standard_normal((5, 4))
        made[layer] = (rng.integers(0, 9, e), rng.standard_normal((e, 4)), x.T @ x)
    return made


def _moments(plan: Plan, rng: np.random.Generator) -> dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    return {
        layer: (
            rng.integers(0, 9, e),
            rng.standard_normal((e, 4)).astype(np.float32),
            rng.random((e, 4)).astype(np.float32),
        )
        for layer, e, _ in plan.layers
    }


RUN = RunInfo(name="made", model="example/made", revision="abc", provenance={"seed": 0}, num_layers=6)


def write(path: Path, plan: Plan = Plan(), batches: int = 6, run: RunInfo = RUN, **options: Any) -> list[Batch]:
    """A complete run in `path`; returns its batches."""
    made = [make_batch(plan, i) for i in range(batches)]
    with TraceWriter.create(path, run, plan.infos, kept={"logits": plan.logits}, **options) as writer:
        for batch in made:
            writer.write(batch)
    return made


def dump(path: Path, runs: bool = True) -> dict[str, list[tuple[Any, ...]]]:
    """All rows of every view, sorted; NaN-safe by being text."""
    trace = open_trace(path)
    views = {view: f"SELECT * FROM {view} ORDER BY ALL" for view in VIEWS}
    views |= {"runs": f"SELECT {RUN_FACTS} FROM runs ORDER BY ALL"} if runs else {}
    return {
        name: trace.ask(lambda con, q=query: [tuple(map(repr, row)) for row in con.execute(q).fetchall()])
        for name, query in views.items()
    }
