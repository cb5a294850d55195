"""Against other ways to the same numbers: transformers' `output_router_logits=True`, and nnsight.

nnsight lives in an environment of its own, which is made on the first run: a virtual environment that sees this one's
packages, so that torch and transformers are the very same. Everything compared runs in that one process.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.capture import under_hooks
from benchmarks.models import build, decode_steps, prefill, tokens
from benchmarks.results import Section, Table, load_text, ratio_row
from benchmarks.scale import SCALES, Scale
from benchmarks.timing import Variant, Work, interleave, plain
from probes.capture import Want

NNSIGHT = "0.8.1"
FOLDER = Path(__file__).parent / ".nnsight"
SAME_AS_HERE = ("torch", "transformers", "numpy")
OURS_LOGITS, OURS_ALL = "capture: logits (ids come with them)", "capture: logits + ids + weights"
ROUTER_LOGITS = "`output_router_logits=True`: logits"
METHOD = """\
Same model, same process, same rounds. `output_router_logits=True` gives logits only, and computes the load-
balancing loss of training beside them. nnsight saves the outputs of every layer's router (logits, weights, ids) by
`NNsight(model).trace`, one trace per forward pass, on a model of its own with the same weights, because wrapping a
model slows its plain passes too. Capture includes taking everything to NumPy arrays."""


def measure(scale: Scale, folder: Path = FOLDER) -> Section:
    """The section, measured inside nnsight's environment, or here and without it where that cannot be made."""
    try:
        python = environment(folder)
    except (subprocess.SubprocessError, OSError) as error:
        section = compare(scale, nnsight=False)
        section.skipped = f"nnsight {NNSIGHT} was not compared: its environment cannot be made ({_reason(error)})"
        return section
    import torch

    command = [str(python), "-m", "benchmarks.foreign", scale.name, str(torch.get_num_threads())]
    # The last line alone: libraries print what they like before it.
    text = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1]
    return load_text(text)["foreign"]


def environment(folder: Path) -> Path:
    """The Python of nnsight's environment, made if it is not there. SubprocessError or OSError if that fails."""
    python = folder / "bin" / "python"
    if (folder / "made").exists():
        return python
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True, capture_output=True, timeout=120)
    paths = {"base": str(folder), "platbase": str(folder)}
    packages = Path(sysconfig.get_path("purelib", "venv", vars=paths))
    (packages / "host.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as constraints:
        constraints.write("".join(f"{name}=={version(name)}\n" for name in SAME_AS_HERE))
        constraints.flush()
        install = [str(python), "-m", "pip", "install", "--quiet", "-c", constraints.name, f"nnsight=={NNSIGHT}"]
        subprocess.run(install, check=True, capture_output=True, timeout=600)
    (folder / "made").touch()
    return python


def _reason(error: Exception) -> str:
    said = getattr(error, "stderr", None) or b""
    lines = said.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else str(error).splitlines()[0]


def compare(scale: Scale, *, nnsight: bool) -> Section:
    """Both families, prefill and single-token passes."""
    section = Section("foreign", "Against output_router_logits and nnsight", METHOD)
    batch, length = scale.prefill
    for family in scale.families:
        model = build(family, scale.shape)
        wrapped = _wrapped(family, scale) if nnsight else None
        ids, prompt = tokens(model, batch, length), tokens(model, 1, scale.prompt)
        run_prefill = partial(prefill, model, ids)
        run_decode = partial(decode_steps, model, prompt, scale.new_tokens)
        section.tables += [
            _table(f"{family}: prefill of {batch} x {length} tokens", model, wrapped, run_prefill, scale.rounds),
            _table(f"{family}: {scale.new_tokens} bare single-token passes", model, wrapped, run_decode, scale.rounds),
        ]
    section.notes.append(f"Shape: {scale.shape}; random weights, float32.")
    if nnsight:
        section.notes.append(f"nnsight {version('nnsight')} (its own environment).")
    return section


def _wrapped(family: str, scale: Scale) -> Callable[..., Any]:
    """A forward pass that saves every router's output, by nnsight."""
    from nnsight import NNsight

    wrapped = NNsight(build(family, scale.shape))

    # nnsight reads this function's source and runs the block inside the forward pass: it has to stay this simple.
    def traced(**inputs: Any) -> list[Any]:
        with wrapped.trace(**inputs):
            kept = list().save()  # type: ignore[attr-defined]  # noqa: C408 - nnsight gives it to list()
            for layer in wrapped.model.layers:
                kept.append(layer.mlp.gate.output)
        return kept

    return traced


def _table(title: str, model: Any, wrapped: Callable[..., Any] | None, run: Callable[..., Work], rounds: int) -> Table:
    variants: dict[str, Variant] = {
        "plain": plain(run()),
        ROUTER_LOGITS: plain(run(call=partial(model, output_router_logits=True))),
        OURS_LOGITS: under_hooks(model, Want(weights=False, norms=False), run()),
        OURS_ALL: under_hooks(model, Want(norms=False), run()),
    }
    pairs = [(OURS_LOGITS, ROUTER_LOGITS, "capture / `output_router_logits=True`, both logits")]
    if wrapped is not None:
        name = f"nnsight {NNSIGHT}: logits + ids + weights"
        variants[name] = plain(run(call=wrapped))
        pairs.append((OURS_ALL, name, "capture / nnsight, both logits + ids + weights"))
    timings = interleave(variants, rounds)
    rows = [ratio_row(name, timings, name, "plain") for name in variants if name != "plain"]
    rows += [ratio_row(words, timings, ours, theirs) for ours, theirs, words in pairs]
    return Table(title, rows, base=f"plain: {1e3 * timings.time('plain').median:.1f} ms; {timings.disturbance}")


def main() -> None:
    """Inside nnsight's environment: measure, and print the section as one line of JSON."""
    import torch

    parser = argparse.ArgumentParser()
    parser.add_argument("scale", choices=SCALES)
    parser.add_argument("threads", type=int)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(json.dumps({"foreign": asdict(compare(SCALES[args.scale], nnsight=_installed()))}))


def _installed() -> bool:
    try:
        version("nnsight")
    except PackageNotFoundError:
        return False
    return True


if __name__ == "__main__":
    main()
