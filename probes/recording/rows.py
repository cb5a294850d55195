"""Forward passes and predictions of one batch, made into the rows that a trace keeps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from probes.recording.encode import EncodedPrompt
from probes.recording.layout import Layout
from probes.recording.plan import sample_positions
from probes.recording.streams import ENCODER, Streams, streams
from probes.recording.tokens import TokenTexts
from probes.routing import LOST, NO_EXPERT, PER_SLOT, Router, Routing, packed
from probes.scatter import class_sums
from probes.scores import bf16_to_float32, entropy, margin, probabilities
from probes.void import ALL_INFINITE, ALL_NAN, all_infinite, all_nan

if TYPE_CHECKING:
    from store.batch import Batch, LayerRows

UNROUTED = "the router did not see this token"
# Column of the trace, and what the capture calls it.
HIDDEN = {"similarity": "similarity", "hidden_absmax": "absmax", "hidden_absmedian": "absmedian"}
SHARED = {"shared_absmax": "absmax", "shared_input_absmax": "input_absmax"}


@dataclass(frozen=True)
class RowSettings:
    """What decides the rows apart from the forward passes themselves."""

    routers: tuple[Router, ...]
    scoring: dict[int, str | None]
    keep: frozenset[str]
    logit_rate: float
    output_rate: float
    seed: int
    token_texts: TokenTexts
    slots: dict[int, int] = field(default_factory=dict)  # layer -> most experts of a token, where it is not top_k


def batch_rows(
    index: int,
    group: Sequence[EncodedPrompt],
    generated: Sequence[np.ndarray],
    forwards: Sequence[Any],
    predictions: Sequence[Any],
    settings: RowSettings,
    moments: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] | None = None,
) -> Batch:
    """One batch as the trace takes it; a sequence is its prompt's tokens followed by the generated ones."""
    from store.batch import Batch

    ids = [np.concatenate([item.ids, new]) for item, new in zip(group, generated, strict=True)]
    lengths = [len(sequence) for sequence in ids]
    fed = [length - unfed for length, unfed in zip(lengths, _unfed(generated, forwards), strict=True)]
    found = streams(forwards, lengths, fed, [len(item.ids) for item in group])
    layers = [_layer(router, *_stream(found, router), group, settings) for router in settings.routers]
    return Batch(
        index=index,
        sequences=[_sequence(item, length) for item, length in zip(group, lengths, strict=True)],
        tokens=_tokens(group, np.concatenate(ids), found.main.layout, predictions, settings),
        layers=layers,
        moments=moments,
        router_inputs=_router_inputs(settings.routers, found, layers),
    )


def _unfed(generated: Sequence[np.ndarray], forwards: Sequence[Any]) -> list[int]:
    """Tokens at the end of each sequence that were chosen but not fed, so that nothing was routed for them.

    A decoder beside an encoder is fed its start token in any case.
    """
    given = any(forward.stream == ENCODER for forward in forwards)
    return [int(len(new) > given) for new in generated]


def _stream(found: Streams, router: Router) -> tuple[Sequence[Any], Layout]:
    stream = found.of(router)
    return stream.forwards, stream.layout


def _sequence(item: EncodedPrompt, length: int) -> dict[str, Any]:
    prompt = item.prompt
    metadata = {**prompt.metadata, **({"target": prompt.target} if prompt.target is not None else {})}
    return {
        "sequence_id": item.sequence_id,
        "prompt_id": prompt.prompt_id,
        "label": prompt.label,
        "source": prompt.source,
        "text": item.text,
        "n_tokens": length,
        "metadata": metadata,
    }


