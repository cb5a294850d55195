"""The public function of a metric: arrays in, table out; made from its declaration, so the two cannot differ."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from probes.errors import ProbeError, UsageError, unknown
from probes.metrics.bootstrap import RESAMPLES, SEED
from probes.metrics.chunk import MOMENTS, WEIGHTS, About, PairedArrays, cut, sequence_starts
from probes.metrics.registry import Metric
from probes.metrics.run import run
from probes.routing import LOST, NO_EXPERT, PER_SLOT, RoutingArrays, packed
from probes.slot_order import sort_slots
from probes.void import cleared

if TYPE_CHECKING:
    import pandas as pd

ARRAYS = (
    (
        "experts",
        "[T, L, k] (or [T, k] for one layer) chosen ids in descending weight order; -1 everywhere: no routing; -1 in "
        "some slots: these are empty; -2: routed, but the slot's expert was dropped",
    ),
    ("sequence_id", "[T] tokens of a sequence are contiguous and in order"),
    ("num_experts", "E"),
    ("layers", "[L] the model's own layer indices (default 0..L-1)"),
    ("weights", "[T, L, k] weights of the chosen experts"),
    ("logits", "[T, L, E] router logits before softmax; NaN rows where they were not kept"),
    ("output_norm", "[T, L, k] L2 norm of each chosen expert's output"),
    ("output_absmax", "[T, L, k] largest absolute component of that output"),
    ("input_absmax", "[T, L] largest absolute component of the experts' input"),
    ("similarity", "[T, L] cosine of the residual stream before the experts and after adding what they returned"),
    ("hidden_absmax", "[T, L] largest absolute component of the residual stream before the experts"),
    ("hidden_absmedian", "[T, L] its median absolute component"),
    ("shared_absmax", "[T, L] largest absolute component of what the layer's shared expert returned"),
    ("shared_input_absmax", "[T, L] largest absolute component of what it received"),
    ("expert_norm", "[T, L, E] L2 norm of what every expert, chosen or not, makes of the token"),
    ("router_input", "[T, L, H] what the router received"),
    ("output_count", "[L, E] how many output vectors of each expert were seen"),
    ("output_mean", "[L, E, H] their mean"),
    ("output_m2", "[L, E, H] sum of squared differences from that mean"),
    ("router_weight", "[L, E, H] rows of the router's weight"),
    ("expert_weight", "[L, E, N, W] weights of each expert's neurons"),
    ("token_id", "[T] token ids"),
    ("predicted_id", "[T] the model's most likely next token"),
    ("token", "[T] token text"),
    ("label", "[S] or [T] label of each sequence: text, or an index into label_names (-1 = none)"),
    ("label_names", "names of the labels, where `label` holds numbers"),
    ("other_experts", "[T, L, k'] what a second run chose for the same tokens, where a metric compares two runs"),
    ("other_logits", "[T, L, E] its logits"),
    ("scores", "how logits become scores: softmax, sigmoid or sqrtsoftplus; one for all layers, or [L]"),
    ("top_k", "experts the router chooses per token (default: the most that any token has)"),
)
COMMON = (
    ("by", "group by this ('label')"),
    ("ci", "add 95 % bootstrap intervals over sequences"),
    ("resamples", "how many resamples"),
    ("seed", "seed of the resamples"),
)
PER_TOKEN_LAYER = (
    "input_absmax",
    "similarity",
    "hidden_absmax",
    "hidden_absmedian",
    "shared_absmax",
    "shared_input_absmax",
)
PER_EXPERT = ("logits", "other_logits", "expert_norm")
SCORES = ("softmax", "sigmoid", "sqrtsoftplus", "unknown")
RANK_OPTIONS = ("adjacent_rank",)  # they make a metric look at the order of the slots, which it does not do otherwise
_CHUNK_CELLS = 16_000_000


class ArraysSource:
    """Arrays in memory as a source: cut into blocks of whole sequences so that temporaries stay small."""

    def __init__(self, arrays: RoutingArrays, scores: Any = "softmax", num_hidden_layers: int | None = None) -> None:
        self.arrays = arrays = cleared(arrays)
        self.starts = sequence_starts(arrays.sequence_id)
        self.n_sequences = len(self.starts) - 1
        self.label_names = tuple(arrays.label_names)
        layers = np.asarray(arrays.layers)
        self.about = About(
            layers=layers,
            num_experts=arrays.num_experts,
            top_k=arrays.top_k,
            slots=arrays.slots,
            scores=layer_scores(scores, len(layers)),
            num_hidden_layers=num_hidden_layers,
        )

    def chunks(self, needs: tuple[str, ...]) -> Iterator[RoutingArrays]:
        """Blocks of whole sequences; an array that is needed and absent is an error that names it."""
        for name in needs:
            if not name.endswith("?") and name != "label" and getattr(self.arrays, name, None) is None:
                raise ProbeError(f"this needs `{name}`, which was not given or not recorded")
        if self.n_sequences:
            yield from (
                cut(self.arrays, a, b) for a, b in self._blocks(bool({"logits", "logits?", "expert_norm"} & set(needs)))
            )

    def _blocks(self, logits: bool) -> Iterator[tuple[int, int]]:
        width = len(self.about.layers) * (self.about.num_experts if logits else self.about.width)
        size = max(1, _CHUNK_CELLS // max(1, width))
        first = 0
        for s in range(1, self.n_sequences + 1):
            if s == self.n_sequences or self.starts[s + 1] - self.starts[first] > size:
                yield int(self.starts[first]), int(self.starts[s])
                first = s

    def aggregates(self) -> None:
        """Arrays carry no stored sums."""
        return None


def layer_scores(scores: Any, layers: int) -> tuple[str, ...]:
    """One scoring rule per layer; a wrong name is a UsageError."""
    each = (scores,) * layers if isinstance(scores, str) else tuple(scores)
    for name in each:
        if name not in SCORES:
            raise unknown("scores", str(name), SCORES)
    if len(each) != layers:
        raise UsageError(f"scores names {len(each)} layers, the arrays have {layers}")
    return each


def routing_arrays(
    experts: Any = None,
    sequence_id: Any = None,
    num_experts: int | None = None,
    layers: Any = None,
    label: Any = None,
    label_names: Sequence[str] = (),
    top_k: int | None = None,
    **floats: Any,
) -> RoutingArrays:
    """Checks shapes and ids once, and puts everything into the shapes metrics take. Errors name the array."""
    ids = np.asarray(experts)
    ids = ids[:, None, :] if ids.ndim == 2 else ids
    if ids.ndim != 3 or ids.dtype.kind not in "iu":
        raise ProbeError(f"experts must be whole numbers of shape [tokens, layers, k], not {ids.dtype} {ids.shape}")
    ids = _marked(ids)
    sequence = np.zeros(len(ids), np.int64) if sequence_id is None else np.asarray(sequence_id)
    if num_experts is None:
        raise ProbeError("num_experts is needed: the ids alone do not say how many experts there are")
    _check_ids(ids, sequence, num_experts)
    if top_k is not None and not 1 <= top_k <= num_experts:
        raise ProbeError(f"top_k is {top_k}; it must lie in 1..num_experts ({num_experts})")
    arrays = {name: _shaped(name, value, ids, num_experts) for name, value in floats.items() if value is not None}
    ids, arrays = _packed(ids, arrays)
    codes, names = _labels(label, tuple(label_names), sequence)
    own = np.arange(ids.shape[1]) if layers is None else np.asarray(layers)
    if len(own) != ids.shape[1]:
        raise ProbeError(f"layers names {len(own)} layers, experts has {ids.shape[1]}")
    kind = PairedArrays if arrays.get("other_experts") is not None else RoutingArrays
    if kind is RoutingArrays:
        arrays.pop("other_logits", None)
    return kind(ids, sequence, own, int(num_experts), label=codes, label_names=names, router_k=top_k, **arrays)


def _marked(ids: np.ndarray) -> np.ndarray:
    """Ids with one mark for an empty slot: every negative number but that of a dropped expert says the same."""
    return np.where((ids < 0) & (ids != LOST), NO_EXPERT, ids) if ids.dtype.kind == "i" else ids


def _check_ids(ids: np.ndarray, sequence: np.ndarray, num_experts: int) -> None:
    if len(sequence) != len(ids):
        raise ProbeError(f"sequence_id has {len(sequence)} tokens, experts has {len(ids)}")
    if ids.size and ids.max() >= num_experts:
        raise ProbeError(f"experts names expert {ids.max()}, but num_experts is {num_experts}")


def _shaped(name: str, value: Any, ids: np.ndarray, num_experts: int) -> np.ndarray:
    array = np.asarray(value)
    if name in ("token_id", "predicted_id", "token"):
        expected: tuple[int, ...] = ids.shape[:1]
    elif name in PER_TOKEN_LAYER:
        array = array[:, None] if array.ndim == 1 and ids.shape[1] == 1 else array
        expected = ids.shape[:2]
    elif name in WEIGHTS:
        expected = (ids.shape[1], num_experts, *array.shape[2:])
    elif name in MOMENTS:
        expected = (ids.shape[1], num_experts, *array.shape[2:3])
    elif name == "router_input":
        array = array[:, None, :] if array.ndim == 2 and ids.shape[1] == 1 else array
        expected = (*ids.shape[:2], *array.shape[2:3])
    else:
        array = array[:, None, :] if array.ndim == 2 and ids.shape[1] == 1 else array
        last = array.shape[2:3] if name == "other_experts" else (ids.shape[2],)
        expected = (*ids.shape[:2], *((num_experts,) if name in PER_EXPERT else last))
    if array.shape != expected:
        raise ProbeError(f"{name} has shape {list(array.shape)}, expected {list(expected)}")
    return array


def _packed(ids: np.ndarray, arrays: dict[str, np.ndarray]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Empty slots last, and no slot that is empty everywhere: neither is to change a number."""
    names = [name for name in PER_SLOT if name in arrays]
    floats = [arrays[name].astype(np.result_type(arrays[name], np.float32), copy=False) for name in names]
    ids, *values = _trimmed(*packed(ids, *floats))
    more = dict(zip(names, values, strict=True))
    if "other_experts" in arrays:
        (more["other_experts"],) = _trimmed(*packed(_marked(arrays["other_experts"])))
    return ids, arrays | more


