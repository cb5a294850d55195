"""What the experiments share: the model, a recording of it, task files, and how an evaluation is run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import probes
from probes.evaluation import Evaluation, evaluate
from probes.evaluation.plots import save_chart
from probes.sample import sample_path

CAPTURE = "logits,weights,norms,moments,hidden"


@dataclass(frozen=True)
class Sizes:
    """How many items of each kind, random controls, and train pairs."""

    sums: int = 120
    facts: int = 120
    pairs: int = 48
    train_pairs: int = 96
    references: int = 120
    texts: int = 8
    controls: int = 5
    every: int = 2


FULL = Sizes()
TINY = Sizes(sums=2, facts=2, pairs=2, train_pairs=6, references=4, texts=1, controls=1, every=9)


class Lab:
    """The model, a recording of it, and the task files, for as long as the experiments last."""

    def __init__(self, folder: Path, out: Path, sizes: Sizes) -> None:
        self.folder, self.out, self.sizes = folder, out, sizes
        self.model, self.tokenizer = probes.load_model(sample_path() / "model")
        prompts = self.lines("prompts")
        self.trace = self.record("prompts", prompts[:: sizes.every])
        rest = [line for i, line in enumerate(prompts) if i % sizes.every]
        self.labels = list(dict.fromkeys(line["label"] for line in prompts))
        self.texts = {label: [x for x in rest if x["label"] == label][: sizes.texts] for label in self.labels}
        self.sums = self.task("sums", self.lines("tasks/sums")[sizes.references :][: sizes.sums])
        self.mixed = self.task("texts", [line for some in self.texts.values() for line in some])

    def lines(self, name: str) -> list[dict[str, Any]]:
        return [json.loads(x) for x in (sample_path() / f"{name}.jsonl").read_text("utf-8").splitlines()]

    def task(self, name: str, lines: Sequence[dict[str, Any]]) -> Path:
        path = self.folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
        return path

    def record(self, name: str, lines: Sequence[dict[str, Any]]) -> Path:
        trace = self.folder / f"{name}.duckdb"
        source = self.task(f"recorded-{name}", lines)
        probes.record(self.model, source, trace, tokenizer=self.tokenizer, capture=CAPTURE, progress=False)
        return trace

    def evaluate(self, tasks: Sequence[Path], arms: Sequence[Any], **settings: Any) -> Evaluation:
        common = {"tokenizer": self.tokenizer, "trace": self.trace, "control_seeds": self.sizes.controls}
        return evaluate(self.model, tasks, arms, **{**common, "max_new_tokens": 48, **settings})

    def picture(self, name: str, caption: str, *args: Any, **kwargs: Any) -> str:
        save_chart(self.out / "img" / f"effects-{name}.svg", *args, **kwargs)
        return f"![{caption}](img/effects-{name}.svg)\n\n{caption}\n"
