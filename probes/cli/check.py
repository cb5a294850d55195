"""`probe check`: the self-test on a real model, and what is and is not guaranteed about recording it."""

from __future__ import annotations

import argparse
import json
from typing import Any

SUMMARY = "run the self-test on a model and say what can be recorded of it"
EXAMPLE = "probe check ./OLMoE-1B-7B --dtype bfloat16"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="a folder or a hub id")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of text")
    parser.add_argument("--dtype", default="auto", help="auto, float32, bfloat16 or float16")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, or auto to spread it over what there is")
    parser.add_argument("--revision", help="branch, tag or commit of a hub model")
    parser.add_argument("--trust-remote-code", action="store_true", help="run the code the model brings along")


def run(args: argparse.Namespace) -> int:
    from probes.model import check_loading, load_model

    check_loading(args.dtype, args.device)
    model, _ = load_model(
        args.model,
        dtype=args.dtype,
        device=args.device,
        revision=args.revision,
        trust_remote_code=args.trust_remote_code,
    )
    from probes.capture import self_test

    report = self_test(model)
    if args.json:
        print(json.dumps(_object(args.model, report), indent=1))
    else:
        print("\n".join(report.lines()))
    return 0 if report.ok else 1


def _object(model: str, report: Any) -> dict[str, Any]:
    return {
        "model": model,
        "ok": report.ok,
        "summary": report.summary,
        "notes": list(report.notes),
        "layers": [r.as_dict() for r in report.layers],
    }
