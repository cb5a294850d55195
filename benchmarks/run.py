"""One command: measure, keep the figures as JSON, write docs/benchmarks.md.

python -m benchmarks.run                     # everything, about half an hour on two cores
python -m benchmarks.run --quick             # fewer rounds and tokens: a look, not a result
python -m benchmarks.run --only storage      # one section; the others stay as they are
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.report import render
from benchmarks.results import Section, load, load_average, save, stamp
from benchmarks.scale import FULL, QUICK, SCALES, Scale

ROOT = Path(__file__).parent.parent
SECTIONS = ("capture", "steering", "recording", "storage", "startup", "foreign", "metrics", "pages", "gpu")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the chosen sections one after the other; each is saved as soon as it is there."""
    args = _parser().parse_args(argv)
    import torch

    torch.set_num_threads(args.threads)
    # A quick look must not replace measured figures.
    results = args.results or (ROOT / "benchmarks/results.json" if args.scale is FULL else Path("quick-results.json"))
    page = args.page or (ROOT / "docs/benchmarks.md" if args.scale is FULL else Path("quick-benchmarks.md"))
    found = load(results)
    for name in args.only or SECTIONS:
        print(f"{name} ...", file=sys.stderr, flush=True)
        found[name] = measured(name, args.scale)
        ordered = [found[known] for known in SECTIONS if known in found]
        save(results, ordered)
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(render(ordered), encoding="utf-8")
    print(f"{page} and {results} written", file=sys.stderr)
    return 0


def measured(name: str, scale: Scale) -> Section:
    """One section, with the machine, the date and the load before it."""
    before, start = load_average(), time.perf_counter()
    section: Section = importlib.import_module(f"benchmarks.{name}").measure(scale)
    return stamp(section, before, time.perf_counter() - start)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description="Measure everything.")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, help="sections to measure; the others stay")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch (default 2, as stated)")
    parser.add_argument("--quick", dest="scale", action="store_const", const=QUICK, default=FULL)
    parser.add_argument("--scale", type=SCALES.__getitem__, help=argparse.SUPPRESS)
    parser.add_argument("--results", type=Path, help="JSON file (default benchmarks/results.json)")
    parser.add_argument("--page", type=Path, help="page to write (default docs/benchmarks.md)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
