"""The same ratios on a GPU, with random-weight models of two real shapes in bfloat16; only where there is one."""

from __future__ import annotations

import gc
from dataclasses import replace
from typing import Any

from benchmarks.capture import family_tables
from benchmarks.models import Shape, build, word_tokenizer
from benchmarks.recording import whole
from benchmarks.results import Section
from benchmarks.scale import Scale

# As in the published configurations of OLMoE-1B-7B and Qwen3-30B-A3B.
SHAPES = {
    "OLMoE": Shape(
        hidden=2048,
        layers=16,
        experts=64,
        expert_width=1024,
        heads=16,
        kv_heads=16,
        head_dim=128,
        vocabulary=50304,
    ),
    "Qwen3-MoE": Shape(
        hidden=2048,
        layers=48,
        experts=128,
        expert_width=768,
        heads=32,
        kv_heads=4,
        head_dim=128,
        vocabulary=151936,
        positions=40960,
    ),
}
MODELS = {"OLMoE": "OLMoE-1B-7B's shape", "Qwen3-MoE": "Qwen3-30B-A3B's shape"}
ROOM = 1.15  # of the parameters' bytes: activations, logits of a batch, and the allocator's rest
METHOD = """\
As on the CPU (see there), on one GPU in bfloat16: every pass ends with a synchronisation, so that the clock sees
the work and not its queueing. Recording batches hold up to 16,384 tokens."""


def measure(scale: Scale) -> Section:
    """The GPU section; skipped, with the reason, where there is no CUDA device."""
    import torch

    section = Section("gpu", "On a GPU", METHOD)
    if not torch.cuda.is_available():
        section.skipped = "not measured here: no CUDA device"
        return section
    for family, shape in SHAPES.items():
        need, free = ROOM * _parameters(shape) * 2, torch.cuda.mem_get_info()[0]
        if need > free:
            section.notes.append(
                f"{MODELS[family]}: not measured, it needs {need / 2**30:.0f} GiB of the {free / 2**30:.0f} GiB free"
            )
            continue
        measure_model(section, family, shape, scale)
        gc.collect()
        torch.cuda.empty_cache()
    return section


def measure_model(section: Section, family: str, shape: Shape, scale: Scale, device: str = "cuda") -> None:
    """Capture and recording of one model, added to the section."""
    model: Any = build(family, shape, "bfloat16", device)
    size = sum(parameter.numel() for parameter in model.parameters())
    section.notes.append(f"{MODELS[family]}: {shape}; {size / 1e9:.1f} B parameters, bfloat16, random weights.")
    section.tables += family_tables(MODELS[family], model, scale)
    sized = replace(scale, shape=shape)
    section.tables.append(whole(f"{MODELS[family]}, `probe record`", model, word_tokenizer(shape.vocabulary), sized))


def _parameters(shape: Shape) -> int:
    experts = shape.experts * 3 * shape.hidden * shape.expert_width
    attention = 2 * shape.hidden * shape.head_dim * (shape.heads + shape.kv_heads)
    return shape.layers * (experts + attention) + 2 * shape.vocabulary * shape.hidden