def _by_weight(arrays: RoutingArrays) -> RoutingArrays:
    """Slots in descending weight, where weights are given: ids sorted by number have no first choice."""
    weights = arrays.weights
    if weights is None or not (weights[..., 1:] > weights[..., :-1]).any():
        return arrays
    moving: dict[str, Any] = {
        name: np.array(getattr(arrays, name)) for name in PER_SLOT if getattr(arrays, name) is not None
    }
    ids = np.array(arrays.experts)
    sort_slots(ids, list(moving.values()), moving["weights"], None)
    return replace(arrays, experts=ids, **moving)


def _looks_at_ranks(metric: Metric, options: Mapping[str, Any]) -> bool:
    return "rank_order" not in metric.laws or any(options.get(name) for name in RANK_OPTIONS)


def _trimmed(ids: Any, *values: Any) -> tuple[Any, ...]:
    used = np.flatnonzero((ids != NO_EXPERT).any(axis=(0, 1)))
    last = int(used[-1]) + 1 if len(used) else 1
    return ids[:, :, :last], *(array[:, :, :last] for array in values)


def _labels(label: Any, names: tuple[str, ...], sequence: np.ndarray) -> tuple[np.ndarray | None, tuple[str, ...]]:
    if label is None:
        return None, names
    starts = sequence_starts(sequence)
    values = np.asarray(label, dtype=object)
    if len(values) == len(starts) - 1 != len(sequence):
        values = np.repeat(values, np.diff(starts))
    if len(values) != len(sequence):
        raise ProbeError(f"label has {len(values)} entries for {len(starts) - 1} sequences and {len(sequence)} tokens")
    if names:
        return values.astype(np.int64), names
    found = tuple(sorted({str(v) for v in values if v is not None and v != -1}))
    code = {name: i for i, name in enumerate(found)}
    return np.array([code.get(str(v), -1) if v is not None else -1 for v in values], np.int64), found


