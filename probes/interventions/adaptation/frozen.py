"""A model that gradients pass through and that stays as it is: no parameter asks for one, none is changed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from probes.capture.within import language_model
from probes.errors import ProbeError


@contextmanager
def frozen(model: Any) -> Iterator[None]:
    """Gradients on, for what is learned beside the model; its parameters need none meanwhile.

    Graphs then start where something is learned, which saves memory, and no `.grad` is left behind. The flags are as
    they were afterwards. transformers' experts have a backward on every device (`grouped_mm` and its replacement where
    torch lacks it), so the implementation stays. ProbeError for weights that are not there to differentiate through.
    """
    if any(parameter.device.type == "meta" for parameter in model.parameters()):
        raise ProbeError("parts of this model are offloaded, so nothing can be learned through it; load it whole")
    asked = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for parameter in asked:
            parameter.requires_grad_(False)
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        for parameter in asked:
            parameter.requires_grad_(True)


@contextmanager
def applied(model: Any, values: dict[str, Any]) -> Iterator[None]:
    """`model` with other values of the named parameters; their own storage is put back, so nothing is rounded."""
    parameters = dict(language_model(model).named_parameters(remove_duplicate=False))
    before = {name: parameters[name].data for name in values}
    try:
        for name, value in values.items():
            parameters[name].data = value.detach().to(before[name])
        yield
    finally:
        for name, data in before.items():
            parameters[name].data = data
