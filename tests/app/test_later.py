"""Answers found in the background: once for a question, also after one that failed, and not kept for ever."""

import subprocess
import sys
import threading

import pytest

from app.later import Later
from app.server import ROOT


def test_a_question_is_answered_once():
    later, asked = Later(), []
    first = later.ask("a", lambda: asked.append("a") or 1)
    assert later.ask("a", lambda: asked.append("again")) is first
    assert first.result(timeout=5) == 1
    assert asked == ["a"]


def test_nobody_waits_for_the_asking():
    later, gate = Later(), threading.Event()
    answer = later.ask("slow", gate.wait)
    assert not answer.done()
    gate.set()
    assert answer.result(timeout=5)


def test_a_failure_is_told_asked_anew_and_keeps_no_one_else_waiting():
    for again, answers in ((60, False), (0, True)):
        later = Later(again=again)
        failed = later.ask("a", lambda: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            failed.result(timeout=5)
        assert later.ask("b", lambda: 2).result(timeout=5) == 2
        assert (later.ask("a", lambda: 3) is not failed) == answers  # not at once, or a page would ask for ever


def test_answers_asked_for_longest_ago_are_forgotten():
    later, asked = Later(most=2), []
    for question in ("a", "b", "a", "c", "a", "b"):
        later.ask(question, lambda question=question: asked.append(question)).result(timeout=5)
    assert asked == ["a", "b", "c", "b"]


def test_who_has_no_time_for_later_waits():
    later, gate = Later(), threading.Event()
    later.wait(5)  # nothing was asked
    assert later.asked == 0
    answers = [later.ask(number, gate.wait) for number in range(3)]
    threading.Timer(0.05, gate.set).start()
    later.wait(5)
    assert all(answer.done() for answer in answers)
    assert later.ask(1, gate.wait) is answers[1]
    assert later.asked == 3


def test_the_end_of_the_program_waits_for_the_answer_in_hand_alone():
    """Python that ends while a thread is inside DuckDB is aborted, with exit code 134."""
    script = (
        "import time\nfrom app.later import later\n"
        "later.ask(1, lambda: (time.sleep(0.5), print('first', flush=True)))\n"
        "later.ask(2, lambda: (time.sleep(60), print('second', flush=True)))\ntime.sleep(0.1)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=20, cwd=ROOT)
    assert (done.returncode, done.stdout, done.stderr) == (0, "first\n", "")
