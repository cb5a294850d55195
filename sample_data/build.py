"""Rebuild the sample model and everything beside it: `python -m sample_data.build [stage ...]`.

Without a stage all of them run, in order. Training goes on from its last checkpoint (in build/sample_data/); to
start afresh, give `--fresh`.
"""

import argparse
import os
import shutil
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: one core, one order of summation

from sample_data import card, evaluate, held_out, tasks, tokenizer, train
from sample_data.recipe import CACHE_DIR

STAGES = {
    "tokenizer": tokenizer.build,
    "tasks": tasks.build,
    "held-out": held_out.build,
    "train": train.build,
    "evaluate": evaluate.build,
    "card": card.build,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m sample_data.build", description=__doc__.splitlines()[0])
    parser.add_argument("stages", nargs="*", metavar="stage", help=f"any of: {', '.join(STAGES)} (default: all)")
    parser.add_argument("--fresh", action="store_true", help="forget the checkpoint of an earlier training")
    arguments = parser.parse_args()
    if unknown := [stage for stage in arguments.stages if stage not in STAGES]:
        parser.error(f"no stage {unknown[0]!r}; there are: {', '.join(STAGES)}")
    if arguments.fresh:
        shutil.rmtree(CACHE_DIR, ignore_errors=True)
    for stage in arguments.stages or STAGES:
        started = time.monotonic()
        print(f"== {stage}", flush=True)
        STAGES[stage]()
        print(f"== {stage} done in {time.monotonic() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
