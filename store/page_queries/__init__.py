"""The questions the dashboard's pages ask, over the public views: a trace in, a DataFrame out.

Every question names its run, and reads one sequence, one layer or the small aggregates where it can.
"""

from store.page_queries.overview import layer_totals, load, missing, sampled_entropy, sampled_load
from store.page_queries.pruning import kept_outputs
from store.page_queries.sequences import labels, positions, sequence, sequence_layers, sequences, token_layers, tokens

__all__ = [
    "kept_outputs",
    "labels",
    "layer_totals",
    "load",
    "missing",
    "positions",
    "sampled_entropy",
    "sampled_load",
    "sequence",
    "sequence_layers",
    "sequences",
    "token_layers",
    "tokens",
]
