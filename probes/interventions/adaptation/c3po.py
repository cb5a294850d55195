"""C3PO: the last prompt token's routing, moved towards that of similar prompts the model answers correctly.

For the last layers and the experts that matter there: the kernel-weighted mean of the neighbours' scores ("kernel"), or
what lowers the neighbours' loss when it is put in their place ("gradient"). Nothing of the model changes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch

from probes.capture.check import self_test
from probes.capture.within import device_of
from probes.errors import UsageError
from probes.interventions.adaptation.examples import Batch, Example, batch_of, batches, read_examples
from probes.interventions.adaptation.frozen import frozen
from probes.interventions.adaptation.losses import forward_inputs, next_token_loss
from probes.interventions.adaptation.pathways import Switch, embed, logits_of, scores_of, switched
from probes.interventions.decoding.base import Learner
from probes.interventions.decoding.prompt import decoder_of, padding_id
from probes.steering import active

AT_ONCE = 32  # references in one pass
ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0)
Embedder = Callable[[torch.Tensor, torch.Tensor], Any]
_KNOWN: WeakKeyDictionary[Any, tuple[Any, References]] = WeakKeyDictionary()


@dataclass(frozen=True)
class References:
    """Prompts the model answers correctly, and how it routes their last token.

    embeddings  float32 [N, H], of length 1;  logits  layer -> float32 [N, E];  asked  how many there were before
    embedder    what made the embeddings, (ids [B, S], mask [B, S]) -> [B, H]; None: the mean last hidden state
    """

    examples: tuple[Example, ...]
    embeddings: torch.Tensor
    logits: dict[int, torch.Tensor]
    asked: int
    embedder: Embedder | None = None


@torch.no_grad()
def references(
    model: Any, examples: Iterable[Any], tokenizer: Any = None, end: str = "\n", embedder: Embedder | None = None
) -> References:
    """The examples (see `read_examples`) that `model` answers correctly: greedy decoding would give the target.

    embedder  (ids [B, S], mask [B, S], padded on the left) -> [B, H] of prompts, to find neighbours by; the mean last
              hidden state otherwise
    UsageError where none is answered correctly.
    """
    model = decoder_of(model)
    found = read_examples(examples, tokenizer, end)
    with switched(model, (), "all") as switch:
        parts = [
            _look(model, batch, switch, embedder)
            for batch in batches(found, AT_ONCE, padding_id(model), _device(model))
        ]
    right, own, *logits = (torch.cat(column) for column in zip(*parts, strict=True))
    if not bool(right.any()):
        raise UsageError(f"none of the {len(found)} reference prompts is answered correctly, so none can guide")
    kept = tuple(one for one, ok in zip(found, right.tolist(), strict=True) if ok)
    table = {layer: z[right] for layer, z in zip(switch.seen, logits, strict=True)}
    return References(kept, _unit(own[right]), table, len(found), embedder)


def _look(model: Any, batch: Batch, switch: Switch, embedder: Embedder | None) -> tuple[torch.Tensor, ...]:
    """(answered correctly [B], embeddings [B, H], the logits of each layer [B, E]...)."""
    switch.at = batch.last
    # One pass for all three: nothing of the target is seen at the prompt's tokens.
    prompt = batch.mask.bool() & ~batch.target
    vectors, logits = embed(model, batch.ids, batch.mask, prompt)
    vectors = vectors if embedder is None else _embedded(embedder, batch.ids, prompt.long())
    hit = (logits[:, :-1].argmax(-1) == batch.ids[:, 1:]) | ~batch.target[:, 1:]
    return (hit.all(1), vectors, *switch.seen.values())


class C3PO(Learner):
    """Moves the pathway of each prompt's last token; see the strategy `c3po` for the options."""

    def __init__(self, model: Any, known: References, options: Mapping[str, Any], switch: Switch) -> None:
        self._vectors = torch.zeros(0)
        self._model, self._known, self._options, self._switch = model, known, options, switch

    @torch.no_grad()
    def learn(self, ids: torch.Tensor, mask: torch.Tensor) -> None:
        """Find the neighbours of the prompts ids [B, S] and put pathways at their last tokens."""
        own = self._look(ids, mask)
        near, kernel = self._neighbours(self._vectors, ids, mask)
        if self._options["method"] == "kernel":
            put = self._regressed(own, near, kernel)
        else:
            put = self._descended(own, near, kernel)
        self._switch.at, self._switch.put = self._end(ids), put

    def _end(self, ids: torch.Tensor) -> torch.Tensor:
        return torch.full((len(ids),), ids.shape[1] - 1, device=ids.device)

    def _look(self, ids: torch.Tensor, mask: torch.Tensor) -> dict[int, torch.Tensor]:
        self._switch.at, self._switch.put = self._end(ids), {}
        vectors, _ = embed(self._model, ids, mask, mask)
        embedder = self._known.embedder
        self._vectors = _unit(vectors if embedder is None else _embedded(embedder, ids, mask))
        self.forwards, self.rows = self.forwards + 1, self.rows + ids.numel()
        return dict(self._switch.seen)

    def _neighbours(self, vectors: Any, ids: Any, mask: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """(indices [B, n] of the nearest references, kernel [B, n] that sums to 1)."""
        cosine = vectors @ self._known.embeddings.T
        cosine = cosine.masked_fill(self._itself(ids, mask), -2.0)  # a prompt must not be told its own answer
        best = cosine.topk(min(self._options["neighbors"], cosine.shape[1]), dim=1)
        weight = best.values.clamp(min=0)
        if self._options["kernel"] == "gaussian":
            squared = 2 - 2 * best.values  # distance between vectors of length 1
            weight = (-squared / (2 * squared.mean(1, keepdim=True)).clamp(min=1e-12)).exp()
        weight = weight.masked_fill(best.values < -1, 0)
        return best.indices, weight / weight.sum(1, keepdim=True).clamp(min=1e-12)

    def _itself(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        prompts = [tuple(row[keep.bool()].tolist()) for row, keep in zip(ids, mask, strict=True)]
        same = [[prompt == known.prompt for known in self._known.examples] for prompt in prompts]
        return torch.tensor(same, device=ids.device)

    def _core(self, p: torch.Tensor) -> torch.Tensor:
        """bool [B, E]: the experts with the highest scores."""
        best = p.topk(min(self._options["core"], p.shape[1]), dim=1).indices
        return torch.zeros_like(p, dtype=torch.bool).scatter_(1, best, True)

    def _regressed(self, own: dict[int, Any], near: Any, kernel: Any) -> dict[int, torch.Tensor]:
        """Kernel regression: ω ← α·ω + (1 − α)·Σ K ω_i, with the α given, or that with the least neighbours' loss."""
        if self._options["alpha"] is not None:
            return self._mixed(own, near, kernel, torch.full((len(near),), self._options["alpha"], device=near.device))
        losses = []
        for alpha in ALPHAS:
            put = self._mixed(own, near, kernel, torch.full((len(near),), alpha, device=near.device))
            losses.append(self._loss(put, near, kernel))
        best = torch.stack(losses).argmin(0)
        return self._mixed(own, near, kernel, torch.tensor(ALPHAS, device=near.device)[best])

    def _mixed(self, own: dict[int, Any], near: Any, kernel: Any, alpha: Any) -> dict[int, torch.Tensor]:
        put = {}
        for layer, z in own.items():
            scoring = self._switch.scoring[layer]
            p = scores_of(z, scoring)
            mean = (scores_of(self._known.logits[layer][near], scoring) * kernel[..., None]).sum(1)
            mixed = logits_of(alpha[:, None] * p + (1 - alpha[:, None]) * mean, scoring, z)
            moved = self._core(p) & (alpha < 1)[:, None]  # α = 1 leaves a pathway as it is, to the last bit
            put[layer] = torch.where(moved, mixed, z)
        return put

    def _descended(self, own: dict[int, Any], near: Any, kernel: Any) -> dict[int, torch.Tensor]:
        """Neighbourhood gradient descent: ω ← ω − η ∇ Σ K loss_i(ω), in the logits."""
        core = {layer: self._core(scores_of(z, self._switch.scoring[layer])) for layer, z in own.items()}
        moves = {layer: torch.zeros_like(z) for layer, z in own.items()}
        optimizer = torch.optim.Adam(list(moves.values()), lr=self._options["lr"])
        with frozen(self._model):
            for move in moves.values():
                move.requires_grad_(True)
            for _ in range(self._options["steps"]):
                put = {layer: own[layer] + moves[layer] * core[layer] for layer in own}
                total = self._loss(put, near, kernel).sum()
                grads = torch.autograd.grad(total, list(moves.values()), allow_unused=True)
                for move, grad in zip(moves.values(), grads, strict=True):
                    move.grad = torch.zeros_like(move) if grad is None else grad
                optimizer.step()
        return {layer: (own[layer] + moves[layer] * core[layer]).detach() for layer in own}

    def _loss(self, put: dict[int, torch.Tensor], near: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
        """[B] the neighbours' loss on their targets, with the pathways `put` at their last prompt tokens."""
        count = near.shape[1]
        examples = [self._known.examples[i] for i in near.reshape(-1).tolist()]
        batch = batch_of(examples, padding_id(self._model), near.device)
        self._switch.at = batch.last
        self._switch.put = {layer: z.repeat_interleave(count, 0) for layer, z in put.items()}
        logits = self._model(**forward_inputs(self._model, batch.ids, batch.mask)).logits
        self.forwards, self.rows = self.forwards + 1, self.rows + batch.ids.numel()
        return (next_token_loss(logits, batch.ids, batch.target).view(-1, count) * kernel).sum(1)


@contextmanager
def c3po(model: Any, options: Mapping[str, Any], tokenizer: Any = None) -> Iterator[C3PO]:
    """`model` with pathways of its neighbours at the last prompt token, from when it has learned, within the block."""
    if options["references"] is None:
        raise UsageError("c3po needs reference prompts with targets: references=FILE.jsonl")
    known = known_references(model, options["references"], tokenizer)
    with switched(model, last_layers(model, options["layers"])) as switch:
        yield C3PO(model, known, options, switch)


def last_layers(model: Any, count: int) -> tuple[int, ...]:
    """The last `count` layers with a router."""
    return tuple(sorted(r.layer for r in self_test(model).layers if r.choice or r.logits)[-count:])


def known_references(model: Any, source: Any, tokenizer: Any) -> References:
    """`source` as it is, or what the file it names holds; remembered for a model as it is now."""
    from probes.prompts import read_prompts
    from probes.recording.fingerprints import settings_fingerprint, weights_fingerprint

    if isinstance(source, References):
        return source
    steering = active(model)
    content = hashlib.sha256(Path(source).read_bytes()).hexdigest() if Path(source).is_file() else ""
    state = (str(source), content, weights_fingerprint(model), settings_fingerprint(model))
    key = (*state, "" if steering is None else " ".join(map(str, steering.specs)))
    remembered = _KNOWN.get(model)
    if remembered is None or remembered[0] != key:
        _KNOWN[model] = (key, references(model, read_prompts(source).good, tokenizer))
    return _KNOWN[model][1]


def _embedded(embedder: Embedder, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """[B, H] of the tokens `mask` names, moved to the right end first: targets leave a gap there."""
    rows = [row[keep.bool()] for row, keep in zip(ids, mask, strict=True)]
    longest = max(map(len, rows))
    moved = torch.stack([torch.nn.functional.pad(row, (longest - len(row), 0)) for row in rows])
    kept = torch.stack([torch.arange(longest, device=ids.device) >= longest - len(row) for row in rows]).long()
    return torch.as_tensor(embedder(moved, kept), dtype=torch.float32).to(ids.device)


def _unit(vectors: torch.Tensor) -> torch.Tensor:
    return vectors / vectors.norm(dim=-1, keepdim=True).clamp(min=1e-12)


def _device(model: Any) -> Any:
    return device_of(model)
