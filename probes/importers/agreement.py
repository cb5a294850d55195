"""Do the ids of a file belong to its logits? One line on it, and a refusal where other logits fit better.

A row agrees where its ids are k largest values of its logits under the rule; of values that tie at the k-th place any
will do, because libraries differ in which they take.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from probes.errors import ProbeError
from probes.families.base import CORRECTION_BIAS
from probes.importers.rules import ImportRule
from probes.pieces import pieces

SAMPLE = 2048  # tokens on which other logits are tried
BETTER = 0.2  # share of the ids by which other logits have to fit better
ABOVE_CHANCE = 0.1  # share of the way from chance to 1 that logits have to fit
FEWEST = 16, 100  # rows from which other logits, and chance, are judged


@dataclass
class Fit:
    """Counts over rows with ids and logits: rows, rows that agree, ids, ids that are among the k largest, ties."""

    rows: int = 0
    agree: int = 0
    ids: int = 0
    hits: int = 0
    tied: int = 0

    @property
    def share(self) -> float:
        """Share of the ids that are among the k largest values."""
        return self.hits / self.ids if self.ids else float("nan")

    def percent(self) -> str:
        return f"{100 * self.agree / self.rows:.1f} %"


def fit(experts: np.ndarray, logits: np.ndarray, k: int, rule: ImportRule, into: Fit) -> None:
    """Adds the rows of experts [n, k'] and logits [n, E] to `into`."""
    known = (experts[:, 0] >= 0) & ~np.isnan(logits).any(axis=1) & ~np.isneginf(logits).all(axis=1)
    ids, values = experts[known].astype(np.intp), rule.values(logits[known])
    if not len(ids):
        return
    size = values.shape[1]
    edge = np.partition(values, (size - k - 1, size - k), axis=1)[:, [size - k - 1, size - k]]
    taken = ids >= 0
    hit = taken & (np.take_along_axis(values, ids.clip(min=0), axis=1) >= edge[:, 1:])
    into.rows += len(ids)
    into.agree += int((hit | ~taken).all(axis=1).sum())
    into.ids += int(taken.sum())
    into.hits += int(hit.sum())
    into.tied += int((edge[:, 0] == edge[:, 1]).sum())


def agreement(experts: np.ndarray, logits: np.ndarray, k: int, rule: ImportRule) -> Fit:
    """The fit of all rows: experts [T, L, k'], logits [T, L, E]."""
    total = Fit()
    tokens, layers, size = logits.shape
    if k < size:
        for part in pieces(tokens, size):
            for layer in range(layers):
                fit(experts[part, layer], logits[part, layer], k, rule, total)
    return total


def judged(
    experts: np.ndarray, logits: np.ndarray, sequence_id: np.ndarray, k: int, rule: ImportRule, allowed: bool
) -> list[str]:
    """The line on agreement and ties; ProbeError where the logits are others' (unless `allowed`)."""
    found = agreement(experts, logits, k, rule)
    if not found.rows:
        return []
    wrong = _mismatch(experts, logits, sequence_id, k, rule, found)
    if wrong and not allowed and (" fit " in wrong or not rule.missing):
        raise ProbeError(f"{wrong}. Put them right, or pass --allow-mismatch to take them as they are")
    return [_line(found, k, rule), *([f"{wrong}: margins and ranks of this run mean nothing"] if wrong else [])]


def _line(found: Fit, k: int, rule: ImportRule) -> str:
    largest = "largest of the best groups' scores" if rule.limited else "largest of their logits"
    words = (
        f"ids are the {k} {largest} in {found.percent()} of {found.rows:,} rows; "
        f"{100 * found.tied / found.rows:.1f} % of the rows tie at place {k}, where either counts"
    )
    if found.agree < found.rows and rule.missing == CORRECTION_BIAS:
        words += "; a correction bias, which the file does not hold, decides as well"
    return words


def choice_line(found: Fit, k: int, rule: ImportRule) -> list[str]:
    """The line on a choice that was made from logits alone."""
    if not found.rows:
        return []
    largest = "largest scores of the best groups" if rule.limited else "largest logits"
    return [
        f"the choice is the {k} {largest}; {100 * found.tied / found.rows:.1f} % of {found.rows:,} rows tie at "
        f"place {k}, where the lower id is taken and the model may have chosen another"
    ]


def _mismatch(
    experts: np.ndarray, logits: np.ndarray, sequence_id: np.ndarray, k: int, rule: ImportRule, found: Fit
) -> str:
    """What is wrong with the logits, in words; "" where they fit as well as others do."""
    if found.agree >= 0.9 * found.rows or found.rows < FEWEST[0]:
        return ""
    tokens, layers = experts.shape[:2]
    some = np.unique(np.linspace(0, tokens - 1, min(tokens, SAMPLE)).astype(np.intp))
    same = np.arange(layers)

    def tried(token: np.ndarray, layer: np.ndarray) -> Fit:
        out = Fit()
        for here, there in zip(same, layer, strict=True):
            fit(experts[some, here], logits[token[some], there], k, rule, out)
        return out

    here = tried(np.arange(tokens), same)
    others = {words: tried(token, layer) for words, token, layer in _others(sequence_id, layers)}
    said = f"'experts' are the {k} largest of their 'logits' in {found.percent()} of {found.rows:,} rows"
    words, best = max(others.items(), key=lambda item: item[1].share)
    if best.rows >= FEWEST[0] and best.share > here.share + max(BETTER, 2 / np.sqrt(best.rows)):
        return f"{said}; {words} fit them in {best.percent()}"
    chance = tried(np.random.default_rng(0).permutation(tokens), same)
    if here.rows >= FEWEST[1] and here.share - chance.share < ABOVE_CHANCE * (1 - chance.share):
        return f"{said}, no more than logits of any other token would"
    return ""


def _others(sequence_id: np.ndarray, layers: int) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Other places that the logits may come from: words, token [T] and layer [L] to take them from."""
    tokens = np.arange(len(sequence_id))
    same = np.arange(layers)
    starts = np.flatnonzero(np.r_[True, sequence_id[1:] != sequence_id[:-1], True])
    first, last = np.repeat(starts[:-1], np.diff(starts)), np.repeat(starts[1:] - 1, np.diff(starts))
    yield "the logits of the next token", (tokens + 1).clip(max=len(tokens) - 1), same
    yield "the logits of the token before", (tokens - 1).clip(min=0), same
    yield "the logits of the file's tokens in reverse order", tokens[::-1], same
    yield "the logits of each sequence in reverse order", first + last - tokens, same
    if layers > 1:
        yield "the logits of the next layer", tokens, np.roll(same, -1)
        yield "the logits of the layer before", tokens, np.roll(same, 1)
        yield "the logits of the layers in reverse order", tokens, same[::-1]
    if layers > 10:
        by_name = np.array(sorted(range(layers), key=str))
        yield "the logits with the layers sorted as text (0, 1, 10, 2)", tokens, by_name
        yield "the logits with the layers no longer sorted as text (0, 1, 10, 2)", tokens, np.argsort(by_name)
