"""`probe record`: a model's routing over prompts, into a trace."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

from probes import parsing

if TYPE_CHECKING:
    from probes.recording.options import RecordOptions

SUMMARY = "record a model's routing over prompts into a trace"
EXAMPLE = "probe record allenai/OLMoE-1B-7B-0924 --prompts prompts.jsonl --out olmoe.duckdb"

SAME_NAME = (
    "max_new_tokens",
    "max_length",
    "limit",
    "logit_rate",
    "output_rate",
    "dtype",
    "device",
    "revision",
    "seed",
    "shard",
    "trust_remote_code",
)


def configure(parser: argparse.ArgumentParser) -> None:
    from probes.cli import options
    from probes.recording.options import DEFAULT_CAPTURE, DTYPES, LEVELS

    levels = "; ".join(f"{name}: {what}" for name, what in LEVELS.items())
    parser.add_argument("model", metavar="MODEL", help="folder or hub name of a transformers model")
    parser.add_argument("--prompts", required=True, metavar="FILE", help="JSONL, Parquet, .txt or a folder of .txt")
    parser.add_argument(
        "--out", required=True, metavar="TRACE", help="trace to write; a run is added to an existing one"
    )
    parser.add_argument(
        "--capture",
        metavar="LEVELS",
        help=f"what to keep (default {','.join(DEFAULT_CAPTURE)}), or for=METRIC: what that metric reads. {levels}",
    )
    options.layers(parser, "only these layers (the model's own numbers)")
    options.whole(parser, "--max-new-tokens", default=0, metavar="N", help="also generate N tokens, greedily")
    options.generation(parser)
    parser.add_argument(
        "--batch-size", type=_batch_size, metavar="auto|N", help="sequences per forward pass (default auto)"
    )
    options.whole(parser, "--max-length", low=1, metavar="N", help="cut prompts to N tokens")
    options.whole(parser, "--limit", low=1, metavar="N", help="only the first N sequences")
    share = {"above": 0, "high": 1}
    said = "keep logits for this share of tokens"
    options.number(parser, "--logit-rate", bounds=share, default=1.0, metavar="R", help=said)
    said = "keep output vectors for this share of tokens"
    options.number(parser, "--output-rate", bounds=share, default=0.01, metavar="R", help=said)
    parser.add_argument("--dtype", default="auto", metavar="|".join(DTYPES), help="precision to load the model in")
    parser.add_argument("--device", metavar="DEVICE", help="cpu, cuda, cuda:1, mps, or auto to spread a large model")
    parser.add_argument("--revision", metavar="REV", help="branch, tag or commit of a hub model")
    options.seed(parser, "decides which positions keep their logits")
    parser.add_argument("--shard", metavar="I/N", help="only every N-th sequence from the I-th on")
    parser.add_argument("--name", metavar="NAME", help="a name for the run (default: the model's and the prompts')")
    options.interventions(parser, "the model is steered by it meanwhile; several act in order")
    options.run(parser, "--baseline", "the run of TRACE to compare with, kept with this", metavar="RUN")
    parser.add_argument("--resume", action="store_true", help="go on with an interrupted run")
    parser.add_argument("--dry-run", action="store_true", help="say what would be recorded, and how large it gets")
    parser.add_argument("--trust-remote-code", action="store_true", help="run the model's own Python code")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(args: argparse.Namespace) -> int:
    from probes.cli.options import parsed
    from probes.recording.estimate import dry_run
    from probes.recording.record import record

    options = _options(args)
    specs = parsed(args)
    if args.dry_run:
        estimate = dry_run(args.model, args.prompts, options)
        _told(estimate.notes)
        print(json.dumps(estimate.as_dict(), ensure_ascii=False) if args.json else estimate.describe())
        return _left_out(estimate.left_out)
    done = record(
        args.model,
        args.prompts,
        args.out,
        resume=args.resume,
        name=args.name,
        options=options,
        interventions=specs,
        baseline=args.baseline,
    )
    _told(done.notes)
    print(json.dumps(done.as_dict(), ensure_ascii=False) if args.json else done.describe())
    return _left_out(done.left_out)


def _options(args: argparse.Namespace) -> RecordOptions:
    from probes.recording.options import RecordOptions, check_options, parse_capture, parse_layers

    options = RecordOptions(
        capture=parse_capture(args.capture),
        layers=parse_layers(args.layers),
        generation=tuple(args.generation),
        batch_size=args.batch_size,
        **{name: getattr(args, name) for name in SAME_NAME},
    )
    return check_options(options)


def _told(notes: list[str]) -> None:
    for note in notes:
        print(f"probe: {note}", file=sys.stderr)


def _batch_size(text: str) -> int | None:
    """None for auto."""
    return None if text == "auto" else parsing.whole(text, "--batch-size (auto or N)", 1)


SHOWN = 5


def _left_out(bad: list) -> int:
    """Name the prompts that were left out; the exit code says that not all was done."""
    for item in bad[:SHOWN]:
        print(f"probe: left out {item}", file=sys.stderr)
    if len(bad) > SHOWN:
        print(f"probe: … and {len(bad) - SHOWN} more prompts left out", file=sys.stderr)
    return 1 if bad else 0
