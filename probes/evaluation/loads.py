"""How much of the evaluated tokens each expert gets from the model as it is: what a control has to match.

Counted are the tokens of every text that is scored (the prompt with its target, or with each of its choices) and of
what the baseline writes, each once per text; padding is not. An intervention that acts on some tokens only (by phase,
position, the last ones, or the token itself) has loads of those; a random share and rows of a batch make no difference.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from probes.evaluation.arms import Arm, experts_in
from probes.interventions import Scope, Spec

Where = tuple[Scope, ...]  # what a token must be in one of, to be acted on
Text = tuple[np.ndarray, int]  # the ids of a text, and how many of them are read before writing begins
Counts = dict[int, np.ndarray]


@dataclass
class Loads:
    """(task, where) -> layer -> assignments of each expert [E]."""

    counts: dict[tuple[str, Where], Counts] = field(default_factory=dict)

    def add(self, task: str, where: Where, more: Mapping[int, np.ndarray]) -> None:
        known = self.counts.setdefault((task, where), {})
        for layer, counts in more.items():
            known[layer] = known[layer] + counts if layer in known else np.array(counts)

    def of(self, task: str, where: Where) -> Counts:
        return self.counts.get((task, where), {})


def where_of(arm: Arm, routers: Mapping[int, int], tokenizer: Any = None) -> Where | None:
    """Where the arm acts on experts that it names; None if it names none."""
    naming = [spec for spec in arm.specs if experts_in(spec, routers)]
    scopes = [_where(spec, tokenizer) for spec in naming]
    if not scopes:
        return None
    return (Scope(),) if Scope() in scopes else tuple(dict.fromkeys(scopes))


def _where(spec: Spec, tokenizer: Any) -> Scope:
    """What of a scope says which tokens are acted on, in every layer alike."""
    from probes.interventions.plan import with_token_ids

    scope = with_token_ids(spec, tokenizer).scope
    return Scope(phase=scope.phase, positions=scope.positions, last=scope.last, tokens=scope.tokens)


def key_of(where: Where) -> str:
    """As text, for a work file; no arm is called so."""
    kept = [(s.phase, s.positions, s.last, s.tokens) for s in where]
    return f"loads {json.dumps(kept)}"


def acted_on(where: Where, text: Text) -> np.ndarray:
    """bool [n]: the tokens of a text that lie in one of the scopes."""
    return np.any([_inside(scope, *text) for scope in where], axis=0)


def _inside(scope: Scope, ids: np.ndarray, start: int) -> np.ndarray:
    place = np.arange(len(ids))
    inside = np.ones(len(ids), bool)
    if scope.phase != "all":
        inside &= (place >= start) == (scope.phase == "decode")
    if scope.positions is not None:
        inside &= (place >= scope.positions[0]) & (place <= scope.positions[1])
    if scope.last is not None:  # of every pass: the last ones of the prompt, and each token that is written
        inside &= place >= start - scope.last
    if scope.tokens:
        inside &= np.isin(ids, scope.tokens)
    return inside


def count(
    model: Any, tokenizer: Any, texts: Sequence[Text], wheres: Iterable[Where], batch_size: int | None = None
) -> dict[Where, Counts]:
    """where -> layer -> assignments of each expert [E], from one pass over the texts."""
    import torch

    from probes.capture import Want, capture
    from probes.capture.within import device_of, reader
    from probes.generation import pad_id
    from probes.recording.session import pad

    found: dict[Where, Loads] = {where: Loads() for where in wheres}
    step = batch_size or len(texts)
    for first in range(0, len(texts), step):
        some = texts[first : first + step]
        ids, mask = pad([text[0] for text in some], pad_id(tokenizer), left=False, device=device_of(model))
        padding = {} if mask is None else {"attention_mask": mask}
        with capture(model, Want(logits=False, weights=False, norms=False)) as recorder, torch.no_grad():
            reader(model)(input_ids=ids, use_cache=False, **padding)
            forwards, routers = recorder.take(), recorder.routers
        size = {router.layer: router.num_experts for router in routers}
        for where, loads in found.items():
            acting = np.zeros(tuple(ids.shape), bool)
            for row, text in enumerate(some):
                acting[row, : len(text[0])] = acted_on(where, text)
            for forward in forwards:
                loads.add("", where, _counts(forward, acting.reshape(-1), size))
    return {where: loads.of("", where) for where, loads in found.items()}


def _counts(forward: Any, acting: np.ndarray, size: Mapping[int, int]) -> Counts:
    found = {}
    for layer, routing in forward.routing.items():
        chosen = np.asarray(routing.experts)
        if len(chosen) == len(acting):  # an encoder reads other rows than those evaluated
            chosen = chosen[acting]
            found[layer] = np.bincount(chosen[chosen >= 0], minlength=size[layer])
    return found


def of_texts(
    model: Any, tokenizer: Any, texts: Mapping[str, Sequence[Text]], arms: Sequence[Arm], routers: Mapping[int, int]
) -> Loads:
    """The loads that the controls of `arms` need, over the texts of each task, in one pass per task."""
    wheres = {where: None for arm in arms if (where := where_of(arm, routers, tokenizer))}
    loads = Loads()
    for task, some in texts.items() if wheres else ():
        for where, counts in count(model, tokenizer, some, wheres).items():
            loads.add(task, where, counts)
    return loads
