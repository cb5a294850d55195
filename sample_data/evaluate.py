"""What the published model can do, measured on held-out prompts, and how its experts divide the labels."""

import json
import math
from collections import defaultdict
from dataclasses import asdict

from sample_data import routing, tasks, tokenizer
from sample_data.recipe import FIGURES_FILE, LABELS, MODEL_DIR, PROMPTS_FILE, RECIPE, TASKS_DIR, TRAINING_FILE

LONGEST_ANSWER = 48


def load():
    """Model (as a user gets it: bf16) and tokenizer."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(MODEL_DIR).eval(), tokenizer.load()


def _generate(model, vocabulary, ids: list[list[int]]) -> list[str]:
    """Greedy answers to prompts of one length, up to the line break that closes every answer."""
    import torch

    batch = torch.tensor(ids)
    ends = [vocabulary.eos_token_id, vocabulary.convert_tokens_to_ids("Ċ")]
    output = model.generate(
        batch,
        attention_mask=torch.ones_like(batch),
        max_new_tokens=LONGEST_ANSWER,
        do_sample=False,
        eos_token_id=ends,
        pad_token_id=vocabulary.pad_token_id,
    )
    marks = {vocabulary.pad_token, vocabulary.eos_token}
    tokens = [vocabulary.convert_ids_to_tokens(row[batch.shape[1] :].tolist()) for row in output]
    kept = [[token for token in row if token not in marks] for row in tokens]
    return [vocabulary.convert_tokens_to_string(row).strip() for row in kept]


def complete(model, vocabulary, texts: list[str]) -> list[str]:
    """Greedy completions. Prompts of one length go together: no padding, so none can disturb the routing."""
    by_length = defaultdict(list)
    encoded = [vocabulary(text).input_ids for text in texts]
    for index, ids in enumerate(encoded):
        by_length[len(ids)].append(index)
    answers = [""] * len(texts)
    for indices in by_length.values():
        for index, answer in zip(indices, _generate(model, vocabulary, [encoded[i] for i in indices]), strict=True):
            answers[index] = answer
    return answers


def is_right(line: dict, answer: str) -> bool:
    """Exact match; of a sum, what comes after the thinking."""
    expected = line["metadata"].get("answer", line["target"])
    return answer.rpartition("</think>")[2].strip() == expected


def choose(model, vocabulary, line: dict) -> str:
    """The choice with the highest log-probability, summed over its tokens."""
    import torch

    prompt = vocabulary(line["text"]).input_ids
    scores = []
    for choice in line["choices"]:
        answer = vocabulary(f" {choice}", add_special_tokens=False).input_ids
        with torch.no_grad():
            logits = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1].float()
        scores.append(logits.log_softmax(-1)[range(len(answer)), answer].sum().item())
    return line["choices"][scores.index(max(scores))]


def _mean(values) -> float:
    values = list(values)
    return sum(values) / len(values)


def by_part(lines: list[dict], right: list[bool]) -> dict[str, dict]:
    """n and accuracy by what makes an item harder: the digits of a sum, the rival claims of a text."""
    parts = defaultdict(list)
    for line, ok in zip(lines, right, strict=True):
        for part in {"digits", "rivals"} & set(line["metadata"]):
            parts[f"{part}: {line['metadata'][part]}"].append(ok)
    return {"parts": {name: {"n": len(some), "accuracy": _mean(some)} for name, some in sorted(parts.items())}}


def score(model, vocabulary, lines: list[dict]) -> dict:
    """n and accuracy on one task, and, where they mean something, the figures beside it."""
    if "choices" in lines[0]:
        return {"n": len(lines), "accuracy": _mean(choose(model, vocabulary, x) == x["target"] for x in lines)}
    answers = complete(model, vocabulary, [line["text"] for line in lines])
    right = [is_right(line, answer) for line, answer in zip(lines, answers, strict=True)]
    figures = {"n": len(lines), "accuracy": _mean(right)}
    figures |= by_part(lines, right)
    if "answer" in lines[0]["metadata"]:
        figures["steps_exact"] = _mean(a == x["target"] for x, a in zip(lines, answers, strict=True))
    if "other" in lines[0]["metadata"]:
        figures["other_answer"] = _mean(a == x["metadata"]["other"] for x, a in zip(lines, answers, strict=True))
    return figures


def perplexity(model, vocabulary, lines: list[dict]) -> dict[str, float]:
    """Per label, the perplexity of the prompts' tokens (questions and operands, which are random, included)."""
    import torch

    loss, count = defaultdict(float), defaultdict(int)
    for line in lines:
        ids = torch.tensor([vocabulary(line["text"]).input_ids])
        with torch.no_grad():
            logits = model(ids).logits[0, :-1].float()
        loss[line["label"]] += torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum").item()
        count[line["label"]] += ids.shape[1] - 1
    return {label: math.exp(loss[label] / count[label]) for label in LABELS}


def rounded(value):
    """Four decimals throughout: what is published is what is compared."""
    if isinstance(value, dict):
        return {str(key): rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return round(value, 4) if isinstance(value, float) else value


def task_lines(name: str) -> list[dict]:
    """The published lines of one task."""
    return tasks.read_lines(TASKS_DIR / f"{name}.jsonl")


def measure() -> dict:
    """All figures of the published model."""
    model, vocabulary = load()
    lines = tasks.read_lines(PROMPTS_FILE)
    figures = {
        "recipe": asdict(RECIPE),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "training": json.loads(TRAINING_FILE.read_text()),
        "tasks": {name: score(model, vocabulary, task_lines(name)) for name in tasks.TASKS},
        "perplexity": perplexity(model, vocabulary, lines),
        "routing": routing.measure(model, vocabulary, lines),
    }
    return rounded(figures)


def build() -> None:
    """Measure and write figures.json."""
    FIGURES_FILE.write_text(json.dumps(measure(), indent=1) + "\n")
