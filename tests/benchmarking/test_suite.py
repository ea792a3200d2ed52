"""The command from end to end on a tiny budget, and bad input with its exact message and nothing written."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from inputaware.benchmarking import benchmark, latency, suite, training
from inputaware.cli import main
from inputaware.config.datasets import IMAGE_COUNTS, ImageCounts
from inputaware.runs.files import read_json

SPEEDUPS = ("mask_step_speedup", "mask_loop_speedup", "joint_step_speedup", "joint_loop_speedup")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let everything be measured on as little as there can be, and start no other processes."""
    monkeypatch.setitem(IMAGE_COUNTS, "digits", ImageCounts(352, 360, held_out=144))
    monkeypatch.setattr(suite, "measure_training", partial(training.measure_training, batch_size=16))
    monkeypatch.setattr(suite, "measure_latency", partial(latency.measure_latency, batches=(1, 2)))
    effort = suite._Effort(rounds=1, steps=1, passes=1, warm_up=1, images=64, starts=1)
    monkeypatch.setattr(suite, "_effort", lambda *_, **__: effort)
    monkeypatch.setattr(suite, "BATCH_SIZES", (16, 32))
    monkeypatch.setattr(suite, "LATENCY_DATASETS", ("mnist",))
    monkeypatch.setattr(suite, "matrix_product_peak", lambda *_: {"operations_per_second": 1e9, "side": 1})
    monkeypatch.setattr(
        suite, "measure_startup", lambda *_, **__: {"median": 1.0, "lowest": 1.0, "highest": 1.0, "rounds": 1}
    )
    monkeypatch.setattr(training, "peak_memory", lambda *_, **__: {"before_mib": 1, "peak_mib": 2})
    monkeypatch.setattr(training, "loop_settings", lambda cores: [training.LoopSetting(0, cores)])


@pytest.mark.usefixtures("small")
def test_the_command_measures_everything_and_writes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output, plot = tmp_path / "new/result.json", tmp_path / "new/result.png"
    state = torch.get_rng_state()
    arguments = ["benchmark", "--dataset=digits", "--quick", "--repeats=1", "--device=cpu", "--precision=32"]
    assert main([*arguments, "--json", f"--output={output}", f"--plot={plot}"]) == 0
    assert torch.equal(state, torch.get_rng_state())
    printed, err = capsys.readouterr()
    result = json.loads(printed)
    assert result == read_json(output)
    for part in ("training", "latency", "size", "startup"):
        assert f"{part}: done" in err
    assert set(result) == {"settings", "environment", "training", "latency", "size", "startup", *SPEEDUPS}
    for name in SPEEDUPS:
        assert set(result[name]) == {"median", "lowest", "highest", "rounds"}
    for stage in ("mask", "joint"):
        assert set(result["training"][stage]) == {
            "batch_size",
            "steps_in_a_round",
            "step",
            "loop",
            "operations_per_step",
            "plain_operations_per_step",
            "operations_per_second",
            "share_of_peak",
            "memory",
            "seconds_by_part",
            "seconds_by_operator",
        }
        size = result["size"][stage]
        assert [row["share"] for row in size["by_share"]] == [0.125, 0.25, 0.5, 1.0]
        assert [row["images"] for row in size["by_share"]] == [8, 16, 32, 64]
        assert [row["batch_size"] for row in size["by_share"]] == [8] * 4
        assert [(row["batch_size"], row["images"]) for row in size["by_batch_size"]] == [(16, 32), (32, 64)]
    assert set(result["startup"]) == {"help_seconds", "train_seconds", "evaluate_seconds"}
    with Image.open(plot) as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 500


@pytest.mark.usefixtures("small")
def test_only_the_parts_asked_for_are_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plot = tmp_path / "result.svg"
    assert main(["benchmark", "--dataset=digits", "--quick", "--parts", "startup", f"--plot={plot}"]) == 0
    out, _ = capsys.readouterr()
    assert "Start-up" in out
    assert "Latency" not in out
    assert str(plot) in out
    assert plot.read_text().lstrip().startswith("<?xml")
    result = benchmark(dataset="digits", parts=["startup"], precision="bf16")
    assert set(result) == {"settings", "environment", "startup"}
    assert result["environment"]["precision"] == "32"  # nothing was trained


@pytest.mark.parametrize(
    ("quick", "repeats", "expected"), [(True, None, (3, 1)), (False, None, (11, 11)), (True, 7, (7, 7))]
)
def test_rounds(quick: bool, repeats: int | None, expected: tuple[int, int]) -> None:
    effort = suite._effort("mnist", quick=quick, repeats=repeats)
    assert (effort.rounds, effort.starts) == expected
    assert effort.images == (1024 if quick else 50_000)


MISTAKES: dict[str, tuple[list[str], str]] = {
    "data set": (
        ["--dataset=minst"],
        "dataset: expected one of digits, mnist, cifar10, gtsrb; found 'minst'; did you mean mnist?",
    ),
    "repeats": (["--repeats=0"], "repeats: expected a whole number of at least 1; found 0"),
    "negative repeats": (["--repeats=-3"], "repeats: expected a whole number of at least 1; found -3"),
    "device": (["--device=tpu"], "device: expected auto, cpu, cuda, cuda:N or mps; found 'tpu'"),
    "existing output": (
        ["--output={existing}"],
        "output: expected a file that does not exist yet; found the file '{existing}'; choose another one, or remove "
        "it first",
    ),
    "existing plot": (
        ["--plot={existing}"],
        "plot: expected a file that does not exist yet; found the file '{existing}'; choose another one, or remove it "
        "first",
    ),
    "output beneath a file": (
        ["--output={existing}/more.json"],
        "output: expected a path beneath a folder; found '{existing}/more.json' beneath the file '{existing}'; "
        "choose another one",
    ),
    "one file for both": (
        ["--output={existing}.svg", "--plot={existing}.svg"],
        "plot: expected another file than that of --output; found '{existing}.svg' for both; name another one",
    ),
    "ending of the picture": (
        ["--plot={existing}.jpg"],
        "plot: expected a file that ends in .png or .svg; found '{existing}.jpg'",
    ),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_explained_and_nothing_is_written(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(*_: Any, **__: Any) -> None:
        raise AssertionError("nothing is to be measured")

    for name in ("matrix_product_peak", "measure_training", "measure_latency", "seconds_of_epoch", "measure_startup"):
        monkeypatch.setattr(suite, name, work)
    arguments, message = MISTAKES[case]
    existing = tmp_path / "precious.png"
    existing.write_text("mine")
    assert main(["benchmark", *(argument.format(existing=existing) for argument in arguments)]) == 2
    out, err = capsys.readouterr()
    assert err == f"inputaware: {message.format(existing=existing)}\n"
    assert out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["precious.png"]
    assert existing.read_text() == "mine"


def test_a_part_that_is_none_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["benchmark", "--parts", "speed"])
    assert caught.value.code == 2
    assert "speed" in capsys.readouterr().err
    with pytest.raises(suite.ConfigError) as error:
        benchmark(parts=[])
    assert str(error.value) == "parts: expected at least one of training, latency, size, startup; found none"