def make_function(metric: Metric) -> Callable[..., pd.DataFrame]:
    """`probes.metrics.<name>`: keyword arguments are the arrays, the metric's options, and by/ci/resamples/seed."""

    names = {o.keyword: o.name for o in metric.options if o.keyword}

    def function(experts: Any, sequence_id: Any = None, num_experts: int | None = None, **given: Any) -> pd.DataFrame:
        known = {name for name, _ in ARRAYS}
        arrays = {name: given.pop(name) for name in list(given) if name in known}
        common = {name: given.pop(name) for name, _ in COMMON if name in given}
        scores = arrays.pop("scores", None) or "softmax"
        given = {names.get(name, name): value for name, value in given.items()}
        routing = routing_arrays(experts, sequence_id, num_experts, **arrays)
        routing = _by_weight(routing) if _looks_at_ranks(metric, given) else routing
        return run(metric, ArraysSource(routing, scores), given, **common)

    function.__name__ = function.__qualname__ = metric.name
    function.__module__ = "probes.metrics"
    function.__doc__ = _doc(metric)
    function.__signature__ = _signature(metric)  # type: ignore[attr-defined]
    return function


def _signature(metric: Metric) -> inspect.Signature:
    keyword = inspect.Parameter.KEYWORD_ONLY
    defaults = {"by": None, "ci": False, "resamples": RESAMPLES, "seed": SEED, "scores": "softmax", "label_names": ()}
    first = [inspect.Parameter("experts", inspect.Parameter.POSITIONAL_OR_KEYWORD)]
    arrays = [inspect.Parameter(n, keyword, default=defaults.get(n)) for n, _ in ARRAYS[1:]]
    options = [inspect.Parameter(o.keyword or o.name, keyword, default=o.default) for o in metric.options]
    common = [inspect.Parameter(n, keyword, default=defaults[n]) for n, _ in COMMON]
    return inspect.Signature([*first, *arrays, *options, *common])


def _doc(metric: Metric) -> str:
    lines = [f"{metric.title}: {metric.question}", "", f"Formula: {metric.formula}", "", f"Source: {metric.source}", ""]
    lines += ["Arrays (needs beside experts: " + (", ".join(metric.needed(metric.checked({}))) or "nothing") + "):"]
    lines += [f"    {name}: {text}" for name, text in ARRAYS]
    lines += ["", "Options:"] + [f"    {o.keyword or o.name} = {o.default!r}: {o.help}" for o in metric.options]
    lines += [f"    {name}: {text}" for name, text in COMMON]
    lines += ["", "Columns:"] + [f"    {c.name} [{c.unit}]: {c.description}" for c in metric.columns]
    return "\n".join(lines)
