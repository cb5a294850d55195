"""The decoding strategies on the sample model's held-out tasks: intact, and with routers that were damaged on purpose.

The sample model gets every held-out sum right, so nothing can be gained there, only lost. Two ways of damaging its
routers, and the questions it can only guess at, leave room in both directions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from probes.errors import unknown
from probes.interventions.decoding.compare import compare_strategies
from probes.prompts import Prompt, read_prompts
from probes.sample import sample_path


@dataclass(frozen=True)
class Condition:
    """What strategies are tried on: a task of `sample_data/tasks`, some of its prompts, and what steers the model."""

    task: str
    title: str
    interventions: tuple[Any, ...] = ()
    keep: Callable[[Prompt], bool] = lambda prompt: True


# Every other expert is pushed away: a shift of the routers that vectors over the logits could undo.
SHIFT = {"name": "logit_vectors", "vectors": dict.fromkeys("0123", [1.1, -1.1] * 8)}

CONDITIONS: Mapping[str, Condition] = {
    "sums": Condition("sums", "held-out sums"),
    "soft": Condition("sums", "held-out sums, router temperature 3", ("temperature:tau=3",)),
    "shift": Condition("sums", "held-out sums, router logits shifted", (SHIFT,)),
    "rivals": Condition("context_text", "context with rival claims", keep=lambda prompt: prompt.metadata["rivals"] > 0),
}
STRATEGIES = (
    "ensemble:n=4",
    "ensemble:n=8,tau=1",
    "contrast",
    "contrast:beta=0.2",
    "rewire",
    "rewire:lr=0.2",
    "c3po:references={file}",
    "c3po:references={file},method=gradient",
)


def compare_on_sample(
    conditions: Iterable[str] = tuple(CONDITIONS),
    strategies: Iterable[str] = STRATEGIES,
    *,
    limit: int | None = None,
    batch_size: int = 60,
    progress: Callable[[str, int, int], None] | None = None,
) -> Any:
    """`compare_strategies` on the sample model, a row per condition and strategy, plain decoding first.

    {file} in a strategy stands for the task's own file: a prompt is never its own reference. `limit` takes only so many
    prompts of each task. A few minutes on two cores.
    """
    import pandas as pd

    from probes.model import load_model

    chosen = [_condition(name) for name in conditions]
    model, tokenizer = load_model(sample_path() / "model")
    tables = []
    for condition in chosen:
        file = sample_path() / "tasks" / f"{condition.task}.jsonl"
        table = compare_strategies(
            model,
            tokenizer,
            [prompt for prompt in read_prompts(file).good if condition.keep(prompt)][:limit],
            [one.replace("{file}", str(file)) for one in strategies],
            interventions=condition.interventions,
            stop=[tokenizer.convert_tokens_to_ids("Ċ")],
            max_new_tokens=60,
            batch_size=batch_size,
            progress=progress,
        )
        table["strategy"] = table["strategy"].str.replace(f"references={file}", "references=task")
        table.insert(0, "condition", condition.title)
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def _condition(name: str) -> Condition:
    if name not in CONDITIONS:
        raise unknown("condition", name, CONDITIONS)
    return CONDITIONS[name]
