"""Reading a trace: open, ask, close, so that a recording can go on beside it.

trace = open_trace("trace.duckdb")
trace.runs()
for chunk in trace.chunks(run_id=1, columns=("experts", "weights")):
    chunk["experts"]                         # [T, L, k] of some whole sequences
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from store import database, queries
from store.alive import is_alive
from store.chunks import COLUMNS, read_chunk, sequence_groups
from store.errors import TraceError
from store.sizes import size
from store.totals import read_aggregates

MAX_ROWS = 400_000


class Trace:
    """A trace file; holds no connection. Made by `open_trace`."""

    def __init__(self, path: Path, wait: float = database.READ_WAIT):
        self.path, self.wait = path, wait
        self._known: set[int] = set()
        self._vocabulary: dict[int, tuple[Any, dict[int, str]]] = {}
        self._held = threading.local()

    def __repr__(self) -> str:
        return f"Trace({str(self.path)!r})"

    @property
    def nbytes(self) -> int:
        """Size of the file, with the log beside it where there is one."""
        return size(self.path)

    @property
    def schema_version(self) -> int:
        return self.ask(lambda con: database.schema_version(con, self.path))

    def ask(self, question: Any) -> Any:
        """`question(connection)` on a connection that is open only meanwhile."""
        con = getattr(self._held, "con", None)
        return database.read(self.path, question, self.wait) if con is None else question(con)

    def held(self) -> AbstractContextManager[None]:
        """Several short questions of this thread on one connection: opening the file takes longer than each of them.

        Nobody can write meanwhile, so nothing slow belongs inside.
        """
        return nullcontext() if getattr(self._held, "con", None) is not None else self._holding()

    @contextmanager
    def _holding(self) -> Iterator[None]:
        with database.reading(self.path, self.wait) as con:
            self._held.con = con
            try:
                yield
            finally:
                self._held.con = None

    def sql(self, sql: str, params: Sequence[Any] | None = None) -> Any:
        """DataFrame of a query of our own (people's SQL goes through store.sandbox)."""
        return self.ask(lambda con: con.execute(sql, params or []).df())

    def runs(self) -> Any:
        """DataFrame of the view `runs`; a recording whose process is gone is called interrupted."""
        frame = self.sql(queries.RUNS)
        writers = zip(frame.writer_pid, frame.writer_host, frame.heartbeat, strict=True)
        alive = [is_alive(_whole(pid), host, _plain(heartbeat)) for pid, host, heartbeat in writers]
        stale = (frame.status == "recording") & ~np.array(alive, dtype=bool)
        frame["status"] = frame.status.mask(stale, "interrupted")
        return frame.drop(columns=["writer_pid", "writer_host"])

    def run(self, run_id: int | None = None) -> dict[str, Any]:
        """One run as a dict; without a number the newest complete one, or else the newest."""
        frame = self.runs()
        if frame.empty:
            raise TraceError(f"{self.path}: no run in it yet")
        if run_id is None:
            complete = frame[frame.status == "complete"]
            row = (complete if len(complete) else frame).iloc[-1]
        elif run_id in set(frame.run_id):
            row = frame[frame.run_id == run_id].iloc[0]
        else:
            raise TraceError(f"{self.path}: no run {run_id}; there are: {', '.join(map(str, frame.run_id))}")
        self._known.add(int(row.run_id))
        return {str(k): _plain(v) for k, v in row.to_dict().items()}

    def layers(self, run_id: int | None = None) -> Any:
        """DataFrame of the view `layers` for one run."""
        return self.sql(queries.LAYERS, [self._id(run_id)])

    def label_names(self, run_id: int | None = None) -> tuple[str, ...]:
        """Names of the labels, in the order of their codes."""
        run = self._id(run_id)
        return tuple(label for (label,) in self.ask(lambda con: con.execute(queries.LABELS, [run]).fetchall()))

    def aggregates(self, run_id: int | None = None, names: Sequence[str] | None = None) -> dict[str, Any]:
        """Counts and sums over the whole run, by layer, expert and label: see store.totals; `names`: only these."""
        run = self._id(run_id)
        return self.ask(lambda con: read_aggregates(con, run, names))

    def moments(self, run_id: int | None = None) -> dict[int, Any]:
        """layer -> (count [E], mean [E, H], m2 [E, H]) of the experts' output vectors; empty where not kept."""
        from store.moments import Moments

        run, kept = self._id(run_id), Moments()
        self.ask(lambda con: kept.load(con, run))
        return kept.layers

    def router_inputs(self, run_id: int | None = None) -> dict[int, Any]:
        """layer -> (count [E], sum [E, H], products [H, H]) of the router inputs; empty where not kept."""
        from store.router_inputs import read_router_inputs

        run = self._id(run_id)
        return self.ask(lambda con: read_router_inputs(con, run))

    def chunks(
        self,
        run_id: int | None = None,
        layers: Sequence[int] | None = None,
        columns: Sequence[str] = ("experts",),
        max_rows: int = MAX_ROWS,
        sequences: Sequence[int] | None = None,
    ) -> Iterator[dict[str, np.ndarray]]:
        """Whole sequences in (sequence_id, position) order, at most about `max_rows` (token, layer) rows at a time.

        Each chunk is a dict: sequence_id, position, label, token_id, predicted_id, phase [T] (-1: none), logprob [T],
        token [T] object, layers [L], and of `columns`: experts int16 [T, L, k]; weights, output_norm, output_absmax
        float32 [T, L, k]; logits, expert_norm float32 [T, L, E]; entropy, margin, input_absmax, similarity,
        hidden_absmax, hidden_absmedian, shared_absmax, shared_input_absmax float32 [T, L]. Missing is -1 or NaN.
        Layers with fewer experts or a smaller k are filled up the same way. Of other than the `sequences` wanted
        nothing is decoded.
        """
        run = self._id(run_id)
        unknown = set(columns) - set(COLUMNS)
        if unknown:
            raise TraceError(f"no column {sorted(unknown)[0]!r} to read; there are: {', '.join(COLUMNS)}")
        info = self._chosen_layers(run, layers)
        wanted = None if sequences is None else set(sequences)
        listed = self.ask(lambda con: con.execute(queries.SEQUENCES, [run]).fetchall())
        for group in sequence_groups(listed, wanted, max(1, max_rows // max(1, len(info)))):
            vocabulary = self._words(run)
            yield self.ask(lambda con, g=group, v=vocabulary: read_chunk(con, run, info, g, columns, v))

    def drawn(self, run_id: int | None = None, most_tokens: int = MAX_ROWS) -> Any:
        """DataFrame of sequence_id, n_tokens: whole sequences drawn evenly, together at most `most_tokens` tokens.

        Drawn by a fixed hash of their numbers, so the same ones every time; at least one, all where they fit.
        """
        return self.sql(queries.DRAWN, [self._id(run_id), most_tokens])

    def _id(self, run_id: int | None) -> int:
        """The run's number, checked to be there (once: runs with rows do not go away)."""
        if run_id is None or run_id not in self._known:
            run_id = int(self.run(run_id)["run_id"])
            self._known.add(run_id)
        return run_id

    def _chosen_layers(self, run: int, layers: Sequence[int] | None) -> Any:
        frame = self.layers(run)
        if layers is None:
            return frame
        missing = [layer for layer in layers if layer not in set(frame.layer)]
        if missing:
            raise TraceError(
                f"{self.path}: no layer {missing[0]} in run {run}; there are: {', '.join(map(str, frame.layer))}"
            )
        return frame[frame.layer.isin(list(layers))].reset_index(drop=True)

    def _words(self, run: int) -> dict[int, str]:
        """Vocabulary of a run, read again only when it grew, or when the run is another one under the same number."""
        state = self.ask(lambda con: con.execute(queries.WORDS, [run]).fetchall()[0])
        have = self._vocabulary.get(run)
        if have is None or have[0] != state:
            rows = self.ask(lambda con: con.execute(queries.VOCABULARY, [run]).fetchall())
            self._vocabulary[run] = (state, dict(rows))
        return self._vocabulary[run][1]


def open_trace(path: str | os.PathLike[str], wait: float = database.READ_WAIT) -> Trace:
    """The trace at `path` (a file or a folder of shards), checked to be one; an older schema is brought up to date."""
    if not isinstance(path, str | os.PathLike):
        raise TraceError(f"a trace takes the name of a file, not {path!r}")
    where = Path(path)
    if not where.exists():
        raise TraceError(f"{where}: no such file")
    if where.is_dir():
        from store.parquet import open_parquet

        return open_parquet(where)
    database.upgrade(where, wait)
    return Trace(where, wait)


def _whole(value: Any) -> int | None:
    plain = _plain(value)
    return None if plain is None else int(plain)


def _plain(value: Any) -> Any:
    """Python's own types; missing values are None."""
    import pandas as pd

    if value is None or (not isinstance(value, list | dict) and pd.isna(value)):
        return None
    return value.item() if isinstance(value, np.generic) else value
