"""Proof that nothing the model is evaluated on stands in what it was trained on: the whole stream is searched."""

import hashlib
import json

from sample_data import stream, tasks, tokenizer
from sample_data.recipe import HERE, PROMPTS_FILE, RECIPE, TASKS_DIR

REPORT = HERE / "held_out.json"


def evaluation_texts() -> list[str]:
    """Every task's prompt and every labelled prompt, each once."""
    files = [*sorted(TASKS_DIR.glob("*.jsonl")), PROMPTS_FILE]
    return list(dict.fromkeys(line["text"] for file in files for line in tasks.read_lines(file)))


def found(texts: list[str], haystack: str) -> list[str]:
    """Those of `texts` that occur anywhere in `haystack`."""
    return [text for text in texts if text in haystack]


def fingerprint(haystack: str) -> str:
    """SHA-256 of a shard's text; the first shard's tells whether the generators are still those that were searched."""
    return hashlib.sha256(haystack.encode()).hexdigest()


def build() -> None:
    """Search all shards; write how much was searched and its hash, or stop at the first text that leaks."""
    encoder, texts = stream.Encoder(tokenizer.load()), evaluation_texts()
    shards, characters, hashes = RECIPE.steps // RECIPE.steps_per_shard, 0, []
    for number in range(shards):
        haystack = stream.shard_text(number, encoder)
        if leaked := found(texts, haystack):
            raise SystemExit(f"shard {number} holds {len(leaked)} evaluation texts, first: {leaked[0]!r}")
        characters += len(haystack)
        hashes.append(fingerprint(haystack))
        print(f"shard {number + 1}/{shards}: none of {len(texts)} evaluation texts", flush=True)
    report = {
        "evaluation_texts": len(texts),
        "found": 0,
        "characters": characters,
        "shards": shards,
        "first_shard_sha256": hashes[0],
        "stream_sha256": fingerprint("".join(hashes)),
    }
    REPORT.write_text(json.dumps(report, indent=1) + "\n")
