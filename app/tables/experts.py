"""Arithmetic behind the cards of the experts: the tokens that go with one, and who is described by the same."""

from __future__ import annotations

import numpy as np
import pandas as pd

from app.tables.intervals import spread
from probes.metrics.npmi import pmi_npmi

FEWEST_SEEN = 10  # occurrences of a token below which its nPMI is mostly chance
SHOWN_TOKENS = 12


def token_scores(
    counts: pd.DataFrame, totals: pd.DataFrame | None = None, n_sequences: int = 0, most: int = SHOWN_TOKENS
) -> pd.DataFrame:
    """token_id, token, npmi, low, high, chosen, n, total: the tokens that go most with an expert, the clearest first.

    `counts`: sequence_id, token_id, token, n, chosen, one row per sequence and token; intervals are over sequences.
    `totals`: the same without sequence_id over the whole run, where `counts` are of some of its `n_sequences`: list and
    values are then of the whole, and intervals narrowed to it. total: all tokens.
    """
    counts = _keyed(counts)
    total = (counts if totals is None else _keyed(totals)).groupby("key", sort=False)
    total = total.agg({"token_id": "first", "token": "first", "n": "sum", "chosen": "sum"})
    known = total[(total["n"] >= min(FEWEST_SEEN, total["n"].max())) & (total["chosen"] > 0)]
    npmi = pmi_npmi(known["chosen"], known["n"], total["chosen"].sum(), total["n"].sum())[1]
    best = known.assign(npmi=npmi).sort_values(["npmi", "n"], ascending=False, kind="stable").head(most)
    low, high = _token_spread(counts, best) if len(best) else (np.zeros(0), np.zeros(0))
    narrow = np.sqrt(counts["sequence_id"].nunique() / n_sequences) if n_sequences else 1.0
    ends = {"low": best["npmi"] + low * narrow, "high": best["npmi"] + high * narrow}
    return best.assign(**ends, total=total["n"].sum()).reset_index(drop=True)


def _keyed(counts: pd.DataFrame) -> pd.DataFrame:
    return counts.assign(key=counts["token_id"].astype(object).where(counts["token_id"].notna(), counts["token"]))


def _token_spread(counts: pd.DataFrame, best: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """How far below and above their nPMI the intervals of the best tokens reach."""
    codes, sequences = pd.factorize(counts["sequence_id"])
    sums = np.zeros((len(sequences), len(best) + 1, 2))  # the last: all tokens
    np.add.at(sums[:, -1], codes, counts[["chosen", "n"]].to_numpy(float))
    place = {key: i for i, key in enumerate(best.index)}
    mine = counts["key"].isin(place).to_numpy()
    at = counts.loc[mine, "key"].map(place).to_numpy()
    np.add.at(sums, (codes[mine], at), counts.loc[mine, ["chosen", "n"]].to_numpy(float))

    def statistic(totals: np.ndarray) -> np.ndarray:
        chosen, n = totals[..., 0], totals[..., 1]
        return pmi_npmi(chosen[:, :-1], n[:, :-1], chosen[:, -1:], n[:, -1:])[1]

    return spread(statistic, sums, len(sequences))


def alike(rows: pd.DataFrame, profiles: np.ndarray, expert: int) -> pd.DataFrame:
    """expert, similarity: experts of one layer by how far they take the same tokens, 1 = the very same shares.

    `rows`: expert of each of the `profiles` [n, V], whose products are Bhattacharyya coefficients.
    """
    mine = np.flatnonzero(rows["expert"] == expert)
    if not len(mine):
        return pd.DataFrame({"expert": [], "similarity": []})
    found = pd.DataFrame({"expert": rows["expert"], "similarity": profiles @ profiles[mine[0]]})
    return found[found["expert"] != expert].sort_values("similarity", ascending=False, kind="stable", ignore_index=True)
