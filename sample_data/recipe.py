"""Every number that decides what the sample model becomes; on one machine the same recipe gives the same weights."""

from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
MODEL_DIR = HERE / "model"
TASKS_DIR = HERE / "tasks"
PROMPTS_FILE = HERE / "prompts.jsonl"
TRAINING_FILE = HERE / "training.json"  # how long the last training took and where its loss ended
FIGURES_FILE = HERE / "figures.json"
CACHE_DIR = HERE.parent / "build" / "sample_data"  # checkpoints and logs; not under version control

# Share of the training tokens each label gets. Sums and context need the most practice, the rest is learnt in passing.
LABEL_WEIGHTS = {
    "arithmetic": 0.18,
    "facts": 0.07,
    "context": 0.36,
    "code": 0.065,
    "json": 0.065,
    "sql": 0.065,
    "english": 0.065,
    "german": 0.065,
    "spanish": 0.065,
}
LABELS = tuple(LABEL_WEIGHTS)


@dataclass(frozen=True)
class Recipe:
    """Sizes, seeds and schedule. Lengths are in tokens, times in optimiser steps."""

    seed: int = 20240917
    vocab_size: int = 1024
    hidden_size: int = 128
    intermediate_size: int = 64
    num_layers: int = 4
    num_heads: int = 4
    num_experts: int = 16
    top_k: int = 2
    initializer_range: float = 0.04
    row_length: int = 160
    rows_per_step: int = 16
    steps_per_shard: int = 50
    steps: int = 6000
    warmup_steps: int = 200
    peak_lr: float = 3e-3
    final_lr: float = 5e-5
    weight_decay: float = 0.05
    grad_clip: float = 1.0
    # Questions and operands are random, so learning to predict them is a waste; a little keeps it a language model.
    prompt_weight: float = 0.1
    # Strong balance first, so that no expert dies; then weak, so that experts may take to a label.
    balance_start: float = 0.02
    balance_end: float = 0.001
    balance_steps: int = 1500
    checkpoint_every: int = 250


RECIPE = Recipe()
