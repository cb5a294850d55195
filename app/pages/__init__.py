"""The pages: one file each, found by looking. A page is a `PAGE` record and a `render(here)`."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from app.components.token_text import legible

if TYPE_CHECKING:
    import pandas as pd

    from app.data import TraceFile


@dataclass(frozen=True)
class Page:
    """How a page stands in the navigation. `name` is its place in the URL; `order` sorts within its `section`.

    `needs_trace`: whether there is nothing to show without one; the others may be given None in place of Here.
    `charts`: whether its first view has charts, so that the browser had better fetch what draws them at once.
    """

    name: str
    title: str
    icon: str
    section: str
    order: int
    needs_trace: bool = True
    charts: bool = False


@dataclass(frozen=True)
class Here:
    """What every page is about: a trace, one of its runs (a row of the `runs` view) and that run's MoE layers."""

    trace: TraceFile
    run: dict[str, Any]
    layers: pd.DataFrame
    recording: bool

    @property
    def run_id(self) -> int:
        return int(self.run["run_id"])

    @property
    def where(self) -> str:
        """The trace and the run by name, for the line above a page's title."""
        return f"{legible(self.trace.name)}  ·  run {self.run_id}  ·  {legible(self.run['name'])}"


SECTIONS = ("Look", "Analyse", "Change", "Data")  # in the order of the sidebar


def discover() -> list[tuple[Page, Callable[[Any], None]]]:
    """Every page of this package with its render function, in the order of the navigation."""
    modules = [importlib.import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__)]
    pages = [(module.PAGE, module.render) for module in modules]
    return sorted(pages, key=lambda entry: (SECTIONS.index(entry[0].section), entry[0].order))