def _tokens(
    group: Sequence[EncodedPrompt], ids: np.ndarray, layout: Layout, predictions: Sequence[Any], settings: RowSettings
) -> dict[str, Any]:
    sequence_ids = np.array([item.sequence_id for item in group], dtype=np.int32)
    tokens = {
        "sequence_id": sequence_ids[layout.sequence],
        "position": layout.position.astype(np.int32),
        "token_id": ids,
        "phase": layout.phase,
        "token": settings.token_texts(ids.tolist()),
    }
    if predictions:
        logprob = layout.gather([p.logprob.reshape(-1).cpu().numpy() for p in predictions], np.nan)
        logprob = np.where(layout.position == 0, np.nan, logprob)  # nothing stands before the first token
        tokens["logprob"] = logprob.astype(np.float32)
        predicted = layout.gather([p.predicted_id.reshape(-1).cpu().numpy() for p in predictions], -1)
        tokens["predicted_id"] = predicted.astype(np.int32)
    return tokens


def _layer(
    router: Router, forwards: Sequence[Any], layout: Layout, group: Sequence[EncodedPrompt], settings: RowSettings
) -> LayerRows:
    from store.batch import LayerRows

    parts = as_wide([forward.routing[router.layer] for forward in forwards if router.layer in forward.routing])
    if len(parts) < len(forwards):
        return _unrouted(router, forwards, layout)
    slots = {
        name: layout.gather([getattr(part, name) for part in parts], np.nan)
        for name in (*PER_SLOT, "outputs")
        if getattr(parts[0], name) is not None
    }
    experts, *values = packed(layout.gather([part.experts for part in parts], NO_EXPERT), *slots.values())
    arrays: dict[str, Any] = dict(zip(slots, values, strict=True))
    outputs = arrays.pop("outputs", None)
    if parts[0].input_absmax is not None:
        arrays["input_absmax"] = layout.gather([part.input_absmax for part in parts], np.nan)
    arrays |= _measured(router, HIDDEN, [forward.hidden for forward in forwards], layout)
    arrays |= _measured(router, SHARED, [forward.shared for forward in forwards], layout)
    every = [forward.expert_norm[router.layer] for forward in forwards if router.layer in forward.expert_norm]
    if len(every) == len(forwards):
        arrays["expert_norm"] = layout.gather(every, np.nan)
    said: dict[str, np.ndarray] = {}
    if parts[0].logits is not None:
        bf16 = forwards[0].logits_bf16
        logits = layout.gather([part.logits for part in parts], _BF16_NAN if bf16 else np.nan)
        said = _void(logits, bf16, layout)
        for rows in said.values():
            experts, logits = _blank(experts, rows, NO_EXPERT), _blank(logits, rows, _BF16_NAN if bf16 else np.nan)
            arrays |= {name: _blank(arrays[name], rows, np.nan) for name in PER_SLOT if name in arrays}
        arrays |= _scores(logits, bf16, experts, settings.scoring.get(router.layer, "softmax"))
        if "logits" in settings.keep:
            arrays["logits"] = logits
            arrays["logits_kept"] = _sampled(layout, group, settings.logit_rate, settings.seed)
    if outputs is not None:
        kept = _sampled(layout, group, settings.output_rate, settings.seed)
        for rows in said.values():
            outputs = _blank(outputs, rows, np.nan)
        arrays |= {"outputs": outputs if kept is None else outputs[kept], "outputs_kept": kept}
    return LayerRows(layer=router.layer, experts=experts, missing_reason=_reasons(experts, layout, said), **arrays)


def as_wide(parts: Sequence[Routing]) -> list[Routing]:
    """The same routing with one number of slots; an intervention may use more in one pass than in another."""
    most = max((part.experts.shape[1] for part in parts), default=0)
    return [part if part.experts.shape[1] == most else _widened(part, most) for part in parts]


def _widened(part: Routing, slots: int) -> Routing:
    def wide(values: Any, blank: Any) -> Any:
        if values is None:
            return None
        room = [(0, slots - values.shape[1]) if axis == 1 else (0, 0) for axis in range(values.ndim)]
        return np.pad(values, room, constant_values=blank)

    slot_values = {name: wide(getattr(part, name), np.nan) for name in (*PER_SLOT, "outputs")}
    return replace(part, experts=wide(part.experts, NO_EXPERT), **slot_values)


