"""The questions the dashboard's pages ask, over the public views: a trace in, a DataFrame out.

Every question names its run, and reads one sequence, one layer or the small aggregates where it can.
"""

from store.page_queries.experts import contexts, expert_totals, recorded, token_counts, token_totals
from store.page_queries.overview import layer_totals, load, missing, sampled_entropy, sampled_load
from store.page_queries.places import places
from store.page_queries.pruning import kept_outputs
from store.page_queries.sequences import (
    firing_sequences,
    labels,
    positions,
    sequence,
    sequence_layers,
    sequences,
    token_layers,
    token_logits,
    tokens,
)
from store.page_queries.specialization import token_experts
from store.page_queries.uncertainty import label_uncertainty, sequence_uncertainty, token_entropies, uncertain_contexts

__all__ = [
    "contexts",
    "expert_totals",
    "firing_sequences",
    "kept_outputs",
    "label_uncertainty",
    "labels",
    "layer_totals",
    "load",
    "missing",
    "places",
    "positions",
    "recorded",
    "sampled_entropy",
    "sampled_load",
    "sequence",
    "sequence_layers",
    "sequence_uncertainty",
    "sequences",
    "token_counts",
    "token_entropies",
    "token_experts",
    "token_layers",
    "token_logits",
    "token_totals",
    "tokens",
    "uncertain_contexts",
]
