"""What the writer is given: a run, its layers, and batches of whole sequences with their routing."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from store.errors import TraceError

LOST, LOST_REASON = -2, "all its experts were dropped"
HIDDEN = ("similarity", "hidden_absmax", "hidden_absmedian")
SHARED = ("shared_absmax", "shared_input_absmax")


@dataclass(frozen=True)
class RunInfo:
    """Provenance of a run. `num_layers` counts all layers of the model, dense ones included."""

    name: str
    model: str
    revision: str | None = None
    provenance: dict[str, Any] = field(default_factory=dict)
    intervention: Any = None
    baseline_run_id: int | None = None
    num_layers: int | None = None


@dataclass(frozen=True)
class LayerInfo:
    """One layer with a router. `layer` is the model's own index.

    `top_k` is how many experts the router chooses per token, `slots` the most that a token can have in this run, which
    an intervention changes (None: as many as the router chooses).
    """

    layer: int
    module: str
    num_experts: int
    top_k: int
    gating: str = "softmax"
    shared_experts: int = 0
    is_moe: bool = True
    stream: str = "mlp"
    logits_type: str | None = None  # set by the writer with the first logits it gets
    slots: int | None = None

    @property
    def width(self) -> int:
        """Most experts of a token."""
        return self.top_k if self.slots is None else self.slots


@dataclass
class LayerRows:
    """Routing of one layer for the tokens of a batch, n rows in the order of the batch's tokens.

    experts       [n, k] int    -1: no such slot (what follows a row's last expert is not stored); a row of -1 has no
                  routing (`missing_reason` says why); -2 in the first slot: it lost all its experts
    weights, output_norm, output_absmax  [n, k] float or None
    logits        [n, E] float32, float16, or uint16 holding bfloat16 bits, or None; only rows of `logits_kept`
                  (bool [n], None for all) are stored
    input_absmax, entropy, margin  [n] float or None; NaN is unknown
    similarity, hidden_absmax, hidden_absmedian  [n] float or None: the residual stream around the experts
    shared_absmax, shared_input_absmax  [n] float or None: largest component of the shared expert's output and input
    expert_norm   [n, E] float or None: L2 norm of every expert's output; NaN is unknown
    outputs       [m, k, H] float or None: the m rows where `outputs_kept` (bool [n], None for all) is true
    missing_reason  text for the rows without routing, or one text for each row [n]
    """

    layer: int
    experts: np.ndarray
    weights: np.ndarray | None = None
    logits: np.ndarray | None = None
    logits_kept: np.ndarray | None = None
    output_norm: np.ndarray | None = None
    output_absmax: np.ndarray | None = None
    input_absmax: np.ndarray | None = None
    outputs: np.ndarray | None = None
    outputs_kept: np.ndarray | None = None
    entropy: np.ndarray | None = None
    margin: np.ndarray | None = None
    similarity: np.ndarray | None = None
    hidden_absmax: np.ndarray | None = None
    hidden_absmedian: np.ndarray | None = None
    shared_absmax: np.ndarray | None = None
    shared_input_absmax: np.ndarray | None = None
    expert_norm: np.ndarray | None = None
    missing_reason: Any = None

    @property
    def nbytes(self) -> int:
        return sum(v.nbytes for v in (getattr(self, f.name) for f in fields(self)) if isinstance(v, np.ndarray))


@dataclass
class Batch:
    """Whole sequences with their tokens and routing; `index` counts the batches of a run from 0.

    sequences: dicts with sequence_id, and prompt_id, label, source, text, n_tokens, metadata where known.
    tokens: arrays [n] under sequence_id, position, and token_id, phase (0 prefill, 1 decode), logprob, predicted_id,
    token (list of str or None) where known.
    moments: layer -> (count [E], mean [E, H], m2 [E, H]) of the experts' output vectors over this batch alone.
    router_inputs: layer -> (count [E], sum [E, H], products [H, H]) of what the router received in this batch alone, by
    the expert ranked first; the products are summed over all of them.
    """

    index: int
    sequences: list[dict[str, Any]]
    tokens: dict[str, Any]
    layers: list[LayerRows]
    moments: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] | None = None
    router_inputs: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] | None = None

    @property
    def n_tokens(self) -> int:
        return len(self.tokens["sequence_id"])

    @property
    def n_rows(self) -> int:
        return self.n_tokens * len(self.layers)

    @property
    def nbytes(self) -> int:
        """Memory the batch holds, roughly: arrays, texts and 64 bytes for each token's text."""
        arrays = sum(v.nbytes for v in self.tokens.values() if isinstance(v, np.ndarray))
        texts = sum(len(s.get("text") or "") for s in self.sequences)
        kept = (*(self.moments or {}).values(), *(self.router_inputs or {}).values())
        sums = sum(array.nbytes for arrays_ in kept for array in arrays_)
        return arrays + texts + sums + 64 * self.n_tokens + sum(rows.nbytes for rows in self.layers)


def check_batch(batch: Batch, layers: dict[int, LayerInfo]) -> None:
    """TraceError naming the first thing that does not fit; a bad batch must not reach the file."""
    _check_tokens(batch)
    seen: set[int] = set()
    for rows in batch.layers:
        if rows.layer not in layers or rows.layer in seen:
            raise _bad(batch, f"layer {rows.layer} is {'given twice' if rows.layer in seen else 'not one of the run'}")
        seen.add(rows.layer)
    for rows in batch.layers:
        _check_rows(batch, rows, layers[rows.layer])


def _bad(batch: Batch, what: str) -> TraceError:
    return TraceError(f"batch {batch.index}: {what}")


def _check_tokens(batch: Batch) -> None:
    for name, values in batch.tokens.items():
        if values is not None and len(values) != batch.n_tokens:
            raise _bad(batch, f"tokens[{name!r}] has {len(values)} entries, sequence_id has {batch.n_tokens}")
    if "position" not in batch.tokens:
        raise _bad(batch, "tokens need 'position'")
    known = [s["sequence_id"] for s in batch.sequences]
    if len(set(known)) != len(known):
        raise _bad(batch, "a sequence is given twice")
    strangers = np.setdiff1d(batch.tokens["sequence_id"], np.array(known, dtype=np.int64))
    if strangers.size:
        raise _bad(batch, f"tokens name sequence {strangers[0]}, which is not in the batch")


def _check_rows(batch: Batch, rows: LayerRows, info: LayerInfo) -> None:
    n, where = batch.n_tokens, f"layer {rows.layer}"
    if rows.experts.ndim != 2 or rows.experts.shape[0] != n or rows.experts.shape[1] > info.width:
        raise _bad(batch, f"{where}: experts {rows.experts.shape} do not fit {n} tokens x {info.width} slots")
    for name in ("weights", "output_norm", "output_absmax"):
        _same_shape(batch, rows, name, rows.experts.shape)
    for name in ("input_absmax", "entropy", "margin", *HIDDEN, *SHARED, "logits_kept", "outputs_kept"):
        _same_shape(batch, rows, name, (n,))
    for name in ("logits", "expert_norm"):
        _same_shape(batch, rows, name, (n, info.num_experts))
    if rows.logits is not None and rows.logits.dtype not in (np.float32, np.float16, np.uint16):
        raise _bad(batch, f"{where}: logits are {rows.logits.dtype}, not float32, float16 or uint16 (bfloat16 bits)")
    if rows.outputs is not None:
        _check_outputs(batch, rows)
    if rows.experts.size and not (rows.experts.min() >= -2 and rows.experts.max() < info.num_experts):
        raise _bad(batch, f"{where}: expert ids must lie in -2..{info.num_experts - 1}")


def _check_outputs(batch: Batch, rows: LayerRows) -> None:
    assert rows.outputs is not None
    kept = batch.n_tokens if rows.outputs_kept is None else int(np.count_nonzero(rows.outputs_kept))
    fits = rows.outputs.ndim == 3 and rows.outputs.shape[1] == rows.experts.shape[1]
    if not fits or len(rows.outputs) not in (kept, batch.n_tokens):
        raise _bad(
            batch, f"layer {rows.layer}: outputs have shape {rows.outputs.shape}, expected {kept} tokens x k x H"
        )


def _same_shape(batch: Batch, rows: LayerRows, name: str, shape: tuple[int, ...]) -> None:
    value = getattr(rows, name)
    if value is not None and value.shape != shape:
        raise _bad(batch, f"layer {rows.layer}: {name} has shape {value.shape}, expected {shape}")
