"""Recording: batches go in, a thread writes them, and a kill at any moment costs at most what was not yet committed.

    with TraceWriter.create("trace.duckdb", run, layers) as writer:
        writer.write(batch)                      # blocks while the thread is behind: memory stays bounded

Every flush opens the file, writes one transaction (rows, aggregates, vocabulary and the progress record) and closes it.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from store import database
from store.batch import Batch, LayerInfo, LayerRows, RunInfo, check_batch
from store.commit import Recording, insert_run
from store.errors import TraceError
from store.resume import load_recording
from store.sizes import size

__all__ = ["Batch", "LayerInfo", "LayerRows", "RunInfo", "TraceWriter"]

FLUSH_BYTES = 64 << 20
FLUSH_SECONDS = 5.0
FLUSH_ROWS = 4 * database.ROW_GROUP  # full row groups between two rests: nothing to merge
QUEUE_BYTES = 64 << 20
_active: set[tuple[str, int]] = set()


class _Queue:
    """First in, first out; `put` blocks while more than `limit` bytes wait."""

    def __init__(self, limit: int):
        self.limit, self.waiting, self.closed = limit, 0, False
        self.items: deque[tuple[Batch, int]] = deque()
        self.changed = threading.Condition()
        self.failure: BaseException | None = None

    def put(self, batch: Batch) -> None:
        size = batch.nbytes
        with self.changed:
            self.changed.wait_for(lambda: self.failure or not self.items or self.waiting + size <= self.limit)
            if self.failure:
                raise self.failure
            self.items.append((batch, size))
            self.waiting += size
            self.changed.notify_all()

    def get(self, timeout: float | None) -> Batch | None:
        """The next batch; None when the time is up or, once closed, when nothing is left."""
        with self.changed:
            self.changed.wait_for(lambda: self.items or self.closed, timeout)
            if not self.items:
                return None
            batch, size = self.items.popleft()
            self.waiting -= size
            self.changed.notify_all()
            return batch

    def close(self) -> None:
        with self.changed:
            self.closed = True
            self.changed.notify_all()

    def fail(self, error: BaseException) -> None:
        with self.changed:
            self.failure = error
            self.items.clear()
            self.changed.notify_all()


class TraceWriter:
    """Writes one run. Made by `create` or `resume`; a context manager: leaving it normally finishes the run."""

    def __init__(
        self, path: Path, recording: Recording, fresh: bool, flush_bytes: int, flush_seconds: float, wait: float
    ):
        self.path, self.run_id = path, recording.run_id
        self._recording, self._fresh, self._wait = recording, fresh, wait
        self._flush_bytes, self._flush_seconds = flush_bytes, flush_seconds
        self._next = recording.batches_done
        self._queue = _Queue(QUEUE_BYTES)
        self._open = True
        self._since = 0.0
        self._key = (str(path.resolve()), self.run_id)
        _active.add(self._key)
        self._thread = threading.Thread(target=self._work, name="trace-writer", daemon=True)
        self._thread.start()

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        run: RunInfo,
        layers: Sequence[LayerInfo],
        kept: Any = None,
        *,
        flush_bytes: int = FLUSH_BYTES,
        flush_seconds: float = FLUSH_SECONDS,
        wait: float = database.WRITE_WAIT,
    ) -> TraceWriter:
        """A new file, or a new run of the same model in an existing trace. `kept` (JSON) says what was kept of it."""
        where = Path(path)
        _check_layers(layers)
        fresh = not where.exists()
        if fresh:
            database.create_file(where)
        try:
            start = min(wait, database.START_WAIT)
            database.upgrade(where, start)
            with database.writing(where, start) as con:
                _same_model(con, where, run)
                run_id = insert_run(con, run, layers, kept)
        except BaseException:
            if fresh:
                database.remove(where)
            raise
        return cls(where, Recording(run_id, layers), fresh, flush_bytes, flush_seconds, wait)

    @classmethod
    def resume(
        cls,
        path: str | os.PathLike[str],
        run_id: int,
        *,
        flush_bytes: int = FLUSH_BYTES,
        flush_seconds: float = FLUSH_SECONDS,
        wait: float = database.WRITE_WAIT,
    ) -> TraceWriter:
        """Go on with an interrupted run: give it the batches from number `batches_done` on."""
        where = Path(path)
        if (str(where.resolve()), run_id) in _active:
            raise TraceError(f"{where}: run {run_id} is being recorded by this process")
        start = min(wait, database.START_WAIT)
        database.upgrade(where, start)
        with database.writing(where, start) as con:
            recording = load_recording(con, where, run_id)
        return cls(where, recording, False, flush_bytes, flush_seconds, wait)

    @property
    def batches_done(self) -> int:
        """Batches that are in the file for good."""
        return self._recording.batches_done

    @property
    def bytes_written(self) -> int:
        """Size of the file now."""
        return size(self.path)

    def write(self, batch: Batch) -> None:
        """Queue a batch; blocks while the thread is behind; raises what went wrong there."""
        if not self._open:
            raise TraceError(f"{self.path}: the writer is closed")
        if batch.index != self._next:
            raise TraceError(f"{self.path}: batch {batch.index} given, {self._next} is next")
        check_batch(batch, self._recording.layers)
        self._queue.put(batch)
        self._next += 1

    def finish(self, status: str = "complete", facts: dict[str, Any] | None = None) -> None:
        """Write what is left and mark the run; raises what went wrong in the thread.

        facts: what is known of the run only now, added to its provenance.
        """
        self._stop()
        self._recording.facts = facts or {}
        try:
            if self._queue.failure:
                raise self._queue.failure
            self._flush(status)
        except BaseException:
            self._leave()
            raise

    def abort(self) -> None:
        """Keep what can be kept and mark the run as interrupted: it can be resumed. A run without any batch goes."""
        self._stop()
        if not self._queue.failure:
            with suppress(TraceError):  # the reason for the abort is the one to tell
                self._flush("interrupted")
        self._leave()

    def __enter__(self) -> TraceWriter:
        return self

    def __exit__(self, kind: object, value: object, trace: object) -> None:
        if not self._open:
            return
        if kind is None:
            self.finish()
        else:
            self.abort()

    def _stop(self) -> None:
        self._open = False
        self._queue.close()
        self._thread.join()
        _active.discard(self._key)

    def _work(self) -> None:
        try:
            while self._step():
                pass
        except BaseException as error:  # noqa: BLE001 - told to whoever writes next
            self._queue.fail(error)

    def _step(self) -> bool:
        """Take a batch or flush; False when all is done."""
        pending = self._recording.pending
        left = None
        if pending.batches:
            left = max(0.0, self._since + self._flush_seconds - time.monotonic())
        batch = self._queue.get(left)
        if batch is not None:
            if not pending.batches:
                self._since = time.monotonic()
            self._recording.add(batch)
        elif self._queue.closed:
            return False
        if batch is None or self._due():
            self._flush("recording")
        return True

    def _due(self) -> bool:
        p = self._recording.pending
        enough = p.nbytes >= self._flush_bytes and (p.n_rows >= FLUSH_ROWS or p.nbytes >= 3 * self._flush_bytes)
        return enough or time.monotonic() - self._since >= self._flush_seconds

    def _flush(self, status: str) -> None:
        # Hours may be at stake by now: it waits for everybody, also for a notebook that looks into the file.
        with database.writing(self.path, self._wait, strangers=self._wait) as con:
            self._recording.commit(con, status)
        self._recording.committed()

    def _leave(self) -> None:
        """After a failure. Nothing half-written is left: a run without a batch goes, and so does a file made for it."""
        done = self._done_in_file()
        if done == 0 and self._fresh:
            database.remove(self.path)
            return
        with suppress(TraceError), database.writing(self.path, self._wait, strangers=self._wait) as con:
            if done:
                query = "UPDATE raw.runs SET status = 'interrupted', writer_pid = NULL WHERE run_id = ?"
                con.execute(query, [self.run_id])
            else:
                con.execute("DELETE FROM raw.layers WHERE run_id = ?", [self.run_id])
                con.execute("DELETE FROM raw.runs WHERE run_id = ?", [self.run_id])

    def _done_in_file(self) -> int:
        """A commit may have gone through although what came after it (the checkpoint) failed: the file knows."""
        query = "SELECT batches_done FROM raw.runs WHERE run_id = ?"
        with suppress(TraceError):
            rows = database.read(self.path, lambda con: con.execute(query, [self.run_id]).fetchall(), self._wait)
            return int(rows[0][0]) if rows else 0
        return self.batches_done


def _check_layers(layers: Sequence[LayerInfo]) -> None:
    numbers = [info.layer for info in layers]
    if not numbers or len(set(numbers)) != len(numbers):
        raise TraceError("a run needs layers, each with a number of its own")
    wrong = [i.layer for i in layers if not (0 < i.top_k <= i.num_experts <= 65_536 and 0 < i.width <= i.num_experts)]
    if wrong:
        raise TraceError(f"layer {wrong[0]}: top_k and slots must lie in 1..num_experts, num_experts in 1..65536")


def _same_model(con: Any, path: Path, run: RunInfo) -> None:
    others = con.execute("SELECT model FROM raw.runs WHERE model != ? LIMIT 1", [run.model]).fetchall()
    if others:
        raise TraceError(
            f"{path}: already a trace of another model ({others[0][0]}, not {run.model}); choose another output file"
        )
