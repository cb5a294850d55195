"""From the pieces one layer gave off, on the host, to the NumPy arrays of a `Routing`."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import numpy as np
import torch

from probes.capture.discovery import MoELayer
from probes.capture.forward import Hidden, Shared
from probes.capture.shared import take_shared
from probes.errors import ProbeError
from probes.routing import NO_EXPERT, Routing

PER_SLOT = ("weights", "output_norm", "output_absmax", "outputs")


class LayerArrays(NamedTuple):
    """One layer of one pass; `missing` says why there is no routing."""

    routing: Routing | None
    bf16: bool = False
    missing: str = ""
    hidden: Hidden | None = None
    router_inputs: np.ndarray | None = None
    shared: Shared | None = None
    expert_norm: np.ndarray | None = None


def layer_arrays(kept: dict[str, list[torch.Tensor]], rows: int, found: MoELayer, weights: bool = True) -> LayerArrays:
    """Arrays of `rows` rows; rows the router did not see are filled with -1 and NaN."""
    if "experts" not in kept and "logits" not in kept:
        return LayerArrays(None, missing="its router did not run in this pass")
    shared = take_shared(kept, rows)
    seen = _only(kept.pop("rows", None))
    tensors = {name: _joined(values, rows) for name, values in kept.items()}
    bf16 = "logits" in tensors and tensors["logits"].dtype == torch.bfloat16
    arrays = {name: _numpy(name, tensor) for name, tensor in tensors.items()}
    wrong = {len(a) for a in arrays.values()}
    wrong.discard(rows if seen is None else int(seen.sum()))
    if wrong:
        return LayerArrays(None, missing=f"its router saw {wrong.pop()} rows of {rows}, and not which")
    if seen is not None:
        arrays = {name: _spread(a, seen.numpy()) for name, a in arrays.items()}
    _sort_slots(arrays)
    _empty_slots(arrays)
    if not weights:
        arrays.pop("weights", None)
    hidden = Hidden(*(arrays[n] for n in Hidden.__dataclass_fields__)) if "similarity" in arrays else None
    fields = {name: arrays.get(name) for name in ("weights", "logits", *PER_SLOT[1:], "input_absmax")}
    experts = arrays.get("experts", np.full((rows, found.top_k), NO_EXPERT))
    more = (hidden, arrays.get("router_inputs"), shared, arrays.get("expert_norm"))
    return LayerArrays(Routing(experts, **fields), bf16, "", *more)


def _only(values: list[torch.Tensor] | None) -> torch.Tensor | None:
    return values[-1] if values else None


def _joined(values: list[torch.Tensor], rows: int) -> torch.Tensor:
    """Pieces of one pass in order; a layer that ran over all rows more than once counts with its last run."""
    if len(values) == 1:
        return values[0]
    if len({value.shape[1:] for value in values}) > 1 and len(values[-1]) != rows:
        raise ProbeError("pieces of a pass were steered to different numbers of experts; give the model fewer tokens")
    return values[-1] if len(values[-1]) == rows else torch.cat(values)


def _numpy(name: str, tensor: torch.Tensor) -> np.ndarray:
    """Logits keep their precision (bf16 as uint16 bit patterns), ids are int64, everything else is float32."""
    if name == "logits":
        bits = tensor.view(torch.int16).numpy().view(np.uint16) if tensor.dtype == torch.bfloat16 else tensor.numpy()
        return bits
    wanted = torch.int64 if name == "experts" else torch.float32
    return (tensor if tensor.dtype == wanted else tensor.to(wanted)).numpy()


def _spread(values: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """`values` of the rows that were seen, at their places among all rows."""
    out: np.ndarray = np.full((len(seen), *values.shape[1:]), _blank(values.dtype), values.dtype)
    out[seen] = values
    return out


def _blank(dtype: Any) -> Any:
    if dtype == np.uint16:
        return 0x7FC0  # bf16 NaN
    return np.nan if np.issubdtype(dtype, np.floating) else NO_EXPERT


def _empty_slots(arrays: dict[str, np.ndarray]) -> None:
    """A slot without an expert has weight 0 and no output."""
    experts = arrays.get("experts")
    if experts is None or not (experts < 0).any():
        return
    for name in PER_SLOT[1:]:
        if name in arrays:
            arrays[name][experts < 0] = np.nan


def _rises(weights: np.ndarray) -> bool:
    if len(weights) == 1:  # a decoding step: eight numbers are faster as a list
        row = weights[0].tolist()
        return any(b > a for a, b in itertools.pairwise(row))
    return bool((weights[:, 1:] > weights[:, :-1]).any())


def _sort_slots(arrays: dict[str, np.ndarray]) -> None:
    """Descending weight; models with a selection bias or an unsorted top-k hand their slots over in another order."""
    weights = arrays.get("weights")
    if weights is None or weights.shape[1] < 2 or not _rises(weights):
        return
    order = np.argsort(-weights, axis=1, kind="stable")
    for name in ("experts", *PER_SLOT):
        if name in arrays:
            values = arrays[name]
            index = order if values.ndim == 2 else order[..., None]
            arrays[name] = np.take_along_axis(values, index, axis=1)
