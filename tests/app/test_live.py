"""Live models: one at a time, a queue that can be seen, and memory given back."""

import threading
import time

import pytest

from app.steering.live import Models


@pytest.fixture
def loads():
    return []


@pytest.fixture
def models(loads):
    def load(path):
        if path == "broken":
            raise ValueError("no such model")
        loads.append(path)
        return path.upper()

    return Models(load, idle=0.2)


def test_is_loaded_once_and_kept(models, loads):
    for _ in range(2):
        with models.use("a") as loaded:
            assert loaded == "A"
            assert models.state("a") == (True, True, 0)
    assert loads == ["a"]
    assert models.state("a") == (True, False, 0)
    assert models.state("never") == (False, False, 0)


def test_the_second_waits_and_sees_it(models):
    heard, done = [], []

    def second():
        with models.use("a", heard.append):
            done.append(time.monotonic())

    with models.use("a"):
        thread = threading.Thread(target=second)
        thread.start()
        while not heard:
            time.sleep(0.01)
        assert models.state("a")[2] == 1
        assert not done
    thread.join(5)
    assert heard[0] == 1
    assert done
    assert models.state("a")[1:] == (False, 0)


def test_what_nobody_uses_goes(models, loads):
    with models.use("a"):
        assert models.release_idle() == []
    deadline = time.monotonic() + 5
    while models.state("a")[0]:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    with models.use("a"):
        assert loads == ["a", "a"]


def test_a_second_model_takes_the_place_of_the_first(models):
    with models.use("a"):
        pass
    with models.use("b"):
        assert models.state("a")[0] is False
        assert models.state("b")[0] is True


def test_a_model_that_cannot_be_loaded_frees_its_place(models):
    with pytest.raises(ValueError, match="no such model"), models.use("broken"):
        pass
    assert models.state("broken") == (False, False, 0)
