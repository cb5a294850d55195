"""Evaluation: what interventions do to accuracy, perplexity and length, with intervals, controls and tests.

from probes.evaluation import evaluate

evaluate(model, ["sums.jsonl"], ["ban:layer=3,expert=14"], tokenizer=tokenizer).frame()
"""

from __future__ import annotations

from probes.evaluation.arms import Arm
from probes.evaluation.evaluate import Evaluation, evaluate
from probes.evaluation.results import Row

__all__ = ["Arm", "Evaluation", "Row", "evaluate"]
