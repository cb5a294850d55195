"""What a visitor of Steering asked for and got: kept in the session, seen by no one else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import streamlit as st

from app.steering import spec_form
from probes.generation import Decoding
from probes.interventions import Spec

KEY = "_steering"


@dataclass(frozen=True)
class Request:
    """What one run is of: the model's folder, what it reads, how it writes, what is changed."""

    path: str
    prompt: str
    decoding: Decoding
    specs: tuple[Spec, ...]


@dataclass(frozen=True)
class Outcome:
    """What came of it: the comparison with the baseline, and the same for each control.

    kind: what the controls have in common with it ("load-matched", …); said: what they carry, or why there are none.
    """

    request: Request
    found: Any
    controls: tuple[Any, ...]
    kind: str = ""
    said: str = ""


@dataclass
class Memory:
    """specs: the list at hand. address: it, as the URL has it. problem: what in the URL cannot be read.

    outcome: of the last run. kept: the trace it was written into.
    """

    specs: list[Spec] = field(default_factory=list)
    address: str | None = None
    problem: str = ""
    outcome: Outcome | None = None
    kept: Path | None = None

    def adopt(self) -> None:
        """A new list in the URL (a link from another page) takes the place of the one at hand."""
        address = st.query_params.get("spec", "")
        if address != self.address:
            self.address = address
            if address or not self.specs:
                self.specs, self.problem = spec_form.read({"spec": address})

    def take(self, specs: Sequence[Spec]) -> None:
        """These from now on, here and in the URL."""
        self.specs, self.problem = list(specs), ""
        self.address = spec_form.written(self.specs)
        if self.address:
            st.query_params["spec"] = self.address
        elif "spec" in st.query_params:
            del st.query_params["spec"]


def memory() -> Memory:
    """This visitor's."""
    return st.session_state.setdefault(KEY, Memory())
