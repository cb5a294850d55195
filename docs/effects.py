"""The measured effects in docs/interventions.md and their pictures: `python docs/effects.py [FOLDER]`, ten minutes.

Every sentence that says what was found is decided by its numbers, so a model on which nothing works gets a page that
says so. Nothing is tuned on the items it is measured on: experts are named by a recording of other texts.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from experiments.banning import banning
from experiments.boosting import boosting
from experiments.curves import curves
from experiments.decoding import decoding
from experiments.lab import FULL, Lab, Sizes
from experiments.pruning import pruning
from experiments.steering import steering

from probes.document import fill
from probes.interventions.document import PAGE

BLOCK = "effects"
EXPERIMENTS = (banning, steering, boosting, curves, pruning, decoding)
HEAD = """What is named by a recording was recorded from other texts than those measured: every second document of
`prompts.jsonl` (some of the others are read for perplexity), or other pairs of questions. Each intervention is compared
with the same model without it, paired over the items, and with up to {controls} load-matched controls: the same
intervention with other experts of the same layers that get the same share of the assignments of the very tokens that
are evaluated, within 10 % of that share; as many experts or, where no set of as many fits, a set of the nearest size.
There are fewer controls where there are no more different sets, and none, with the reason, where there is no such set.
Where it is told, count-matched controls have as many experts, whatever these carry. Numbers of experts and noise are
compared with random choice; decoding strategies with plain decoding. Numbers in
brackets are 95 % intervals, percentile bootstrap over items, 2,000 resamples; p is of a sign-flip test over items,
corrected by Holm over all tests of the experiment. An interval of width 0 means that no item differed.

The model is at its ceiling on sums and facts, so nothing can raise these; what could is tried on a damaged model below.
"""


def write(page: Path, out: Path, sizes: Sizes = FULL) -> None:
    """The generated part of `page`, and its pictures in `out`/img."""
    import torch

    torch.set_num_threads(1)  # the matrices are tiny: two threads take longer, on a busy machine far longer
    (out / "img").mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        lab = Lab(Path(folder), out, sizes)
        lines = [HEAD.format(controls=sizes.controls)]
        for experiment in EXPERIMENTS:
            started = time.perf_counter()
            lines += experiment(lab)
            sys.stderr.write(f"{experiment.__name__}: {time.perf_counter() - started:.0f} s\n")
    fill(page, BLOCK, "\n".join(lines))


if __name__ == "__main__":
    if len(sys.argv) > 2:
        sys.exit("usage: python docs/effects.py [FOLDER]")
    folder = Path(sys.argv[1]) if len(sys.argv) == 2 else PAGE.parent
    write(folder / PAGE.name, folder)
