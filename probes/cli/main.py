"""The `probe` command: finds its sub-commands, turns errors into one line and an exit code."""

from __future__ import annotations

import argparse
import importlib
import os
import pkgutil
import sys
from collections.abc import Sequence
from types import ModuleType

from probes import __version__
from probes.chatter import hush
from probes.cli.parser import Parser
from probes.errors import ProbeError, UsageError, did_you_mean

NOT_COMMANDS = {"main", "options", "output", "parser"}


def command_names() -> list[str]:
    """Every file beside this one is a command, except the ones that say how commands are run."""
    package = importlib.import_module("probes.cli")
    return sorted(m.name for m in pkgutil.iter_modules(package.__path__) if m.name not in NOT_COMMANDS)


def load_command(name: str) -> ModuleType:
    return importlib.import_module(f"probes.cli.{name}")


def build_parser(only: str | None = None) -> argparse.ArgumentParser:
    """The whole parser, or (faster) the one with only the sub-command that is about to run."""
    parser = Parser(prog="probe", description="Record, analyse and change the routing of mixture-of-experts models.")
    parser.add_argument("--version", action="version", version=f"router-workbench {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)
    for name in [only] if only else command_names():
        module = load_command(name)
        sub = commands.add_parser(
            name,
            help=module.SUMMARY,
            description=module.SUMMARY,
            epilog=f"example:\n  {module.EXAMPLE}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.configure(sub)
        sub.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 0 done, 1 could not do it, 2 wrong usage, 130 interrupted."""
    words = list(sys.argv[1:] if argv is None else argv)
    hush()
    try:
        return _run(words)
    except UsageError as error:
        return _say(error, 2)
    except ProbeError as error:
        return _say(error, 1)
    except KeyboardInterrupt:
        return _say("interrupted; whatever was written up to here stays readable", 130)
    except BrokenPipeError:
        # The reader (head, less) has had enough. Python would complain again when it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _run(words: list[str]) -> int:
    known = command_names()
    named = next((w for w in words if not w.startswith("-")), None)
    if named is not None and words[0] == named and named not in known:
        raise UsageError(f"unknown command {named!r}{did_you_mean(named, known)}; see 'probe --help'")
    parser = build_parser(named if named in known and words[0] == named else None)
    args = parser.parse_args(words)
    if args.command is None:
        parser.print_help()
        return 2
    return _with_store_errors(args)


def _with_store_errors(args: argparse.Namespace) -> int:
    """`store` has errors of its own, because it knows nothing of ours; here they become the same one line."""
    try:
        return int(args.run(args) or 0)
    except Exception as error:
        errors = sys.modules.get("store.errors")
        if errors is not None and isinstance(error, errors.TraceError):
            raise ProbeError(str(error)) from error
        raise


def _say(message: object, code: int) -> int:
    print(f"probe: {' '.join(str(message).splitlines())}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
