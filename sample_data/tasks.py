"""What is asked of the model and what is recorded from it: held-out tasks and labelled prompts, as JSON lines."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from sample_data import corpus, world
from sample_data.corpus import GENERATORS, Item
from sample_data.recipe import LABELS, PROMPTS_FILE, RECIPE, TASKS_DIR

ITEMS_PER_TASK = 240
PROMPTS_PER_LABEL = 46
PROMPT_TOKENS = 112  # a prompt is filled with passages until it has at least this many tokens
PROMPT_LIMIT = 160


def record(name: str, number: int, label: str, item: Item, **metadata) -> dict:
    """One line of a task file."""
    text, target = item
    return {"id": f"{name}-{number:03d}", "label": label, "text": text, "target": target.strip(), "metadata": metadata}


def _rng(name: str) -> random.Random:
    return random.Random(f"{RECIPE.seed}-{name}")


def sums() -> Iterator[dict]:
    """Distinct sums never trained on; the target holds the steps, `metadata.answer` the sum alone."""
    rng, seen = _rng("sums"), set()
    while len(seen) < ITEMS_PER_TASK:
        pair = corpus.draw_sum(rng, held_out=True)
        if pair not in seen:
            seen.add(pair)
            digits = len(str(pair[0]))
            yield record("sum", len(seen), "arithmetic", corpus.sum_item(*pair), answer=str(sum(pair)), digits=digits)


def facts() -> Iterator[dict]:
    """Each fact, asked in the one way it was never asked in training."""
    for number, fact in enumerate(world.facts(), 1):
        item = Item(corpus.question(fact, world.held_out_question(fact)), f" {fact.value}")
        yield record("fact", number, "facts", item, kind=fact.kind, person=fact.person)


def facts_choice() -> Iterator[dict]:
    """The same questions with four values to choose from."""
    rng = _rng("choice")
    for number, (fact, line) in enumerate(zip(world.facts(), facts(), strict=True), 1):
        others = [value for value in world.VALUES[fact.kind] if value != fact.value]
        choices = [fact.value, *rng.sample(others, 3)]
        rng.shuffle(choices)
        yield line | {"id": f"choice-{number:03d}", "choices": choices}


class Context(NamedTuple):
    """A contradicting text, how many claims it makes, how many others are of the kind asked for, and what is asked."""

    text: str
    claims: int
    rivals: int
    asked: corpus.Claim


def contexts() -> list[Context]:
    """Distinct contexts; no claim in them is ever made in training."""
    rng, drawn = _rng("contexts"), {}
    while len(drawn) < ITEMS_PER_TASK:
        claims = corpus.draw_claims(rng, held_out=True)
        text, asked = corpus.text_of(rng, claims), rng.choice(claims)
        rivals = sum(claim.fact.kind == asked.fact.kind for claim in claims) - 1
        drawn[Context(text, len(claims), rivals, asked)] = None
    return list(drawn)


def context_task(ask: str) -> Iterator[dict]:
    """The same texts and questions for both values of `ask`; lines with the same `metadata.pair` differ in it alone."""
    for number, (text, claims, rivals, asked) in enumerate(contexts(), 1):
        item = corpus.context_item(asked, ask)
        other = asked.fact.value if ask == "text" else asked.value
        metadata = {"pair": f"pair-{number:03d}", "ask": ask, "kind": asked.fact.kind, "other": other}
        metadata |= {"claims": claims, "rivals": rivals}
        yield record(f"context-{ask}", number, "context", Item(text + item.prompt, item.answer), **metadata)


TASKS = {
    "sums": sums,
    "facts": facts,
    "facts_choice": facts_choice,
    "context_text": lambda: context_task("text"),
    "context_memory": lambda: context_task("memory"),
}


def _fill(tokenizer, label: str, rng: random.Random) -> str:
    """Held-out passages of one label until the prompt is long enough."""
    text = ""
    while True:
        passage = corpus.text_of_passages([GENERATORS[label](rng, True)])
        longer = f"{text}\n{passage}" if text else passage
        size = len(tokenizer(longer).input_ids)
        if size <= PROMPT_LIMIT:
            text = longer
        if size >= PROMPT_TOKENS and text:
            return text


def plain_prompts(tokenizer, label: str) -> Iterator[dict]:
    """Documents of one label."""
    rng = _rng(f"prompts-{label}")
    for number in range(1, PROMPTS_PER_LABEL + 1):
        yield {"id": f"{label}-{number:03d}", "label": label, "text": _fill(tokenizer, label, rng)}


def _context_pair(rng: random.Random) -> tuple[str, str]:
    """Texts asked about throughout in one way, and the same texts asked in the other."""
    sides: dict[str, list[str]] = {"text": [], "memory": []}
    for _ in range(2):
        claims = corpus.draw_claims(rng, held_out=True)
        text = corpus.text_of(rng, claims)
        for ask, side in sides.items():
            asked = [corpus.context_item(claim, ask) for claim in claims]
            side.append(text + "\n".join(prompt + answer for prompt, answer in asked))
    return "\n".join(sides["text"]), "\n".join(sides["memory"])


def context_prompts(tokenizer, label: str = "context") -> Iterator[dict]:
    """Pairs of documents that differ in the marker, and so in the answers, and in nothing else."""
    rng, pair = _rng("prompts-context"), 0
    while pair < PROMPTS_PER_LABEL // 2:
        texts = dict(zip(("text", "memory"), _context_pair(rng), strict=True))
        if not all(PROMPT_TOKENS - 24 <= len(tokenizer(text).input_ids) <= PROMPT_LIMIT for text in texts.values()):
            continue
        pair += 1
        for ask, text in texts.items():
            metadata = {"pair": f"prompt-pair-{pair:03d}", "ask": ask}
            yield {"id": f"context-{ask}-{pair:03d}", "label": label, "text": text, "metadata": metadata}


def prompts(tokenizer) -> Iterator[dict]:
    """All labelled prompts."""
    for label in LABELS:
        yield from (context_prompts if label == "context" else plain_prompts)(tokenizer, label)


def write_lines(path: Path, lines) -> None:
    """JSON lines, UTF-8."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")


def read_lines(path: Path) -> list[dict]:
    """The lines of a file written by `write_lines`."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def build() -> None:
    """Write the task files and the prompts."""
    from sample_data import tokenizer

    for name, lines in TASKS.items():
        write_lines(TASKS_DIR / f"{name}.jsonl", lines())
    write_lines(PROMPTS_FILE, prompts(tokenizer.load()))
