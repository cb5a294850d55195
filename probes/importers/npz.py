"""The neutral routing file: NumPy arrays in one `.npz`, read with pickle off.

Keys and shapes are the ones of the interface document; what they may not be is refused here, one line each.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from probes.errors import ProbeError, did_you_mean
from probes.importers.agreement import agreement, choice_line, judged
from probes.importers.order import order_notes
from probes.importers.rules import SCORINGS, ImportRule, import_rule, k_note
from probes.pieces import pieces
from probes.routing import NO_EXPERT, PER_SLOT, RoutingArrays, packed
from probes.slot_order import sort_slots

KEYS = (
    "experts",
    "logits",
    "weights",
    "output_norm",
    "output_absmax",
    "sequence_id",
    "num_experts",
    "k",
    "token_id",
    "predicted_id",
    "token",
    "label",
    "layer",
    "gating",
)


@dataclass(frozen=True)
class Imported:
    """What a foreign file held, and what in it deserves a word to the user.

    `gating` is stored with every layer, `scoring` is how its logits become scores ("unknown" where that is not known).
    """

    arrays: RoutingArrays
    gating: str
    scoring: str
    notes: list[str]
    dense_layers: frozenset[int]


def read_npz(
    path: str | Path,
    *,
    allow_missing: bool = False,
    allow_mismatch: bool = False,
    config: Mapping[str, Any] | None = None,
) -> Imported:
    """Read and validate a neutral routing file. Slots come in descending weight, empty ones last.

    Raises ProbeError, one line that names the key, for anything the format does not allow.
    `allow_missing` accepts NaN logits as "not recorded here", `allow_mismatch` logits that other ids belong to;
    `config` is the model's config.json, which tells how logits become scores and a choice.
    """
    data = _load(Path(path))
    notes = [f"ignored unknown key {key!r}{did_you_mean(key, KEYS)}" for key in data if key not in KEYS]
    sequence_id = _sequence_ids(data)
    logits = _floats(data, "logits", 3)
    num_experts = _num_experts(data, logits)
    _check_nan(logits, allow_missing)
    rule = import_rule(config or {}, _gating(data), logits is not None)
    experts = _experts(data, logits, num_experts, rule)
    tokens, layers, k = experts.shape
    if tokens != len(sequence_id):
        raise ProbeError(f"sequence_id has {len(sequence_id)} tokens, experts and logits have {tokens}")
    dense = _all_zero_layers(experts) if "experts" in data else frozenset()
    layer = _layers(data, layers)
    notes += [_dense_note(int(layer[index]), k) for index in sorted(dense)]
    if k > 1:
        experts[:, sorted(dense)] = NO_EXPERT
    _check_ids(experts, num_experts, layer)
    per_slot = [_shaped(_floats(data, name, 3), name, (tokens, layers, k)) for name in PER_SLOT]
    packed_ids, weights, output_norm, output_absmax = packed(experts, *per_slot)
    experts = np.asarray(packed_ids)
    # Logits as they stand in the file: rounding to 32 bits first could change which of two wins.
    exact = None if logits is None else _shaped(data["logits"], "logits", (tokens, layers, num_experts))
    moving = [array for array in (weights, output_norm, output_absmax) if array is not None]
    order = sort_slots(experts, moving, weights, exact)
    label_names, label = _labels(data, sequence_id)
    arrays = RoutingArrays(
        experts=experts,
        sequence_id=sequence_id,
        layers=layer,
        num_experts=num_experts,
        logits=_shaped(logits, "logits", (tokens, layers, num_experts)),
        weights=weights,
        output_norm=output_norm,
        output_absmax=output_absmax,
        token_id=_shaped(_integers(data, "token_id"), "token_id", (tokens,)),
        predicted_id=_shaped(_integers(data, "predicted_id"), "predicted_id", (tokens,)),
        token=_shaped(_strings(data, "token"), "token", (tokens,)),
        label=label,
        label_names=label_names,
        router_k=_scalar(data, "k"),
    )
    notes += k_note(config or {}, arrays.top_k)
    notes += rule.notes + tuple(order_notes(experts, order, weights is not None, exact is not None))
    if exact is not None and "experts" in data:
        notes += judged(experts, exact, sequence_id, arrays.top_k, rule, allow_mismatch)
    elif exact is not None:
        notes += choice_line(agreement(experts, exact, k, rule), k, rule)
    return Imported(arrays, rule.gating, rule.scoring, notes, dense if k > 1 else frozenset())


def _load(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise ProbeError(f"{path} does not exist")
    try:
        with path.open("rb") as stream:
            file = np.load(stream, allow_pickle=False)
            if isinstance(file, np.ndarray):
                raise ProbeError(f"{path} is a single array; expected an .npz archive of named arrays")
            return {key: _array(file, key) for key in file.files}
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, KeyError) as error:
        raise ProbeError(f"{path} is not a readable .npz file ({_first_line(error)})") from error
    except MemoryError as error:
        raise ProbeError(f"{path} does not fit in memory; split it by sequences and import the parts") from error


def _array(file: Any, key: str) -> np.ndarray:
    try:
        return file[key]
    except ValueError as error:
        if "pickle" in str(error).lower() or "object" in str(error).lower():
            raise ProbeError(
                f"{key!r} holds Python objects, which are refused; store plain numbers or strings"
            ) from error
        raise


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]


def _floats(data: dict[str, np.ndarray], key: str, dimensions: int) -> np.ndarray | None:
    values = data.get(key)
    if values is None:
        return None
    if values.dtype.kind not in "fiu":
        raise ProbeError(f"{key!r} must hold numbers, got {values.dtype}")
    if values.ndim != dimensions:
        raise ProbeError(f"{key!r} must have {dimensions} axes [tokens, layers, …], got shape {values.shape}")
    return values if values.dtype == np.float16 else values.astype(np.float32, copy=False)


def _integers(data: dict[str, np.ndarray], key: str) -> np.ndarray | None:
    values = data.get(key)
    if values is None:
        return None
    if values.dtype.kind not in "iu":
        raise ProbeError(f"{key!r} must hold integers, got {values.dtype}")
    if values.size and (values.max() > np.iinfo(np.int32).max or values.min() < np.iinfo(np.int32).min):
        raise ProbeError(f"{key!r} holds {values.max()}, more than 32 bits")
    return values.astype(np.int32)


def _strings(data: dict[str, np.ndarray], key: str) -> np.ndarray | None:
    values = data.get(key)
    if values is None:
        return None
    if values.dtype.kind != "U":
        raise ProbeError(f"{key!r} must hold strings, got {values.dtype}")
    return values


def _shaped(values: np.ndarray | None, key: str, shape: tuple[int, ...]) -> np.ndarray | None:
    if values is not None and values.shape != shape:
        raise ProbeError(f"{key!r} has shape {values.shape}, expected {shape}")
    return values


def _scalar(data: dict[str, np.ndarray], key: str) -> int | None:
    values = data.get(key)
    if values is None:
        return None
    if values.size != 1 or values.dtype.kind not in "iu" or int(values.reshape(-1)[0]) < 1:
        raise ProbeError(f"{key!r} must be one positive integer, got {values.dtype} of shape {values.shape}")
    return int(values.reshape(-1)[0])


def _sequence_ids(data: dict[str, np.ndarray]) -> np.ndarray:
    values = _integers(data, "sequence_id")
    if values is None:
        raise ProbeError(f"'sequence_id' is required{did_you_mean('sequence_id', data)}")
    if values.ndim != 1 or not values.size:
        raise ProbeError(f"'sequence_id' must be one id per token, at least one token; got shape {values.shape}")
    if values.min() < 0:
        raise ProbeError(f"'sequence_id' must not be negative, got {values.min()}")
    starts = np.flatnonzero(np.r_[True, values[1:] != values[:-1]])
    seen: dict[int, int] = {}
    for start in starts.tolist():
        first = seen.setdefault(int(values[start]), start)
        if first != start:
            raise ProbeError(
                f"sequence {values[start]} starts at token {first} and again at {start}; keep its tokens together"
            )
    return values


def _num_experts(data: dict[str, np.ndarray], logits: np.ndarray | None) -> int:
    given = _scalar(data, "num_experts")
    if logits is None:
        if "experts" not in data:
            raise ProbeError("needs 'experts' or 'logits'")
        if given is None:
            raise ProbeError("'num_experts' is required when there are no 'logits'")
        return given
    if given is not None and given != logits.shape[2]:
        raise ProbeError(f"'num_experts' is {given}, but 'logits' have {logits.shape[2]} experts")
    return int(logits.shape[2])


def _check_nan(logits: np.ndarray | None, allow_missing: bool) -> None:
    if logits is None or allow_missing:
        return
    bad = np.argwhere(np.isnan(logits))
    if len(bad):
        token, layer, expert = bad[0].tolist()
        raise ProbeError(
            f"'logits' are NaN at token {token}, layer index {layer}, expert {expert} ({len(bad)} in all); "
            "pass --allow-missing to take NaN as not recorded"
        )


def _experts(data: dict[str, np.ndarray], logits: np.ndarray | None, num_experts: int, rule: ImportRule) -> np.ndarray:
    k = _scalar(data, "k")
    values = data.get("experts")
    if values is None:
        if logits is None or k is None:
            raise ProbeError("'k' is required when there are no 'experts'")
        if k > num_experts:
            raise ProbeError(f"'k' is {k}, more than the {num_experts} experts")
        return _chosen(data["logits"], k, rule)
    if values.dtype.kind not in "iu":
        raise ProbeError(f"'experts' must hold integers, got {values.dtype}")
    if values.ndim != 3 or not values.size:
        raise ProbeError(f"'experts' must be [tokens, layers, k] with no empty axis, got shape {values.shape}")
    if k is not None and k > values.shape[2]:
        raise ProbeError(f"'k' is {k}, but 'experts' have {values.shape[2]} slots")
    if values.dtype.kind == "i":
        values = np.maximum(values, NO_EXPERT)
    if values.max() >= num_experts:
        token, layer, slot = np.unravel_index(int(values.argmax()), values.shape)
        raise ProbeError(
            f"'experts' names expert {values.max()} at token {token}, layer index {layer}, slot {slot}; "
            f"there are {num_experts} (0…{num_experts - 1})"
        )
    return values.astype(np.int16 if num_experts < 2**15 else np.int32)


def _chosen(logits: np.ndarray, k: int, rule: ImportRule) -> np.ndarray:
    """The choice that logits [T, L, E] alone lead to, [T, L, k]; refused where it depends on more than they hold."""
    if rule.missing:
        raise ProbeError(
            f"'logits' alone do not give this model's choice: it also depends on {rule.missing}. "
            "Put the chosen 'experts' in the file"
        )
    tokens, layers, size = logits.shape
    out = np.empty((tokens, layers, k), np.int16 if size < 2**15 else np.int32)
    for part in pieces(tokens, layers * size):
        rows = logits[part]
        out[part] = top_k(rule.values(rows.reshape(-1, size)).reshape(rows.shape), k)
    return out


def top_k(logits: np.ndarray, k: int) -> np.ndarray:
    """Ids of the k largest logits in descending order; of equal ones the lower id first. NaN rows choose nothing."""
    missing = np.isnan(logits).any(axis=2)
    order = np.argsort(-np.nan_to_num(logits, nan=-np.inf), axis=2, kind="stable")[:, :, :k]
    chosen = order.astype(np.int16 if logits.shape[2] < 2**15 else np.int32)
    chosen[missing] = NO_EXPERT
    return chosen


def _check_ids(experts: np.ndarray, num_experts: int, layer: np.ndarray) -> None:
    """A token may not name an expert twice: routers choose distinct experts, so a repeat means a wrong file."""
    if experts.shape[2] > num_experts:
        raise ProbeError(f"'experts' have {experts.shape[2]} slots but there are only {num_experts} experts")
    for index in range(experts.shape[1]):
        ordered = np.sort(experts[:, index], axis=1)
        twice = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
        if twice.any():
            token, slot = np.argwhere(twice)[0].tolist()
            raise ProbeError(f"token {token} names expert {ordered[token, slot]} twice in layer {layer[index]}")


def _all_zero_layers(experts: np.ndarray) -> frozenset[int]:
    return frozenset(np.flatnonzero((experts == 0).all(axis=(0, 2))).tolist())


def _dense_note(layer: int, k: int) -> str:
    what = "kept as it is" if k == 1 else "recorded as having no routing"
    return f"layer {layer} is all zero, as the dense layers of vLLM and SGLang dumps are; {what}"


def _layers(data: dict[str, np.ndarray], count: int) -> np.ndarray:
    values = _integers(data, "layer")
    if values is None:
        return np.arange(count, dtype=np.int32)
    _shaped(values, "layer", (count,))
    if len(np.unique(values)) != count or values.min() < 0:
        raise ProbeError("'layer' must hold different, non-negative layer indices")
    if (np.diff(values) < 0).any():
        raise ProbeError("'layer' must be in ascending order")
    return values


def _labels(data: dict[str, np.ndarray], sequence_id: np.ndarray) -> tuple[tuple[str, ...], np.ndarray | None]:
    values = _strings(data, "label")
    if values is None:
        return (), None
    starts = np.r_[True, sequence_id[1:] != sequence_id[:-1]]
    _shaped(values, "label", (int(starts.sum()),))
    names, codes = np.unique(values, return_inverse=True)
    return tuple(names.tolist()), codes.astype(np.int32)[np.cumsum(starts) - 1]


def _gating(data: dict[str, np.ndarray]) -> str | None:
    values = _strings(data, "gating")
    if values is None:
        return None
    gating = str(values.reshape(-1)[0]) if values.size else ""
    if gating not in SCORINGS:
        raise ProbeError(f"'gating' must be softmax or sigmoid (or sqrtsoftplus), got {gating!r}")
    return gating
