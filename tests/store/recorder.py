"""A recording in a process of its own, to be killed: `python -m tests.store.recorder PATH BATCHES FLUSH_BYTES`."""

import sys
import time
from pathlib import Path

from store.trace import open_trace
from store.writer import TraceWriter
from tests.store.made import RUN, Plan, make_batch

PLAN = Plan(outputs=True, logits="bfloat16", logit_rate=0.5, length=40)


def record(path: Path, batches: int, flush_bytes: int, pause: float = 0.0) -> None:
    """Begin, or go on where the last process was killed."""
    if path.exists() and len(open_trace(path).runs()):
        writer = TraceWriter.resume(path, 1, flush_bytes=flush_bytes)
    else:
        writer = TraceWriter.create(path, RUN, PLAN.infos, kept={"logits": PLAN.logits}, flush_bytes=flush_bytes)
    with writer:
        for index in range(writer.batches_done, batches):
            writer.write(make_batch(PLAN, index))
            time.sleep(pause)


if __name__ == "__main__":
    record(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]) if len(sys.argv) > 4 else 0.0)
