"""The page: complete, self-contained, escaped, small; refused before anything is written."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from inputaware.api import Run
from inputaware.cli import main
from inputaware.defenses.base import CleanData, Defense, Examination, Finding, Progress, Score, Suspect, Trial
from inputaware.errors import RunFolderError
from inputaware.report import write_report
from inputaware.report.collect import collect_run
from inputaware.report.figures import cross_matrix
from inputaware.runs.files import read_json, write_json

Copy = Callable[..., Path]

HOSTILE = "<img src=x onerror=alert(1)>"


class Own(Defense):
    """A defense that somebody else wrote, without settings and arrays."""

    name = "own"

    def examine(self, suspect: Suspect, clean: CleanData, seed: int, progress: Progress) -> Examination:
        """Flag whatever comes."""
        return Examination("flagged", "All is suspicious.", {})

    def score(
        self, finding: Finding, suspect: Suspect, trial: Trial, *, progress: Progress = lambda share: None
    ) -> Score:
        """Have been right."""
        return Score("It was.", {})


class Page(HTMLParser):
    """The tags of a page, its text, and every address in it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def with_attribute(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for _, attributes in self.tags if name in attributes]


@pytest.fixture(scope="module")
def page(whole_runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("page") / "new" / "report.html"
    write_report(list(whole_runs.values()), output)
    return output


def test_a_folder_that_is_named_twice_is_one_run_and_runs_of_one_name_are_told_apart(
    copy_of: Copy, tmp_path: Path
) -> None:
    for name in ("one", "two"):
        copy_of("badnets", f"{name}/run")
    alone = copy_of("none", "alone")
    again = (tmp_path / "one" / ".." / "one" / "run", tmp_path / "link")
    again[1].symlink_to(tmp_path / "one" / "run")
    write_report([tmp_path / "one/run", *again, tmp_path / "two/run", alone], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert page.count('id="run') == 3
    headings = re.findall(r'<h3><span class="number">(\d)</span> (\S+)</h3>', page)
    assert set(headings) == {("1", "one/run"), ("2", "two/run"), ("3", "alone")}


def test_a_run_that_was_trained_elsewhere_shows_a_dash_for_its_cost(copy_of: Copy, tmp_path: Path) -> None:
    folder = copy_of("badnets")
    write_json(folder / "environment.json", {**read_json(folder / "environment.json"), "imported": {"epoch": 1}})
    for journal in ("metrics.jsonl", "timing.jsonl"):
        (folder / journal).unlink()
    for path in (folder / "defenses").iterdir():
        path.unlink()
    write_report([folder], tmp_path / "report.html")
    text = Page(tmp_path / "report.html").text
    assert "The run was trained elsewhere." in text
    assert "Nothing was timed yet." not in text


def test_defenses_of_ones_own_are_shown_beside_ours(copy_of: Copy, tmp_path: Path) -> None:
    folders = [copy_of("badnets"), copy_of("none", "clean")]
    Run.load(folders[0], device="cpu").defend(Own())
    write_report(folders, tmp_path / "report.html")
    found = Page(tmp_path / "report.html")
    assert {"defense-own", "defense-strip"} <= {attributes["id"] for attributes in found.with_attribute("id")}
    assert found.text.count("All is suspicious. It was.") == 1
    assert " own flags it." in found.text
    assert found.text.count("It has not been run on this model.") == 1
    assert "Settings of own" not in found.text


def test_the_page_fetches_nothing(page: Path) -> None:
    found = Page(page)
    addresses = [
        value
        for _, attributes in found.tags
        for name, value in attributes.items()
        if name in ("src", "href", "action", "data", "poster", "srcset")
    ]
    assert len(addresses) > 100
    assert all(address is not None and address.startswith(("data:", "#")) for address in addresses)
    assert "url(" not in page.read_text(encoding="utf-8").split("</style>")[0]
    policy = next(attributes["content"] for attributes in found.with_attribute("http-equiv"))
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:; ")


def test_the_page_shows_every_part_of_every_run(page: Path, whole_runs: dict[str, Path]) -> None:
    found = Page(page)
    images = [attributes["alt"] for tag, attributes in found.tags if tag == "img" and attributes.get("src")]
    assert all(images)
    # Samples: five columns of ten images, or one for the clean model; and the matrix of ten by ten with its heads.
    for words, count in (
        ("residual: ", 20),
        ("mask: ", 20),
        ("heat of the clean image: ", 30),
        ("heat of the image with its trigger: ", 20),
        ("BadNets' trigger: ", 10),
        ("with its own trigger: taken for", 20),
        ("with the trigger of test image", 180),
        ("losses and accuracies over", 3),
        ("signed anomaly index", 3),
        ("distribution of the images' entropy", 3),
        ("clean accuracy and attack for 0 to 64 pruned channels", 3),
        ("under each filter", 3),
        ("Neural Cleanse, anomaly index of each run", 1),
    ):
        assert sum(words in str(image) for image in images) == count, words
    # A percent sign never begins a line.
    assert "\N{NO-BREAK SPACE}%" in found.text
    assert not re.search(r"\d %", found.text)
    text = " ".join(found.text.split())
    for folder in whole_runs.values():
        assert str(folder) in text
        evaluation = json.loads((folder / "evaluation.json").read_text())
        assert f"{100 * evaluation['clean_accuracy']:.2f} %" in text
        for record in (json.loads(path.read_text()) for path in (folder / "defenses").glob("*.json")):
            assert " ".join(record["sentence"].split()) in text
            assert " ".join(record["scoring"]["sentence"].split()) in text


def test_what_the_classifier_says_is_in_the_page(page: Path, whole_runs: dict[str, Path]) -> None:
    source = page.read_text(encoding="utf-8")
    answers = json.loads(source.split('id="answers">')[1].split("</script>")[0])
    with np.load(whole_runs["input-aware"] / "inspection/cross_trigger.npz") as arrays:
        expected, label = arrays["probabilities"][3, 7], int(arrays["label"][7])
    answer = answers["run0"]["said"]["cross3-7"]
    np.testing.assert_allclose(answer["probabilities"], expected, atol=5.1e-5)
    assert (answer["label"], answer["target"]) == (label, 0)
    # Every image names answers that are there.
    for attributes in Page(page).with_attribute("data-said"):
        keys = str(attributes["data-said"]).split()
        assert all(key in answers[str(attributes["data-run"])]["said"] for key in keys)


def test_numbers_stand_beneath_the_matrix_unless_all_names_are_short(whole_runs: dict[str, Path]) -> None:
    run = collect_run(whole_runs["input-aware"])
    for names in (tuple("abcdefghij"), ("cat", "automobile", *"cdefghij")):
        found = cross_matrix(replace(run, spec=replace(run.spec, class_names=names)))
        assert found is not None
        short = names[1] == "b"
        assert [row.title for row in found[1][:2]] == (["a", "b"] if short else ["0 cat", "1 automobile"])
        marks = {cell.mark for row in found[1] for cell in row.cells}
        assert marks <= (set(names) if short else set("0123456789"))


def test_names_like_markup_stay_text(copy_of: Copy, tmp_path: Path) -> None:
    folder = copy_of("badnets", HOSTILE.replace("/", ""))
    config = read_json(folder / "config.json")
    names = [HOSTILE, "</script><script>alert(2)</script>", '" onfocus="alert(3)', "{{ 7 * 7 }}", "$\\frac{$", "5", "6"]
    config["data"]["class_names"] = [*names, "7", "8", "9"]
    config["data"]["name"] = "<b>digits</b>"
    write_json(folder / "config.json", config)
    strip = folder / "defenses/strip.json"
    said = read_json(strip)
    write_json(strip, said | {"sentence": f"<script>alert(4)</script>{said['sentence']}"})
    environment = read_json(folder / "environment.json")
    write_json(folder / "environment.json", environment | {"command": "<script>alert(5)</script>"})
    write_report([folder], tmp_path / "page.html")
    found = Page(tmp_path / "page.html")
    assert [attributes.get("type") for tag, attributes in found.tags if tag == "script"] == ["application/json", None]
    assert not any(name.startswith("on") for _, attributes in found.tags for name in attributes)
    assert "b" not in {tag for tag, _ in found.tags}
    for words in (HOSTILE, "{{ 7 * 7 }}", "<script>alert(4)</script>", "<script>alert(5)</script>", "<b>digits</b>"):
        assert words in found.text
    source = (tmp_path / "page.html").read_text(encoding="utf-8")
    answers = json.loads(source.split('id="answers">')[1].split("</script>")[0])
    assert answers["run0"]["classes"][:5] == names[:5]


def test_runs_that_miss_parts_name_the_commands(copy_of: Copy, tmp_path: Path) -> None:
    folder = copy_of("none", "half done")
    for path in (*(folder / "inspection").iterdir(), *(folder / "defenses").iterdir(), folder / "evaluation.json"):
        path.unlink()
    write_report([folder], tmp_path / "page.html")
    text = Page(tmp_path / "page.html").text
    assert f"inputaware train --resume --output '{folder}'" in text
    assert f"inputaware inspect '{folder}' --overwrite" in text
    assert f"inputaware defend '{folder}' fine-pruning" in text


def test_three_large_runs_with_all_defenses_stay_below_9_megabytes(copy_of: Copy, tmp_path: Path) -> None:
    folder = copy_of("input-aware", "large")
    random = np.random.RandomState(0)
    classes, shape, crossed = 43, (3, 32, 32), 10
    config = read_json(folder / "config.json")
    config["data"] |= {"shape": shape, "classes": classes, "class_names": [f"speed limit {k}" for k in range(classes)]}
    config["data"] |= {"mean": [0.5] * 3, "std": [0.5] * 3}
    write_json(folder / "config.json", config)
    inspection = folder / "inspection"
    record = read_json(inspection / "inspection.json")
    sample = record["samples"][0]
    record["samples"] = [sample | {"index": label, "label": label} for label in range(classes)]
    write_json(inspection / "inspection.json", record)
    labels = np.arange(classes)
    noise = {name: random.rand(classes, *shape).astype(np.float32) for name in ("image", "pattern", "poisoned")}
    said = {f"{name}_probabilities": random.rand(classes, classes) for name in ("clean", "backdoor")}
    np.savez(
        inspection / "gallery.npz",
        index=labels,
        label=labels,
        target=labels,
        mask=random.rand(classes, 1, 32, 32).astype(np.float32),
        residual=noise["poisoned"] - noise["image"],
        **noise,
        **said,
    )
    heat = {name: random.rand(classes, 32, 32).astype(np.float32) for name in ("clean", "backdoor")}
    np.savez(inspection / "grad_cam.npz", **heat)
    np.savez(
        inspection / "cross_trigger.npz",
        index=labels[:crossed],
        label=labels[:crossed],
        target=labels[:crossed],
        poisoned=random.rand(crossed, crossed, *shape).astype(np.float32),
        probabilities=random.rand(crossed, crossed, classes),
    )
    # Three runs, and noise, which no format makes smaller.
    runs = [folder, copy_of("badnets", "b"), copy_of("none", "c")]
    for run in runs[1:]:
        for name in ("config.json", "inspection"):
            (run / name).rename(run / f"old {name}")
            (run / name).symlink_to(folder / name)
    write_report(runs, tmp_path / "page.html")
    assert 3e6 < (tmp_path / "page.html").stat().st_size < 9e6


def test_the_same_runs_give_the_same_page(page: Path, whole_runs: dict[str, Path], tmp_path: Path) -> None:
    write_report([*whole_runs.values(), *whole_runs.values()], tmp_path / "again.html")
    assert (tmp_path / "again.html").read_bytes() == page.read_bytes()


def test_the_command_writes_the_page(
    whole_runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "report.html"
    arguments = ["report", str(whole_runs["none"]), "--output", str(output)]
    assert main(arguments) == 0
    assert capsys.readouterr().out == f"Report: {output}\n"
    before = output.read_bytes()
    output.write_text("mine")
    assert main(arguments) == 2
    assert capsys.readouterr().err == (
        f"inputaware: output: expected a file that does not exist yet; found the file {str(output)!r}; "
        "choose another one, or replace it with --overwrite\n"
    )
    assert output.read_text() == "mine"
    assert main([*arguments, "--overwrite"]) == 0
    assert output.read_bytes() == before


def test_no_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RunFolderError, match="expected a run folder"):
        write_report([tmp_path], tmp_path / "page.html")
    assert main(["report", "--output", str(tmp_path / "page.html")]) == 2
    assert capsys.readouterr().err == "inputaware: runs: expected at least one run folder; found none\n"
    assert list(tmp_path.iterdir()) == []


def test_records_that_do_not_fit_are_refused(copy_of: Copy, tmp_path: Path) -> None:
    folders = [copy_of(attack, attack) for attack in ("badnets", "input-aware")]
    file = folders[0] / "defenses/neural-cleanse.json"
    record = read_json(file)
    del record["scores"]["threshold"]
    write_json(file, {name: value for name, value in record.items() if name != "sha256"})
    with pytest.raises(RunFolderError) as caught:
        write_report(folders, tmp_path / "page.html")
    assert ": expected the files of a run as inputaware writes them; found " in str(caught.value)


def test_arrays_that_do_not_fit_are_refused(copy_of: Copy, tmp_path: Path) -> None:
    folder = copy_of("badnets")
    with np.load(folder / "inspection/gallery.npz") as file:
        arrays = dict(file)
    np.savez(folder / "inspection/gallery.npz", **{name: values[:3] for name, values in arrays.items()})
    with pytest.raises(RunFolderError) as caught:
        write_report([folder], tmp_path / "page.html")
    assert str(caught.value).startswith(f"{folder}: expected the files of a run as inputaware writes them; found ")
    assert str(caught.value).endswith(
        "; restore them, or make them again with inputaware evaluate, and inspect and defend --overwrite"
    )
    assert not (tmp_path / "page.html").exists()


def test_no_torch_is_loaded(whole_runs: dict[str, Path], tmp_path: Path) -> None:
    program = (
        "import sys; from inputaware import write_report; write_report(sys.argv[2:], sys.argv[1]); "
        "print('torch' in sys.modules)"
    )
    found = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "page.html"), str(whole_runs["none"])],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert found.stdout == "False\n", found.stderr
