"""The benchmarks run from end to end on a tiny model; what they measure is nobody's assertion."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from benchmarks import capture, gpu, metrics, recording, startup, storage
from benchmarks.models import TINY
from benchmarks.report import render
from benchmarks.results import AT_LEAST, Row, Section, Table, load, ratio_row, save
from benchmarks.run import SECTIONS, main
from benchmarks.scale import SMOKE
from benchmarks.timing import Sample, Timings, interleave, plain


def made_timings(**clock: list[float]) -> Timings:
    """Timings whose first variant took half as much CPU as time, and the others as much."""
    shares = {name: 0.5 if name == next(iter(clock)) else 1.0 for name in clock}
    return Timings({name: [Sample(s, shares[name] * s, 0.0) for s in seconds] for name, seconds in clock.items()})


def test_a_disturbed_round_is_run_again_and_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import timing

    busy = iter([0.0, 0.0, 0.9, 0.0])  # the round that is thrown away, then three
    monkeypatch.setattr(timing.Watch, "others", lambda self: next(busy))
    timings = interleave({"a": plain(lambda: None)}, rounds=2, warm=0)
    assert [sample.others for sample in timings.samples["a"]] == [0.0, 0.0]


def test_patience_ends_and_the_least_disturbed_rounds_count(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import timing

    busy = iter([0.0, 0.9, 0.3, 0.8])
    monkeypatch.setattr(timing.Watch, "others", lambda self: next(busy))
    timings = interleave({"a": plain(lambda: None)}, rounds=1, warm=0)
    assert [sample.others for sample in timings.samples["a"]] == [0.3]
    assert timings.disturbance == "other processes used 0.30 cores"


def test_interleave_runs_every_variant_once_per_round_in_rotated_order(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import timing

    calls: list[str] = []
    variants = {name: plain(lambda name=name: calls.append(name)) for name in "abc"}
    monkeypatch.setattr(timing.Watch, "others", lambda self: 0.0)
    timings = interleave(variants, rounds=3, warm=0)
    assert "".join(calls) == "abc" + "abc" + "bca" + "cab"
    assert all(len(samples) == 3 for samples in timings.samples.values())


def test_the_ratio_is_the_median_of_the_rounds_ratios_not_a_ratio_of_medians() -> None:
    found = made_timings(slow=[2.0, 40.0, 3.0], fast=[1.0, 10.0, 2.0]).ratio("slow", "fast")
    assert (found.median, found.low, found.high, found.rounds) == (2.0, 1.75, 3.0, 3)


def test_a_target_is_met_from_its_own_side() -> None:
    assert Row("a", 1.0, "x", target=1.0).met is True
    assert Row("a", 1.01, "x", target=1.0).met is False
    assert Row("a", 1.01, "M/s", target=1.0, sense=AT_LEAST).met is True
    assert Row("a", 5.0, "x").met is None


def test_results_survive_the_file(tmp_path: Path) -> None:
    timings = made_timings(a=[1.0, 1.1, 1.2], b=[1.0, 1.0, 1.0])
    row = ratio_row("what", timings, "a", "b", 1.05, "a note")
    section = Section("capture", "Title", "Method", [Table("table", [row], "plain: 1 ms")], ["note"], threads=2)
    save(tmp_path / "r.json", [section])
    assert load(tmp_path / "r.json") == {"capture": section}
    page = render([section])
    assert "| what | 1.100 x | 1.050-1.150 | 0.550 x | 3 | ≤ 1.05 | **no** | a note |" in page
    assert "| table: what | ≤ 1.05 | 1.100 x | **no** |" in page


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """However busy the machine is, one round is enough here."""
    from benchmarks import timing

    monkeypatch.setattr(timing, "QUIET", float("inf"))


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("module", [capture, recording, storage, startup, metrics])
def test_a_section_has_figures(module) -> None:
    section = module.measure(SMOKE)
    rows = [row for table in section.tables for row in table.rows]
    assert rows
    assert all(row.value > 0 for row in rows)
    assert not section.skipped


def test_without_a_gpu_the_section_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    section = gpu.measure(SMOKE)
    assert "not measured here" in section.skipped
    assert "not measured here" in render([section])


@pytest.mark.usefixtures("impatient")
def test_the_gpu_section_measures_a_model_in_bfloat16() -> None:
    section = Section("gpu", "On a GPU", "")
    gpu.measure_model(section, "OLMoE", TINY, SMOKE, device="cpu")
    assert len(section.tables) == 4


@pytest.mark.usefixtures("impatient")
def test_foreign_without_its_environment_says_why_and_compares_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import foreign

    def fails(folder: Path) -> Path:
        raise OSError("no network")

    monkeypatch.setattr(foreign, "environment", fails)
    section = foreign.measure(SMOKE)
    assert section.skipped == "nnsight 0.8.1 was not compared: its environment cannot be made (no network)"
    assert len(section.tables) == 2


def test_the_command_measures_one_section_and_keeps_the_others(tmp_path: Path) -> None:
    import torch

    where = ["--results", str(tmp_path / "r.json"), "--page", str(tmp_path / "b.md"), "--scale", "smoke"]
    kept = Section("capture", "Kept", "Method")
    save(tmp_path / "r.json", [kept])
    assert main(["--only", "startup", "--threads", str(torch.get_num_threads()), *where]) == 0
    found = json.loads((tmp_path / "r.json").read_text())
    assert list(found) == ["capture", "startup"]
    assert found["startup"]["machine"]["cores"] == str(os.cpu_count())
    assert "## Kept" in (tmp_path / "b.md").read_text()


def test_every_section_of_the_command_has_a_file() -> None:
    here = Path(capture.__file__).parent
    assert all((here / f"{name}.py").exists() for name in SECTIONS)