def _reasons(experts: np.ndarray, layout: Layout, said: dict[str, np.ndarray]) -> Any:
    """Why rows have no expert: never fed, a router that said nothing or did not run, or nothing left of its choice."""
    from store.batch import LOST_REASON

    unfed, lost = layout.source < 0, experts[:, 0] == LOST
    unrouted = (experts[:, 0] == NO_EXPERT) & ~unfed
    if not (lost | unrouted).any():
        return layout.unfed if unfed.any() else None
    reasons = np.where(unfed, layout.unfed, np.where(lost, LOST_REASON, UNROUTED)).astype(object)
    for why, rows in said.items():
        reasons[rows] = why
    return reasons


def _void(logits: np.ndarray, bf16: bool, layout: Layout) -> dict[str, np.ndarray]:
    """reason -> bool [n]: rows that were fed, and of which the router said nothing."""
    values, fed = _float32(logits, bf16), layout.source >= 0
    found = {ALL_INFINITE: fed & all_infinite(values), ALL_NAN: fed & all_nan(values)}
    return {why: rows for why, rows in found.items() if rows.any()}


def _blank(values: np.ndarray, rows: np.ndarray, blank: float) -> np.ndarray:
    kept = values.copy()  # gathered arrays may be those of the forward pass itself
    kept[rows] = blank
    return kept


_BF16_NAN = 0x7FC0


def _measured(router: Router, names: dict[str, str], found: Sequence[dict[int, Any]], layout: Layout) -> dict[str, Any]:
    """What was measured per token of a layer; nothing where it was not asked for, or not found in this layer."""
    parts = [each[router.layer] for each in found if router.layer in each]
    if not parts or len(parts) < len(found):
        return {}
    return {name: layout.gather([getattr(part, own) for part in parts], np.nan) for name, own in names.items()}


def _router_inputs(
    routers: Sequence[Router], found: Streams, layers: Sequence[LayerRows]
) -> dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] | None:
    """Sums of the router inputs of this batch by the expert ranked first, over the tokens that were really fed."""
    sums = {}
    for router, rows in zip(routers, layers, strict=True):
        forwards, layout = _stream(found, router)
        if all(router.layer in forward.router_inputs for forward in forwards):
            inputs = layout.gather([forward.router_inputs[router.layer] for forward in forwards], np.nan)
            sums[router.layer] = class_sums(inputs, rows.experts[:, 0], router.num_experts)
    return sums or None


def _unrouted(router: Router, forwards: Sequence[Any], layout: Layout) -> LayerRows:
    """A layer that did not run on these tokens (another modality's experts), with the reason the hooks gave."""
    from store.batch import LayerRows

    reason = next((f.missing[router.layer] for f in forwards if router.layer in f.missing), "the layer did not run")
    experts = np.full((len(layout.source), max(1, router.top_k)), NO_EXPERT, dtype=np.int16)
    return LayerRows(layer=router.layer, experts=experts, missing_reason=reason)


def _scores(logits: np.ndarray, bf16: bool, experts: np.ndarray, scoring: str | None) -> dict[str, np.ndarray]:
    """Entropy and margin; none where it is not known how the layer makes scores of its logits."""
    if scoring is None:
        return {}
    values = _float32(logits, bf16)
    p = probabilities(values, scoring)
    # A router may score more than it can choose (LongCat's identity experts are choosable, Zaya's skip class is not).
    return {"entropy": entropy(p), "margin": margin(p, experts)}


def _float32(logits: np.ndarray, bf16: bool) -> np.ndarray:
    return bf16_to_float32(logits) if bf16 else logits.astype(np.float32, copy=False)


def _sampled(layout: Layout, group: Sequence[EncodedPrompt], rate: float, seed: int) -> np.ndarray | None:
    sequence_ids = np.array([item.sequence_id for item in group])[layout.sequence]
    return sample_positions(sequence_ids, layout.position, rate, seed)
