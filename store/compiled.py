"""numba's compiler, its work cached where there is room. The loops release the GIL: a model runs beside them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    try:
        return numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:  # nowhere to keep the compiled code: compile in every process
        return numba.njit(nogil=True)(function)
