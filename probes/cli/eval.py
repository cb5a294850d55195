"""`probe eval`: accuracy, perplexity, KL and length under interventions, each with an interval and a control."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

SUMMARY = "measure what interventions do to a model's answers, with intervals and controls of the same load"
EXAMPLE = (
    "probe eval sample_data/model --tasks sample_data/tasks/sums.jsonl --intervention ban:layer=3,expert=14 --limit 60"
)


def configure(parser: argparse.ArgumentParser) -> None:
    from probes.cli import options

    parser.add_argument("model", metavar="MODEL", help="folder or hub name of a transformers model")
    parser.add_argument(
        "--tasks",
        action="append",
        required=True,
        metavar="FILE",
        help="JSONL: text with a target (exact match of what stands after the last </think>, metadata.answer first), "
        "with choices (highest log-probability), or alone (perplexity); may be repeated",
    )
    options.interventions(parser, "each is evaluated separately, 'A + B' and a file of several together")
    said = "controls of each (default 5), or as many different ones as there are"
    options.whole(parser, "--control-seeds", high=1000, default=5, metavar="N", help=said)
    parser.add_argument(
        "--control",
        default="load",
        metavar="load|count",
        help="controls name other experts of the same layers with the same load on the evaluated tokens (default), or "
        "just as many",
    )
    said = "how far a control's load may be from the intervention's, as a fraction of it (default 0.1)"
    bounds = {"low": 0, "high": 0.99}
    options.number(parser, "--control-tolerance", bounds=bounds, default=0.1, metavar="X", help=said)
    options.whole(parser, "--limit", low=1, metavar="N", help="only the first N items of each file")
    options.whole(parser, "--batch-size", low=1, metavar="N", help="items per pass (default: by their length)")
    options.whole(parser, "--max-new-tokens", low=1, default=64, metavar="N", help="longest answer (default 64)")
    parser.add_argument(
        "--stop", action="append", metavar="TEXT", help=r"text that ends an answer (default \n, a line break; '' none)"
    )
    parser.add_argument(
        "--join", default="auto", metavar="auto|space|none", help="between text and target (auto: no space after = < …)"
    )
    options.generation(parser)
    options.seed(parser, "of the controls, resamples and tests (default 0)")
    parser.add_argument("--resume", metavar="FILE", help="work file (JSONL): results per item; goes on where it ends")
    parser.add_argument("--out", metavar="FILE", help="also write the result with every item and output, as JSON")
    options.loading(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    from probes.cli import options
    from probes.evaluation import evaluate
    from probes.evaluation.render import render
    from probes.files import check_writable, write_json

    check_writable(args.out)
    bar = _Bar()
    found = evaluate(
        args.model,
        args.tasks,
        args.intervention,
        control_seeds=args.control_seeds,
        control=args.control,
        control_tolerance=args.control_tolerance,
        limit=args.limit,
        batch_size=args.batch_size,
        max_new_tokens=args.max_new_tokens,
        stop=options.texts(["\\n"] if args.stop is None else args.stop),
        join=args.join,
        generation=args.generation,
        seed=args.seed,
        resume=args.resume,
        progress=bar,
        trace=args.trace,
        run_id=args.run_id,
        load=options.load_settings(args),
    )
    bar.close()
    if args.out:
        write_json(args.out, {**found.as_dict(), "items": found.items})
    print(json.dumps(found.as_dict(), ensure_ascii=False, allow_nan=False) if args.json else render(found))
    return 0


class _Bar:
    """Progress on a terminal, silence in a pipe."""

    def __init__(self) -> None:
        self._bar: Any = None

    def __call__(self, done: int, total: int, arm: str) -> None:
        from tqdm import tqdm

        if self._bar is None:
            self._bar = tqdm(total=total, unit=" batches", disable=None, file=sys.stderr)
        self._bar.set_postfix_str(arm[:40], refresh=False)
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
