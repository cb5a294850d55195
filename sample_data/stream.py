"""The training stream: documents packed into rows, shard by shard, each shard a function of the seed and its number.

Documents in a row do not see each other: positions start again and attention stops at the document's edge, so the
model reads in training exactly what it reads later, a document from its first token.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from sample_data.corpus import GENERATORS, Passage, text_of_passages
from sample_data.recipe import LABEL_WEIGHTS, RECIPE

DOCUMENT_PASSAGES = (1, 1, 2, 3, 4, 6, 8)
SHORTEST_DOCUMENT = 24  # less room than this at a row's end is padded


@dataclass(frozen=True)
class Row:
    """Token ids, the weight of each token in the loss, and which document it belongs to; all (row_length,)."""

    tokens: np.ndarray
    weights: np.ndarray
    documents: np.ndarray


class Encoder:
    """Turns passages into ids and loss weights."""

    def __init__(self, tokenizer) -> None:
        self.encode = lambda text: tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids
        self.bos, self.eos, self.pad = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
        (self.newline,) = self.encode("\n")

    def passage(self, passage: Passage) -> tuple[list[int], list[float]]:
        """Ids and weights of the items, each closed by a line break."""
        ids: list[int] = []
        weights: list[float] = []
        for item in passage:
            prompt, answer = self.encode(item.prompt), self.encode(item.answer)
            ids += [*prompt, *answer, self.newline]
            weights += [RECIPE.prompt_weight] * len(prompt) + [1.0] * (len(answer) + 1)
        return ids, weights


@dataclass
class Document:
    label: str
    passages: list[Passage]
    ids: list[int]
    weights: list[float]


def draw_document(rng: random.Random, encoder: Encoder, label: str, room: int) -> Document | None:
    """A document of at most `room` tokens: `<s>`, some passages of one label, `</s>`; None if not even one fits."""
    document = Document(label, [], [encoder.bos], [0.0])
    for _ in range(rng.choice(DOCUMENT_PASSAGES)):
        passage = GENERATORS[label](rng, False)
        ids, weights = encoder.passage(passage)
        if len(document.ids) + len(ids) > room:
            break
        document.passages.append(passage)
        document.ids += ids
        document.weights += weights
    if not document.passages:
        return None
    document.ids[-1] = encoder.eos  # the last line break gives way to the end
    return document


def _documents(rng: random.Random, encoder: Encoder, counts: dict[str, int]) -> Iterator[Document]:
    """The documents of one row; the label furthest behind its share comes next, and another where it does not fit."""
    room, misses = RECIPE.row_length, 0
    while room >= SHORTEST_DOCUMENT and misses < 4:
        label = min(counts, key=lambda name: (counts[name] + rng.randrange(400)) / LABEL_WEIGHTS[name])
        document = draw_document(rng, encoder, label, room)
        if document is None:
            misses += 1
            continue
        counts[label] += len(document.ids)
        room -= len(document.ids)
        yield document


def pack(documents: list[Document], pad: int) -> Row:
    """Lay documents one behind another; what is left is padding, a document of its own without weight."""
    length = RECIPE.row_length
    tokens, weights = np.full(length, pad, np.int64), np.zeros(length, np.float32)
    owner, start = np.full(length, len(documents), np.int64), 0
    for number, document in enumerate(documents):
        end = start + len(document.ids)
        tokens[start:end], weights[start:end], owner[start:end] = document.ids, document.weights, number
        start = end
    return Row(tokens, weights, owner)


def shard_documents(number: int, encoder: Encoder) -> list[list[Document]]:
    """The documents of shard `number`, row by row."""
    rng = random.Random(f"{RECIPE.seed}-train-{number}")
    counts = dict.fromkeys(LABEL_WEIGHTS, 0)
    rows = RECIPE.rows_per_step * RECIPE.steps_per_shard
    return [list(_documents(rng, encoder, counts)) for _ in range(rows)]


def shard(number: int, encoder: Encoder) -> list[Row]:
    """The rows of shard `number`, enough for `steps_per_shard` steps."""
    return [pack(documents, encoder.pad) for documents in shard_documents(number, encoder)]


def shard_text(number: int, encoder: Encoder) -> str:
    """The same shard as text, documents apart by an empty line; for the check that nothing held out is in it."""
    rows = shard_documents(number, encoder)
    return "\n\n".join(text_of_passages(document.passages) for row in rows for document in row)
