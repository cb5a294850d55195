"""Router tuning finds a task's experts; expert tuning trains only those.

Only the routers are trained on labelled examples; the experts that are chosen more often afterwards are the task's
(RouterLens, arXiv 2508.19594). Training these experts alone is CEFT, of the same paper.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from probes.errors import UsageError, unknown
from probes.interventions.adaptation.counts import chosen_counts, gained
from probes.interventions.adaptation.examples import read_examples
from probes.interventions.adaptation.frozen import applied
from probes.interventions.adaptation.trainable import expert_places, router_places, trainable
from probes.interventions.adaptation.training import train
from probes.interventions.decoding.prompt import decoder_of

BY = ("difference", "after")


@dataclass(frozen=True)
class Tuned:
    """What training gave. The model itself is as it was.

    values  parameter name -> trained value
    losses  the loss of each step
    table   router tuning: who is chosen more often (see `counts.gained`); else None
    """

    values: Mapping[str, Any]
    losses: list[float] = field(default_factory=list)
    table: Any = None

    def applied(self, model: Any) -> AbstractContextManager[None]:
        """`model` with the trained values, while the block lasts."""
        return applied(model, dict(self.values))

    def experts(self, count: int, by: str = "difference") -> dict[int, tuple[int, ...]]:
        """layer -> the `count` experts that gained most, or, as the paper's code does, are chosen most (by="after")."""
        if self.table is None:
            raise UsageError("only router tuning finds experts")
        if by not in BY:
            raise unknown("order", by, BY)
        best = self.table.sort_values(by, ascending=False, kind="stable").groupby("layer").head(count)
        return {int(layer): tuple(int(e) for e in some["expert"]) for layer, some in best.groupby("layer")}


def router_tuning(
    model: Any,
    examples: Iterable[Any],
    tokenizer: Any = None,
    *,
    epochs: int = 3,
    lr: float = 5e-4,
    batch_size: int = 8,
    rank: int = 0,
    scale: float = 32.0,
    seed: int = 0,
    end: str = "\n",
    progress: Callable[[int, int, float], None] | None = None,
) -> Tuned:
    """Train the routers alone on `examples` (see `read_examples`), and compare who is chosen before and after.

    rank   0 trains the routers' parameters; above 0, low-rank changes of their matrices, times scale/rank
    lr, epochs, batch_size, AdamW with warm-up and cosine as in the paper's code (there rank 8, scale 32)
    ProbeError for a model whose routers hold no parameters.
    """
    model = decoder_of(model)
    found = read_examples(examples, tokenizer, end)
    made = trainable(model, router_places(model), rank, scale, seed)
    before = chosen_counts(model, found)
    values, losses = train(
        model, made, found, epochs=epochs, lr=lr, batch_size=batch_size, seed=seed, progress=progress
    )
    with applied(model, values):
        after = chosen_counts(model, found)
    return Tuned(values, losses, gained(before, after))


def expert_tuning(
    model: Any,
    examples: Iterable[Any],
    experts: Mapping[int, Iterable[int]],
    tokenizer: Any = None,
    *,
    epochs: int = 3,
    lr: float = 5e-4,
    batch_size: int = 8,
    seed: int = 0,
    end: str = "\n",
    progress: Callable[[int, int, float], None] | None = None,
) -> Tuned:
    """Train the named experts alone (layer -> ids, as `Tuned.experts` gives them) on `examples`.

    ProbeError for a model whose experts are not stored one by one; UsageError for experts that are not there.
    """
    model = decoder_of(model)
    found = read_examples(examples, tokenizer, end)
    places = expert_places(model, {int(layer): tuple(dict.fromkeys(ids)) for layer, ids in experts.items()})
    values, losses = train(
        model,
        trainable(model, places),
        found,
        epochs=epochs,
        lr=lr,
        batch_size=batch_size,
        seed=seed,
        progress=progress,
    )
    return Tuned(values, losses)
