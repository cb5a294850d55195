"""Answers that take seconds, found in the background: a page shows what it has, and again once the rest is there.

One thread finds them one after the other, so that a page somebody waits for keeps a core. No Streamlit: what visitors
ask first can be found before the first of them comes.
"""

from __future__ import annotations

import atexit
import contextlib
import math
import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future, wait
from typing import Any

MOST = 32  # answers kept
END_SECONDS = 30.0  # that the end of the program waits for the answer in hand
AGAIN_SECONDS = 10.0  # after which what failed is asked anew: a recorder may have held the file


class Answer(Future[Any]):
    """What `find` returns or raises, now or later."""

    def __init__(self, find: Callable[[], Any]) -> None:
        super().__init__()
        self.find, self.failed_at = find, math.inf

    def work(self) -> None:
        try:
            self.set_result(self.find())
        except Exception as error:  # noqa: BLE001 (whoever asks is told; the others' answers must still be found)
            self.failed_at = time.monotonic()
            self.set_exception(error)


class Later:
    """Answers by their question; the ones asked for longest ago are forgotten."""

    def __init__(self, most: int = MOST, again: float = AGAIN_SECONDS) -> None:
        self._answers: OrderedDict[Hashable, Answer] = OrderedDict()
        self._asked: queue.SimpleQueue[Answer | None] = queue.SimpleQueue()
        self._lock, self._most, self._again = threading.Lock(), most, again
        self._thread: threading.Thread | None = None
        self.asked = 0  # questions so far that had no answer yet

    def ask(self, question: Hashable, find: Callable[[], Any]) -> Answer:
        """The answer of `find`; the same question is answered once, or anew a while after that failed."""
        with self._lock:
            known = self._answers.get(question)
            if known is None or time.monotonic() > known.failed_at + self._again:
                known = self._answers[question] = Answer(find)
                self._asked.put(known)
                self.asked += 1
                self._begin()
            self._answers.move_to_end(question)
            while len(self._answers) > self._most:
                self._answers.popitem(last=False)
            return known

    def wait(self, seconds: float) -> None:
        """Wait until all that was asked so far is found."""
        with self._lock:
            open_ = [answer for answer in self._answers.values() if not answer.done()]
        wait(open_, timeout=seconds)

    def _begin(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, daemon=True, name="later")
            self._thread.start()
            atexit.register(self._end, self._thread)

    def _work(self) -> None:
        while (answer := self._asked.get()) is not None:
            answer.work()

    def _end(self, thread: threading.Thread) -> None:
        """Python that ends while a thread is inside DuckDB is aborted: wait for the answer in hand, forget the rest."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._asked.get_nowait()
        self._asked.put(None)
        thread.join(END_SECONDS)


later = Later()
