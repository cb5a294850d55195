"""`probe steer`: what a model writes with and without interventions, side by side."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from probes.prompts import Prompt

SUMMARY = "generate with and without interventions, side by side: texts, probabilities, experts"
EXAMPLE = 'probe steer sample_data/model --prompt "47+35=" --intervention ban:layer=3,expert=14 --max-new-tokens 30'


def configure(parser: argparse.ArgumentParser) -> None:
    from probes.cli import options

    parser.add_argument("model", metavar="MODEL", help="folder or hub name of a transformers model")
    parser.add_argument("--prompt", required=True, metavar="TEXT", help="what to go on from")
    parser.add_argument("--chat", action="store_true", help="give the prompt through the model's chat template")
    parser.add_argument(
        "--chat-template-kwargs",
        metavar="JSON",
        help='with --chat: variables of the template, {"enable_thinking": false}',
    )
    options.interventions(parser, "may be repeated: they act together, in this order", required=True)
    options.whole(parser, "--max-new-tokens", low=1, default=64, metavar="N", help="longest text (default 64)")
    parser.add_argument("--stop", action="append", default=[], metavar="TEXT", help=r"text that ends it, as in '\n'")
    said = "draw tokens at T (default: the most likely)"
    options.number(parser, "--temperature", bounds={"above": 0}, metavar="T", help=said)
    said = "draw only from the likeliest that make up P together"
    options.number(parser, "--top-p", bounds={"above": 0, "high": 1}, metavar="P", help=said)
    options.seed(parser, "of what is drawn, the same for both texts (default 0)", default=None)
    options.generation(parser)
    parser.add_argument("--out", metavar="TRACE", help="write both runs into this trace, the steered one with its spec")
    options.loading(parser)
    parser.add_argument("--json", action="store_true", help="print JSON, with every token")


def run(args: argparse.Namespace) -> int:
    from probes.cli import options
    from probes.errors import UsageError
    from probes.files import check_writable
    from probes.generation import Decoding
    from probes.model import load_model
    from probes.side_by_side import side_by_side
    from probes.side_by_side_text import render

    decoding = Decoding(args.max_new_tokens, options.texts(args.stop), options=tuple(args.generation), **_drawn(args))
    decoding = decoding.checked()
    if not args.prompt:
        raise UsageError("the prompt is empty")
    load = options.load_settings(args)
    check_writable(args.out)
    specs = options.parsed(args)
    prompt = _prompt(args)
    model, tokenizer = load_model(args.model, **load)
    told = _Told()
    found = side_by_side(model, tokenizer, prompt, specs, decoding=decoding, trace=args.out, on_step=told)
    told.close()
    print(json.dumps(found.as_dict(), ensure_ascii=False, allow_nan=False) if args.json else render(found))
    return 0


def _prompt(args: argparse.Namespace) -> Prompt:
    """The prompt as a line of a prompts file would give it."""
    from probes.errors import UsageError
    from probes.prompts import BadPrompt, prompt_from_record

    if args.chat_template_kwargs is not None and not args.chat:
        raise UsageError("--chat-template-kwargs are for a chat template: give --chat as well")
    record: dict[str, Any] = {"text": args.prompt}
    if args.chat:
        record = {"messages": [{"role": "user", "content": args.prompt}]}
        if args.chat_template_kwargs is not None:
            record["chat_template_kwargs"] = _json(args.chat_template_kwargs)
    found = prompt_from_record(record, "--prompt", "prompt")
    if isinstance(found, BadPrompt):
        raise UsageError(str(found))
    return found


def _json(text: str) -> Any:
    from probes.errors import UsageError

    try:
        return json.loads(text)
    except ValueError as error:
        raise UsageError(f"--chat-template-kwargs {text!r} is not JSON ({error})") from None


def _drawn(args: argparse.Namespace) -> dict[str, Any]:
    """How tokens are drawn, as `Decoding` takes it; nothing where the most likely are taken."""
    from probes.errors import UsageError

    chosen = {name: getattr(args, name) for name in ("top_p", "seed") if getattr(args, name) is not None}
    if args.temperature is not None:
        return {"sample": True, "temperature": args.temperature, **chosen}
    if chosen:
        raise UsageError(f"--{next(iter(chosen)).replace('_', '-')} is of drawn tokens: give --temperature as well")
    return {}


class _Told:
    """How far the texts are, on a terminal; silence in a pipe."""

    def __init__(self) -> None:
        self._bar: Any = None

    def __call__(self, which: str, text: str) -> None:
        from tqdm import tqdm

        if self._bar is None:
            self._bar = tqdm(unit=" tokens", disable=None, file=sys.stderr)
        self._bar.set_description(which, refresh=False)
        self._bar.update()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
