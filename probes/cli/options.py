"""Options that several commands share: interventions and how they are read, and how a model is loaded."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from probes.interventions import Spec

LOADING = ("dtype", "device", "revision", "trust_remote_code")


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
    parser.add_argument("--run", dest="run_id", type=int, metavar="ID", help="run of --from (default: newest complete)")


def parsed(args: argparse.Namespace) -> tuple[Spec, ...]:
    """All interventions as they act together."""
    from probes.recipes import specs_of

    return specs_of(args.intervention, args.trace, args.run_id)


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
    """The same as `load_model` takes it."""
    return {name: getattr(args, name) for name in LOADING}


def texts(given: list[str] | None) -> tuple[str, ...]:
    r"""Stop texts as typed: \n is a line break, an empty one is none."""
    return tuple(text.replace("\\n", "\n") for text in given or [] if text)
