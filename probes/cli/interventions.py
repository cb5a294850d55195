"""`probe interventions`: what can be done to the routing, one by one or as a list, and specs built from a recording."""

from __future__ import annotations

import argparse
import json

SUMMARY = "list or define the interventions; with --from TRACE, build one from what a recording says"
EXAMPLE = "probe interventions npmi:label=arithmetic,top=2,action=ban --from demo.duckdb > spec.yaml"


def configure(parser: argparse.ArgumentParser) -> None:
    from probes.cli import options

    parser.add_argument("name", nargs="?", metavar="NAME", help="an intervention or a recipe; a list of all without it")
    options.source(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    if args.trace:
        return _build(args)
    return _define(args) if args.name else _list(args)


def _build(args: argparse.Namespace) -> int:
    from probes.errors import UsageError
    from probes.recipes import as_yaml, recipes, specs_of

    if not args.name:
        raise UsageError(f"build what? Recipes: {', '.join(recipes())}, as in '{EXAMPLE}'")
    specs = specs_of(args.name, args.trace, args.run_id)
    if args.json:
        print(json.dumps([spec.as_dict() for spec in specs], ensure_ascii=False))
    else:
        print(as_yaml(specs, f"{args.name} of {args.trace}"), end="")
    return 0


def _define(args: argparse.Namespace) -> int:
    from probes.interventions import intervention
    from probes.interventions.describe import as_record, as_text
    from probes.recipes import recipes
    from probes.recipes.describe import recipe_record, recipe_text

    name = args.name.replace("-", "_")
    if name in recipes():
        found = recipes()[name]
        print(json.dumps(recipe_record(found), ensure_ascii=False) if args.json else recipe_text(found))
        return 0
    declared = intervention(name)
    print(json.dumps(as_record(declared), ensure_ascii=False) if args.json else as_text(declared))
    return 0


def _list(args: argparse.Namespace) -> int:
    from probes.interventions import interventions
    from probes.interventions.describe import as_record
    from probes.recipes import recipes
    from probes.recipes.describe import recipe_record

    every, built = list(interventions().values()), list(recipes().values())
    if args.json:
        records = {"interventions": [as_record(one) for one in every], "recipes": [recipe_record(r) for r in built]}
        print(json.dumps(records, ensure_ascii=False))
        return 0
    width = max(map(len, [*interventions(), *recipes()]))
    print("\n".join(f"{one.name:<{width}}  {one.does}" for one in every))
    print("\nrecipes: interventions built from a recording (--from TRACE)")
    print("\n".join(f"{one.name:<{width}}  {one.does}" for one in built))
    return 0
