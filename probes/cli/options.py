"""Options that several commands share: interventions and how they are read, and how a model is loaded."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from probes import parsing

if TYPE_CHECKING:
    from probes.interventions import Spec

SEEDS = 2**32 - 1  # what every library takes as a seed
LOADING = ("dtype", "device", "revision", "trust_remote_code")


def whole(parser: Any, flag: str, *, low: int = 0, high: int = parsing.LARGEST, **kwargs: Any) -> None:
    """An option that takes a whole number between `low` and `high`; anything else is said at once, in one line."""
    parser.add_argument(flag, type=_Whole(flag, low, high), **kwargs)


def number(parser: Any, flag: str, *, bounds: Mapping[str, float], **kwargs: Any) -> None:
    """An option that takes a finite number; bounds: low, high, above (as `parsing.number` has them)."""
    parser.add_argument(flag, type=_Number(flag, bounds), **kwargs)


def run(parser: Any, flag: str, said: str, metavar: str = "ID", **kwargs: Any) -> None:
    """An option that names a run of a trace; they are counted from 1."""
    whole(parser, flag, low=1, metavar=metavar, help=said, **kwargs)


def seed(parser: Any, said: str, default: int | None = 0) -> None:
    """--seed N."""
    whole(parser, "--seed", high=SEEDS, default=default, metavar="N", help=said)


def layers(parser: Any, said: str) -> None:
    """--layers 0-7, as text; judged here."""
    parser.add_argument("--layers", metavar="0-7", type=_layers, help=said)


@dataclass(frozen=True, eq=False)
class _Whole:
    flag: str
    low: int
    high: int

    def __call__(self, text: str) -> int:
        return parsing.whole(text, self.flag, self.low, self.high)


@dataclass(frozen=True, eq=False)
class _Number:
    flag: str
    bounds: Mapping[str, float]

    def __call__(self, text: str) -> float:
        return parsing.number(text, self.flag, **self.bounds)


def _layers(text: str) -> str:
    parsing.layers(text)
    return text


def interventions(parser: argparse.ArgumentParser, said: str, required: bool = False) -> None:
    """--intervention SPEC, and --from TRACE with its --run."""
    parser.add_argument(
        "--intervention",
        action="append",
        default=[],
        required=required,
        metavar="SPEC",
        help=f"inline as in ban:layer=3,expert=7, or a YAML or JSON file, or with --from a recipe; {said}",
    )
    source(parser)


def source(parser: argparse.ArgumentParser) -> None:
    """--from TRACE and --run ID."""
    parser.add_argument(
        "--from",
        dest="trace",
        metavar="TRACE",
        help="a recording that recipes ask, as in npmi:label=sums,top=2,action=ban ('probe interventions' lists them)",
    )
    run(parser, "--run", "run of --from (default: newest complete)", dest="run_id")


def parsed(args: argparse.Namespace) -> tuple[Spec, ...]:
    """All interventions as they act together."""
    from probes.interventions.values import check_naming
    from probes.recipes import specs_of

    return check_naming(specs_of(args.intervention, args.trace, args.run_id))


def generation(parser: argparse.ArgumentParser) -> None:
    """--generation NAME=VALUE."""
    parser.add_argument(
        "--generation",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a generation option of transformers, as in repetition_penalty=1.2; may be repeated. "
        "The checkpoint's own generation_config is not used",
    )


def loading(parser: argparse.ArgumentParser) -> None:
    """How the model is loaded."""
    parser.add_argument("--dtype", default="auto", help="precision to load the model in")
    parser.add_argument("--device", metavar="DEVICE", help="cpu, cuda, cuda:1, mps, or auto to spread a large model")
    parser.add_argument("--revision", metavar="REV", help="branch, tag or commit of a hub model")
    parser.add_argument("--trust-remote-code", action="store_true", help="run the model's own Python code")


def load_settings(args: argparse.Namespace) -> dict[str, Any]:
    """The same as `load_model` takes it; a precision or device that is none is a UsageError."""
    from probes.model import check_loading

    check_loading(args.dtype, args.device)
    return {name: getattr(args, name) for name in LOADING}


def texts(given: list[str] | None) -> tuple[str, ...]:
    r"""Stop texts as typed: \n is a line break, an empty one is none."""
    return tuple(text.replace("\\n", "\n") for text in given or [] if text)
