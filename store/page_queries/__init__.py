"""The questions the dashboard's pages ask, over the public views: a trace in, a DataFrame out.

Every question names its run, and reads one sequence, one layer or the small aggregates where it can.
"""

from store.page_queries.experts import contexts, expert_totals, recorded, token_counts
from store.page_queries.overview import layer_totals, load, missing, sampled_entropy, sampled_load
from store.page_queries.pruning import kept_outputs
from store.page_queries.sequences import labels, positions, sequence, sequence_layers, sequences, token_layers, tokens
from store.page_queries.specialization import token_experts

__all__ = [
    "contexts",
    "expert_totals",
    "kept_outputs",
    "labels",
    "layer_totals",
    "load",
    "missing",
    "positions",
    "recorded",
    "sampled_entropy",
    "sampled_load",
    "sequence",
    "sequence_layers",
    "sequences",
    "token_counts",
    "token_experts",
    "token_layers",
    "tokens",
]
