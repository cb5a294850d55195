"""The k largest logits, then the sigmoid of each."""

from __future__ import annotations

from probes.families.base import CORRECTION_BIAS, Family, Rule
from probes.families.topk_softmax import choose

RULE = Rule(
    name="topk_sigmoid",
    formula="ids = top-k(z + bias); w = sigmoid(z[ids]), divided by their sum where normalised",
    choose=choose,
    defaults={"weigh": "sigmoid"},
    source="transformers, kolibri1",
    needs=CORRECTION_BIAS,
)

FAMILIES = (Family("kolibri1", RULE),)
