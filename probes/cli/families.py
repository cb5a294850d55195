"""`probe families`: the model families, the rules they route by, and a check that builds and records each."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from probes.capture.family_check import FamilyCheck
    from probes.families import Family

SUMMARY = "list the model families and their routing rules, or check them all by running them"
EXAMPLE = "probe families olmoe --check"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", help="one family; all of them otherwise")
    parser.add_argument("--check", action="store_true", help="build each from a tiny config, record it and verify")
    parser.add_argument("--interventions", action="store_true", help="with --check: try every intervention on each")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument("--write", metavar="FILE", help="write the table of all families as a page (with --check)")


def run(args: argparse.Namespace) -> int:
    from probes.errors import UsageError
    from probes.families import families, family
    from probes.files import check_writable

    if args.write == "":
        raise UsageError("--write needs the name of a file")
    check_writable(args.write)
    if args.write and (args.name or not args.check):
        raise UsageError("--write needs --check and all families")
    chosen = [family(args.name)] if args.name else list(families().values())
    if args.interventions:
        if not args.check:
            raise UsageError("--interventions needs --check: it tries them")
        return _interventions(chosen, args)
    return _check(chosen, args) if args.check else _list(chosen, args)


def _list(chosen: list[Family], args: argparse.Namespace) -> int:
    rows = [_record(f) for f in chosen]
    if args.json:
        print(json.dumps({"families": rows}, indent=1))
        return 0
    for row in rows:
        print(f"{row['name']:24} {row['rule']:18} {row['notes']}".rstrip())
        if args.name:
            print(f"{'':24} {row['formula']}\n{'':24} {row['source']}")
    return 0


def _record(family: Family) -> dict[str, Any]:
    return {
        "name": family.name,
        "rule": family.rule.name,
        "formula": family.rule.formula,
        "recomputes": family.rule.recomputes,
        "source": family.rule.source,
        "limits": dict(family.limits),
        "notes": "; ".join([*family.limits.values(), *([family.notes] if family.notes else [])]),
    }


def _check(chosen: list[Family], args: argparse.Namespace) -> int:
    from probes.capture.family_check import check_family
    from probes.families.page import page, summary

    checks = []
    for number, family in enumerate(chosen, 1):
        checks.append(check_family(family))
        _progress(number, len(chosen), checks[-1])
    if args.write:
        with open(args.write, "w", encoding="utf-8") as stream:
            stream.write(page(checks))
    if args.json:
        print(json.dumps({"families": [_found(c) for c in checks], "summary": summary(checks)}, indent=1))
    else:
        print("\n".join([*map(_line, checks), summary(checks)]))
    return int(any(c.failures for c in checks))


def _interventions(chosen: list[Family], args: argparse.Namespace) -> int:
    from dataclasses import asdict

    from probes.interventions.family_check import FAILS, try_family
    from probes.interventions.family_table import family_table, lines, summary

    trials = []
    for number, family in enumerate(chosen, 1):
        trials += try_family(family)
        if sys.stderr.isatty():
            print(f"[{number}/{len(chosen)}] {family.name}", file=sys.stderr)
    if args.write:
        from probes.document import fill

        fill(args.write, "families", family_table(trials))
    if args.json:
        print(json.dumps({"trials": [asdict(t) for t in trials], "summary": summary(trials)}, indent=1))
    else:
        print("\n".join([*lines(trials), summary(trials)]))
    return int(any(t.outcome == FAILS for t in trials))


def _progress(number: int, total: int, check: FamilyCheck) -> None:
    if sys.stderr.isatty() or check.failures:
        words = "; ".join(check.failures) or "ok"
        print(f"[{number}/{total}] {check.family.name}: {words}", file=sys.stderr)


def _line(check: FamilyCheck) -> str:
    from probes.families.page import official

    same = "+".join(d for d, identical in check.identical.items() if identical) or "-"
    state = "FAILS" if check.failures else "ok"
    return (
        f"{check.family.name:24} {check.family.rule.name:18} {check.captures:28} "
        f"{check.recomputed or '-':16} {same:17} {state:6} {official(check)}"
    )


def _found(check: FamilyCheck) -> dict[str, Any]:
    return {
        **_record(check.family),
        "recorded": check.captures,
        "recomputed": check.recomputed,
        "bit_identical": check.identical,
        "experts_run_twice": check.twice,
        "output_router_logits": check.official,
        "hidden": check.hidden,
        "failures": list(check.failures),
    }
