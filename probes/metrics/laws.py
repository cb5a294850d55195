"""What must hold of a metric whatever the routing is. Each metric names the laws it obeys; tests check every one."""

from __future__ import annotations

LAWS = {
    "expert_permutation": "Other numbers for the experts move the rows and change no value.",
    "rank_order": "The order in which a token lists its experts does not matter.",
    "token_order": "The order of the tokens within a sequence does not matter.",
    "sequence_order": "The order of the sequences does not matter.",
    "range": "Every value lies between the ends its column states.",
    "additivity": "Counting parts of whole sequences and adding up gives the same as counting all at once.",
    "duplication": "Having every sequence twice changes no ratio.",
    "empty_slots": "Where a token's empty slots stand, and how many there are, changes nothing.",
    "self_agreement": "A run agrees with itself.",
    "missing": "Positions without routing change nothing but the missing share.",
}
ENDS = {
    "uniform": "every expert chosen equally often, all scores equal",
    "one_hot": "every token chooses the same experts, all of the score on the first",
}
