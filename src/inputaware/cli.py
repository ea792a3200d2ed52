"""The command ``inputaware``: it parses, calls the Python interface, and prints."""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import os
import re
import select
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass, replace
from pathlib import Path
from types import FrameType, NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, cast, get_args, get_origin, get_type_hints

import tyro

from inputaware import __version__
from inputaware.config import (
    Config,
    PrecisionName,
    PresetName,
    check_config,
    check_processes,
    config_to_dict,
    override,
    preset_config,
)
from inputaware.defenses.settings import DEFENSES, DefenseName, DefenseSettings, field_of
from inputaware.errors import ConfigError, InputAwareError, UsageError, WriteError

if TYPE_CHECKING:
    from inputaware.defenses.base import Defense
    from inputaware.defenses.own import OwnDefense

__all__ = [
    "BenchmarkCommand",
    "DefendCommand",
    "EvaluateCommand",
    "ImportOfficialCommand",
    "InspectCommand",
    "PoisonCommand",
    "ReportCommand",
    "ReproduceCommand",
    "SweepCommand",
    "TrainCommand",
    "main",
]


_Command = TypeVar("_Command")

_Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff]

_NUMBERS = tyro.constructors.ConstructorRegistry()
"""How numbers are read: as tyro reads them, with messages that say what was expected."""


@_NUMBERS.primitive_rule
def _numbers(info: tyro.constructors.PrimitiveTypeInfo) -> tyro.constructors.PrimitiveConstructorSpec[Any] | None:
    """Return how an option is read that takes a number, a number or none, or several numbers; none for others."""
    kind, origin, parts = cast(Any, info.type), info.type_origin, get_args(info.type)
    optional = origin is UnionType and NoneType in parts
    if optional or origin is tuple:
        kind = parts[0]
    words = {int: "a whole number", float: "a number"}.get(kind)
    if words is None or (optional and len(parts) > 2):
        return None

    def parse(text: str) -> int | float | None:
        if optional and text in ("none", "None"):
            return None
        try:
            return kind(text)  # type: ignore[no-any-return]
        except ValueError:
            raise ValueError(f"expected {words}{' or none' if optional else ''}; found {text!r}") from None

    def fits(value: Any) -> bool:
        return (optional and value is None) or isinstance(value, (int, float) if kind is float else int)

    name = kind.__name__.upper()
    if origin is not tuple:
        return tyro.constructors.PrimitiveConstructorSpec(
            nargs=1,
            metavar=f"{{None}}|{name}" if optional else name,
            instance_from_str=lambda found: parse(found[0]),
            is_instance=fits,
            str_from_instance=lambda value: [str(value)],
        )
    any_number = parts[-1] is Ellipsis
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs="*" if any_number else len(parts),
        metavar=f"[{name} [{name} ...]]" if any_number else " ".join([name] * len(parts)),
        instance_from_str=lambda found: tuple(parse(text) for text in found),
        is_instance=lambda value: isinstance(value, tuple) and all(map(fits, value)),
        str_from_instance=lambda value: [str(item) for item in value],
    )


@dataclass(frozen=True, kw_only=True)
class TrainCommand:
    """Train a backdoored classifier (or a control), evaluate it on the test set, and write a run folder.

    Flags override the file given with --config, and the file overrides the preset. Defaults below are those of the
    --dataset and --preset that stand beside --help; without a data set, those of digits.
    """

    settings: Annotated[Config, tyro.conf.arg(name="")]
    output: Path
    """The run folder to make."""
    resume: _Flag = False
    """Go on with an interrupted run; needs no other flag than --output."""
    allow_different_machine: _Flag = False
    """Resume although library, hardware or thread count differ; the result may then differ in its last bits."""
    config: Path | None = None
    """A JSON file with settings, such as the config.json of another run."""
    tensorboard: Path | None = None
    """Also write losses and accuracies to this folder for TensorBoard."""
    devices: int = 1
    """Processes of this machine that train the run together, each on a GPU of its own, or on the CPU."""
    json: _Flag = False
    """Print the evaluation as JSON."""


@dataclass(frozen=True, kw_only=True)
class EvaluateCommand:
    """Run the paper's three tests on a finished run, and write its evaluation.json."""

    run: Annotated[Path, tyro.conf.Positional]
    """The run folder."""
    split: Literal["test", "validation", "defender"] = "test"
    """Test for reporting (written to the run folder); validation for choosing settings (only printed)."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    json: _Flag = False
    """Print the evaluation as JSON."""


@dataclass(frozen=True, kw_only=True)
class PoisonCommand:
    """Apply a run's trigger to your own images, or export a whole poisoned split."""

    run: Annotated[Path, tyro.conf.Positional]
    """The run folder."""
    input: Path | None = None
    """An image, or a folder that is searched for images; any size, grey or colour."""
    split: Literal["test", "validation", "defender"] | None = None
    """Export this split as a parquet file instead."""
    output: Path
    """The folder to make for images, or the parquet file for a split."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    json: _Flag = False
    """Print the predictions as JSON."""


@dataclass(frozen=True, kw_only=True)
class DefendCommand:
    """Run defenses on a run's classifier and score them on its test set.

    A defense gets the classifier and clean images of the defender split, nothing of the attacker's. Results go to
    RUN/defenses/; those that are there already, with the same settings, are shown as they are.
    """

    run: Annotated[Path, tyro.conf.Positional]
    """The run folder."""
    names: Annotated[tuple[str, ...], tyro.conf.Positional] = DEFENSES
    """Which defenses; all, where none is named. FILE.py:CLASS or module:CLASS is one of your own, whose code is run;
    --help beside it shows its settings."""
    settings: Annotated[DefenseSettings, tyro.conf.arg(name="")] = field(default_factory=DefenseSettings)
    seed: int = 0
    """Seed of the defenses' random choices."""
    overwrite: _Flag = False
    """Make these results anew, also where others are in the run folder."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    json: _Flag = False
    """Print the results as JSON."""


@dataclass(frozen=True, kw_only=True)
class InspectCommand:
    """Look at test images with and without their triggers: galleries and Grad-CAM, written to RUN/inspection/."""

    run: Annotated[Path, tyro.conf.Positional]
    """The run folder."""
    images: int = 1
    """Images of each class, drawn at random from the test set."""
    seed: int = 0
    """Seed of the draw."""
    overwrite: _Flag = False
    """Replace the inspection that is in the run folder."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    json: _Flag = False
    """Print the record as JSON."""


@dataclass(frozen=True, kw_only=True)
class ReportCommand:
    """Show runs side by side on one page that opens from disk: what they do, how they look, what defenses say of them.

    It reads what is in the run folders, and names the command for what is not there yet.
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """The run folders."""
    output: Path
    """The HTML file to make."""
    overwrite: _Flag = False
    """Replace the file that is there."""


@dataclass(frozen=True, kw_only=True)
class ReproduceCommand:
    """Make the paper's tables and figures, ours beside theirs: run what is missing, keep what is there.

    It says first what it will run, and about how long that takes here.
    """

    items: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """main, table2 to table4, figure1 to figure7; all, where none is named."""
    dataset: str = "mnist"
    """digits, mnist, cifar10 or gtsrb; the paper has no digits."""
    seeds: tuple[int, ...] = (0,)
    """Seeds of the runs: tables show all with their spread, figures the first."""
    output: Path = Path("reproduction")
    """The folder for tables, figures and run folders; what is in it is gone on with."""
    preset: PresetName = "fast"
    """How runs are trained."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    precision: PrecisionName = "auto"
    """32, bf16 (mixed precision), or auto: bf16 where it is faster."""
    hours: float = 12.0
    """Leave out what should take longer than this."""
    plan: _Flag = False
    """Only say what would be run."""


@dataclass(frozen=True, kw_only=True)
class BenchmarkCommand:
    """Measure how fast training and the networks are on this machine, beside a plainly written training and the paper.

    Images are random, so no data set has to be there.
    """

    dataset: str = "mnist"
    """digits, mnist, cifar10 or gtsrb: what training and size are measured on."""
    parts: tuple[Literal["training", "latency", "size", "startup"], ...] = ("training", "latency", "size", "startup")
    """training: images a second, and where the time goes. latency: the paper's table 2. size: time of an epoch by
    its images and by batch size. startup: seconds until a command begins."""
    quick: _Flag = False
    """Fewer rounds and small epochs, for a first look."""
    repeats: int | None = None
    """Rounds in which what is compared takes turns, and timed starts; none: 11, or 3 and 1 with --quick."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    precision: PrecisionName = "auto"
    """32, bf16 (mixed precision), or auto: bf16 where it is faster."""
    output: Path | None = None
    """Also write the result to this new JSON file."""
    plot: Path | None = None
    """Also draw the result to this new picture, .png or .svg."""
    json: _Flag = False
    """Print the result as JSON."""


@dataclass(frozen=True, kw_only=True)
class ImportOfficialCommand:
    """Make a run folder from a checkpoint of the authors' release.

    Tensors and options are read, nothing of the file is run.
    """

    file: Annotated[Path, tyro.conf.Positional]
    """A *.pth.tar file of the release, of its joint stage or of its mask stage."""
    output: Path
    """The run folder to make."""
    json: _Flag = False
    """Print what was imported as JSON."""


@dataclass(frozen=True, kw_only=True)
class SweepCommand:
    """Run a grid of configurations with many seeds, here or on a Ray cluster, and say what they give together.

    The grid comes from a YAML file, from options, or from both: options replace the file's values. Cells that are
    finished are not run again, so the same command goes on after an interruption.
    """

    file: Annotated[Path | None, tyro.conf.Positional] = None
    """What to run, as YAML; none: the options say it."""
    output: Path
    """The folder of the sweep, new or of an earlier one."""
    dataset: tuple[str, ...] = ()
    """Data sets: digits, mnist, cifar10, gtsrb, or paths."""
    attack: tuple[str, ...] = ()
    """Attacks: input-aware, badnets, none."""
    target: tuple[str, ...] = ()
    """Targets: all-to-one, all-to-all."""
    preset: tuple[str, ...] = ()
    """Presets: fast, paper, official."""
    seed: tuple[int, ...] = ()
    """Seeds."""
    set: tuple[str, ...] = ()
    """Any field of the configuration: FIELD=VALUE, or FIELD=VALUE,VALUE,... to try several, such as
    joint_stage.attack_probability=0.05,0.1."""
    defenses: tuple[str, ...] = ()
    """Defenses that each run meets: names, all, or FILE.py:CLASS, one of your own, whose code is run."""
    cpus: float = 1.0
    """Processors of each run; as many run side by side as there are processors for."""
    gpus: float = 0.0
    """GPUs of each run: 0, a fraction, or a whole number."""
    address: str | None = None
    """A running Ray cluster, such as auto or ray://HOST:10001; none: this machine."""
    retries: int = 3
    """How often a run is taken up again, from its checkpoint, after its worker died."""
    allow_different_machine: _Flag = False
    """Let an interrupted run go on where library, hardware or thread count differ."""
    overwrite: _Flag = False
    """Make results of defenses anew that are there with other settings, or that other code of yours made."""
    plan: _Flag = False
    """Show what would be run, and run nothing."""
    json: _Flag = False
    """Print the result as JSON."""


def _train(command: TrainCommand, given: Config | None, arguments: Sequence[str]) -> int:
    if command.devices < 1:
        raise ConfigError(f"devices: expected a number of at least 1; found {command.devices}")
    from inputaware.runs.description import read_description
    from inputaware.training.processes import join_processes, launch

    if command.devices > 1 and "WORLD_SIZE" not in os.environ:
        config = given or read_description(command.output)[0]
        check_config(config)
        # Before they are started: each is a Python with torch of its own.
        check_processes(config, command.devices)
        return launch(command.devices, _train_together, list(arguments))
    from rich.console import Console

    from inputaware.api import train
    from inputaware.console import TrainingDisplay, evaluation_table
    from inputaware.runs.results import published, read_evaluation
    from inputaware.training.listeners import Listeners, TensorBoardListener

    processes = join_processes(command.settings.device)
    if not processes.writes:
        train(
            given,
            command.output,
            resume=command.resume,
            allow_different_machine=command.allow_different_machine,
            processes=processes,
        )
        processes.leave()
        return 0
    console = Console(stderr=True)
    with TrainingDisplay(console) as display:
        listeners: list[Any] = [display]
        if command.tensorboard is not None:
            listeners.append(TensorBoardListener(command.tensorboard))
        run = train(
            given,
            command.output,
            resume=command.resume,
            allow_different_machine=command.allow_different_machine,
            listener=Listeners(listeners),
            evaluating=display.evaluating,
            processes=processes,
        )
    processes.leave()
    result = read_evaluation(run.folder.evaluation)
    if command.json:
        print(json.dumps(result, indent=2))
        return 0
    title = f"{run.spec.name}, {run.config.attack}, {run.config.target}, test set"
    output = Console()
    output.print(evaluation_table(result, published(run.config), title))
    _say(f"Run folder: {command.output}")
    return 0


def _train_together(arguments: Sequence[str]) -> None:
    """Be one of the processes that ``--devices`` asks for."""
    sys.exit(main(["train", *arguments]))


def _evaluate(command: EvaluateCommand) -> None:
    from rich.console import Console

    from inputaware.api import Run
    from inputaware.console import evaluation_table, progress_bar
    from inputaware.runs.results import published

    run = Run.load(command.run, device=command.device)
    with progress_bar(Console(stderr=True), "evaluating") as progress:
        result = run.evaluate(command.split, progress=progress)
    if command.json:
        print(json.dumps(result, indent=2))
        return
    title = f"{run.spec.name}, {run.config.attack}, {run.config.target}, {command.split} split"
    Console().print(evaluation_table(result, published(run.config), title))


def _poison(command: PoisonCommand) -> None:
    if (command.input is None) == (command.split is None):
        raise ConfigError(
            "poison: expected either --input or --split; found " + ("neither" if command.input is None else "both")
        )
    from rich.console import Console

    from inputaware.api import Run
    from inputaware.console import poison_table
    from inputaware.poisoning import export_poisoned_split, poison_files

    run = Run.load(command.run, device=command.device)
    output = Console()
    if command.split is not None:
        count = export_poisoned_split(run, command.split, command.output)
        if command.json:
            print(json.dumps({"images": count, "output": str(command.output)}))
        else:
            _say(f"{count} poisoned images: {command.output}")
        return
    assert command.input is not None
    rows = poison_files(run, command.input, command.output)
    if command.json:
        print(json.dumps(rows, indent=2))
        return
    output.print(poison_table(rows))
    _say(f"Pictures and poison.csv: {command.output}")


def _defend(command: DefendCommand, own: Mapping[str, OwnDefense]) -> None:
    for name in command.names:
        if name not in DEFENSES and ":" not in name:
            raise ConfigError(
                f"defense: expected one of {', '.join(DEFENSES)}, or FILE.py:CLASS, a class of your own; found {name!r}"
            )
    from rich.console import Console

    from inputaware.api import Run
    from inputaware.console import defense_table, named_progress
    from inputaware.defenses.own import import_defense

    def chosen(name: str) -> DefenseName | Defense:
        if name in DEFENSES:
            return name
        one = own.get(name) or import_defense(name)
        return one.with_settings(getattr(command.settings, field_of(one.made.name), one.made.settings))

    # What a defense of one's own prints must not stand in the JSON.
    with contextlib.redirect_stdout(sys.stderr):
        defenses = [chosen(name) for name in command.names]
        run = Run.load(command.run, device=command.device)
        with named_progress(Console(stderr=True)) as progress:
            records = run.defend(
                defenses, command.settings, seed=command.seed, overwrite=command.overwrite, progress=progress
            )
    if command.json:
        print(json.dumps(records, indent=2))
        return
    output = Console()
    output.print(defense_table(records, f"{run.spec.name}, {run.config.attack}, {run.config.target}"))
    _say(f"Results and arrays: {run.folder.defenses}")


def _inspect(command: InspectCommand) -> None:
    if command.images < 1:
        raise ConfigError(f"images: expected a number of at least 1, the images of each class; found {command.images}")
    from rich.console import Console

    from inputaware.api import Run
    from inputaware.console import inspection_table, progress_bar

    run = Run.load(command.run, device=command.device)
    with progress_bar(Console(stderr=True), "inspecting") as progress:
        record = run.inspect(images=command.images, seed=command.seed, overwrite=command.overwrite, progress=progress)
    if command.json:
        print(json.dumps(record, indent=2))
        return
    output = Console()
    output.print(inspection_table(record, f"{run.spec.name}, {run.config.attack}, {run.config.target}, test set"))
    _say(f"Pictures and arrays: {run.folder.inspection}")


def _report(command: ReportCommand) -> None:
    from rich.console import Console

    from inputaware.console import progress_bar
    from inputaware.report import write_report

    with progress_bar(Console(stderr=True), "drawing") as progress:
        write_report(command.runs, command.output, overwrite=command.overwrite, progress=progress)
    _say(f"Report: {command.output}")


def _reproduce(command: ReproduceCommand) -> None:
    from rich.console import Console

    from inputaware.console import Announcer, plan_table
    from inputaware.reproduction import plan_reproduction, reproduce

    plan = plan_reproduction(
        command.items,
        dataset=command.dataset,
        seeds=command.seeds,
        output=command.output,
        preset=command.preset,
        device=command.device,
        precision=command.precision,
        hours=command.hours,
    )
    Console().print(plan_table(plan))
    for reason in dict.fromkeys(plan.impossible.values()):
        names = [name for name, other in plan.impossible.items() if other == reason]
        _say(f"{', '.join(names)} cannot be made here: {reason}")
    if command.plan:
        return
    with Announcer(Console(stderr=True)) as announcer:
        page = reproduce(plan, listener=announcer.listener, progress=announcer.progress)
    _say(f"Page: {page}")


def _benchmark(command: BenchmarkCommand) -> None:
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # torch's profiler says otherwise when it starts and stops
    from rich.console import Console

    from inputaware.benchmarking import benchmark
    from inputaware.console import benchmark_tables, named_progress

    # Drawn seldom, since drawing takes time from what is measured.
    with named_progress(Console(stderr=True), draws_per_second=1) as progress:
        result = benchmark(
            dataset=command.dataset,
            parts=command.parts,
            quick=command.quick,
            repeats=command.repeats,
            device=command.device,
            precision=command.precision,
            output=command.output,
            plot=command.plot,
            progress=progress,
        )
    if command.json:
        print(json.dumps(result, indent=2))
        return
    output = Console()
    for table in benchmark_tables(result):
        output.print(table)
    for words, path in (("Result", command.output), ("Plot", command.plot)):
        if path is not None:
            _say(f"{words}: {path}")


def _import_official(command: ImportOfficialCommand) -> None:
    from inputaware.api import import_official

    official = import_official(command.file, command.output)
    if command.json:
        print(
            json.dumps(
                {
                    "output": str(command.output),
                    "dataset": official.config.dataset,
                    "target": official.config.target,
                    "epoch": official.epoch,
                    "networks": list(official.weights),
                    "sha256": official.sha256,
                },
                indent=2,
            )
        )
        return
    folder = shlex.quote(str(command.output))
    networks = ", ".join(name.replace("_", " ") for name in official.weights)
    next_step = f"inputaware evaluate {folder}" if official.complete else f"inputaware train --resume --output {folder}"
    _say(
        f"{official.config.dataset}, {official.config.target}, {networks} after epoch {official.epoch}\n"
        f"Run folder: {command.output}\nNext: {next_step}"
    )


def _sweep(command: SweepCommand) -> int:
    from rich.console import Console

    from inputaware.console import SweepDisplay, count_in_words, sweep_plan_table, sweep_tables
    from inputaware.sweeps.grid import parse_options, plan_sweep, read_description

    description = {} if command.file is None else read_description(command.file)
    if command.defenses:
        description["defenses"] = list(command.defenses)
    axes = {
        name: values for name in ("dataset", "attack", "target", "preset", "seed") if (values := getattr(command, name))
    }
    # What a defense of one's own prints must not stand in the JSON.
    with contextlib.redirect_stdout(sys.stderr):
        sweep = plan_sweep(description, axes | parse_options(command.set, axes))
    output = Console()
    if command.plan:
        rows = [{"name": cell.name, "config": config_to_dict(cell.config)} for cell in sweep.cells]
        if command.json:
            print(json.dumps(rows, indent=2))
        else:
            output.print(sweep_plan_table(rows))
        return 0
    from inputaware.sweeps.cluster import run_sweep

    with SweepDisplay(Console(stderr=True)) as display:
        summary = run_sweep(
            sweep,
            command.output,
            cpus=command.cpus,
            gpus=command.gpus,
            address=command.address,
            retries=command.retries,
            allow_different_machine=command.allow_different_machine,
            overwrite=command.overwrite,
            watch=display.watch,
        )
    names = {cell.name for cell in sweep.cells}
    others = sum(path.is_dir() and path.name not in names for path in (command.output / "runs").iterdir())
    if others:
        _tell(
            f"{count_in_words(others, 'run folder')} of other sweeps in {command.output / 'runs'}: results.parquet "
            "and summary.json are now of this command's cells alone"
        )
    if command.json:
        print(json.dumps(summary, indent=2))
    else:
        for table in sweep_tables(summary):
            output.print(table)
        for name, error in summary["broken"].items():
            _say(f"broken: {name}: {error}")
        _say(f"Runs, results.parquet and summary.json: {command.output}")
    return 1 if summary["broken"] else 0


def _settings_from(arguments: Sequence[str]) -> Config | None:
    """Return the configuration that flags override, or none where no data set is named.

    The first of two passes: data set, preset, configuration file and the folder to resume decide what the
    other flags' defaults are. Of a folder that is resumed it is the recorded configuration, so that only what is
    asked for can differ from it.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for option in ("--dataset", "--preset", "--target", "--config", "--output"):
        parser.add_argument(option)
    parser.add_argument("--resume", action="store_true")
    found, _ = parser.parse_known_args(arguments)
    settings = _read_settings(Path(found.config)) if found.config else {}
    if found.resume and found.output and os.path.exists(Path(found.output) / "config.json"):
        from inputaware.runs.folder import RunFolder

        return override(RunFolder(found.output).config(), settings)
    for option, asked in (("dataset", found.dataset), ("preset", found.preset), ("target", found.target)):
        if asked is not None and settings.get(option, asked) != asked:
            raise ConfigError(
                f"config: expected a file for {option} {asked!r}; found {settings[option]!r} in {found.config}; "
                f"leave --{option} out, or take the {option} out of the file with all that depends on it"
            )
    dataset = found.dataset or settings.get("dataset")
    if dataset is None:
        return None
    if not isinstance(dataset, str):
        raise ConfigError(f"dataset: expected text; found {dataset!r}")
    preset = found.preset or settings.get("preset", "fast")
    target = found.target or settings.get("target", "all-to-one")
    start = preset_config(preset, dataset=dataset, target=target)
    return override(start, settings | {"dataset": dataset, "preset": preset, "target": target})


def _read_settings(path: Path) -> dict[str, Any]:
    """Return the settings in a file; what a run folder's config.json says of its data and itself is left out."""
    from inputaware.runs.files import parse_json

    try:
        settings = parse_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"config: expected a JSON file at {str(path)!r}; found: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"config: expected JSON in {str(path)!r}; found: {error}; mend the file") from None
    if not isinstance(settings, dict):
        raise ConfigError(f"config: expected options by name in {str(path)!r}; found {type(settings).__name__}")
    return {name: value for name, value in settings.items() if name not in ("data", "sha256")}


def _parse_train(arguments: Sequence[str]) -> tuple[TrainCommand, Config | None]:
    defaults = _settings_from(arguments)
    asks_for_help = any(argument in ("-h", "--help") for argument in arguments)
    if defaults is None and not asks_for_help and "--resume" not in arguments:
        raise ConfigError(
            "dataset: expected --dataset digits, mnist, cifar10, gtsrb or the path of a folder; found none"
        )
    shown = defaults or preset_config("fast", dataset="digits")
    if defaults is None and asks_for_help:
        # Of a data set that is not named help shows that it is required.
        shown = replace(_settings_from([*arguments, "--dataset", "digits"]) or shown, dataset=tyro.MISSING)
    command = _parse("train", TrainCommand, arguments, TrainCommand(settings=shown, output=tyro.MISSING))
    return command, command.settings if defaults is not None else None


_PLACE = re.compile(r".+\.py:[A-Za-z_]\w*|[A-Za-z_][\w.]*:[A-Za-z_]\w*")
"""Of a defense of one's own: FILE.py:CLASS, or module:CLASS."""


def _parse_defend(arguments: Sequence[str]) -> tuple[DefendCommand, dict[str, OwnDefense]]:
    """Return the command, and the defenses of one's own by their place, whose settings are options like all others.

    The first of two passes: which they are decides what options there are.
    """
    places = [
        word
        for before, word in zip(("", *arguments), arguments, strict=False)
        if _PLACE.fullmatch(word) and before != "--device"
    ]
    if not places:
        _check_once(DefendCommand, arguments)
        return _parse("defend", DefendCommand, arguments), {}
    from inputaware.defenses.own import import_defenses, settings_with

    with contextlib.redirect_stdout(sys.stderr):
        own = import_defenses(places)
    settings = settings_with(list(own.values()))
    _check_once(DefendCommand, arguments)
    _check_once(type(settings), arguments)
    return _parse("defend", DefendCommand, arguments, DefendCommand(run=tyro.MISSING, settings=settings)), own


def _parse(name: str, command: type[_Command], arguments: Sequence[str], default: _Command | None = None) -> _Command:
    """Return a command as its arguments say, which are read once its defaults are known."""
    prog, args = f"inputaware {name}", list(arguments)
    if default is None:
        return tyro.cli(command, prog=prog, args=args, registry=_NUMBERS)
    return tyro.cli(command, prog=prog, args=args, registry=_NUMBERS, default=default)


_COMMANDS = {
    "train": "train a backdoored classifier or a control, evaluate it, write a run folder",
    "evaluate": "run the paper's three tests on a finished run",
    "poison": "apply a run's trigger to your own images, or export a poisoned split",
    "defend": "run defenses on a run's classifier, and score them",
    "inspect": "look at triggers and at where the classifier looks: galleries and Grad-CAM",
    "sweep": "run a grid of configurations with many seeds, here or on a Ray cluster",
    "report": "show runs side by side on one page that opens from disk",
    "reproduce": "make the paper's tables and figures, ours beside theirs",
    "benchmark": "measure how fast training and the networks are on this machine",
    "import-official": "make a run folder from a checkpoint of the authors' release",
}


def _with_several_values(settings: type[Any], prefix: str = "") -> Iterator[str]:
    """Yield the fields of a command that take several values, those of nested parts with dots."""
    for name, kind in get_type_hints(settings).items():
        if is_dataclass(kind):
            # The options of a command's settings stand without that name.
            yield from _with_several_values(cast(type[Any], kind), "" if name == "settings" else f"{prefix}{name}.")
        elif get_origin(kind) is tuple:
            yield f"{prefix}{name}"


def _check_once(command: type[Any], arguments: Sequence[str]) -> None:
    """Refuse an option with several values that stands twice, of which the parser would take the last alone."""
    given = [argument.partition("=")[0].replace("_", "-") for argument in arguments]
    for name in _with_several_values(command):
        option = f"--{name.replace('_', '-')}"
        if given.count(option) > 1 and not {"-h", "--help"} & set(given):
            raise ConfigError(
                f"{name}: expected one {option} with all its values behind it; found {given.count(option)}; "
                f"write {option} VALUE VALUE ..."
            )


def _dispatch(name: str, arguments: Sequence[str]) -> int:
    """Run a command and return its exit code."""
    if name == "train":
        _check_once(TrainCommand, arguments)
        return _train(*_parse_train(arguments), arguments)
    if name == "defend":
        _defend(*_parse_defend(arguments))
        return 0
    actions: dict[str, tuple[type[Any], Callable[[Any], int | None]]] = {
        "evaluate": (EvaluateCommand, _evaluate),
        "poison": (PoisonCommand, _poison),
        "inspect": (InspectCommand, _inspect),
        "sweep": (SweepCommand, _sweep),
        "report": (ReportCommand, _report),
        "reproduce": (ReproduceCommand, _reproduce),
        "benchmark": (BenchmarkCommand, _benchmark),
        "import-official": (ImportOfficialCommand, _import_official),
    }
    command, action = actions[name]
    _check_once(command, arguments)
    return action(_parse(name, command, arguments)) or 0


def _terminated(number: int, frame: FrameType | None) -> None:
    raise _TerminatedError


class _TerminatedError(BaseException):
    """SIGTERM, as an exception, so that files are closed and partial ones removed on the way out."""


def _say(words: str) -> None:
    """Print a line of the answer to stdout; what files and folders are called is not for the terminal to obey."""
    from inputaware.console import printable

    print(printable(words))


def _tell(words: str) -> None:
    """Print a message to stderr, in the same way."""
    from inputaware.console import printable

    rank = os.environ.get("RANK", "0")  # of several processes that train a run, the first has no number
    print(f"inputaware{'' if rank == '0' else f', process {rank}'}: {printable(words)}", file=sys.stderr)


def _how_to_go_on(name: str, arguments: Sequence[str]) -> str:
    if name == "sweep":
        return f"; go on with: {shlex.join(['inputaware', name, *arguments])}"
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--output")
    output = parser.parse_known_args(arguments)[0].output
    if name != "train" or output is None or not os.path.exists(Path(output) / "config.json"):
        return ""
    # What --resume does not take from the folder.
    parser.add_argument("--devices")
    parser.add_argument("--device")
    found = parser.parse_known_args(arguments)[0]
    options = [
        f"--{name} {shlex.quote(value)} "
        for name in ("devices", "device")
        if (value := getattr(found, name)) and found.devices
    ]
    return f"; go on with: inputaware train --resume {''.join(options)}--output {shlex.quote(output)}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    Args:
        arguments: the command line without the program's name; none takes the process's.

    Returns:
        0 done, 2 the user's mistake, 130 interrupted, 141 nobody reads the output any more, 143 terminated, 1 anything
        else.
    """
    parser = argparse.ArgumentParser(
        prog="inputaware",
        description="Train, measure and inspect input-aware dynamic backdoors (Nguyen & Tran, NeurIPS 2020), "
        "for people who build and choose defenses.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="commands:\n"
        + "\n".join(f"  {name:<17}{words}" for name, words in _COMMANDS.items())
        + "\n\n'inputaware COMMAND --help' lists a command's options.",
    )
    parser.add_argument("--version", action="version", version=f"inputaware {__version__}")
    parser.add_argument("command", choices=_COMMANDS, metavar="COMMAND", help="what to do")
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = _run(parser.parse_args(given[:1]).command, given[1:])
    except SystemExit:  # after help, say
        if (lost := _lost_output()) and not isinstance(lost, BrokenPipeError):
            return _say_that_it_is_lost(lost)
        raise
    except OSError:
        lost = _lost_output(ask=True)
        if lost is None:
            raise
        return _say_that_it_is_lost(lost)
    lost = _lost_output()
    return code if lost is None else _say_that_it_is_lost(lost)


def _run(name: str, arguments: Sequence[str]) -> int:
    """Run a command, and say what went wrong."""
    previous = signal.signal(signal.SIGTERM, _terminated)
    try:
        return _dispatch(name, arguments)
    except UsageError as error:
        _tell(str(error))
        return 2
    except InputAwareError as error:
        _tell(f"{error}{_how_to_go_on(name, arguments) if isinstance(error, WriteError) else ''}")
        return 1
    except (KeyboardInterrupt, _TerminatedError) as error:
        if os.environ.get("RANK", "0") == "0":  # of several processes that train a run, one says it
            _tell(f"stopped{_how_to_go_on(name, arguments)}")
        return 130 if isinstance(error, KeyboardInterrupt) else 143
    finally:
        signal.signal(signal.SIGTERM, previous)


def _lost_output(*, ask: bool = False) -> OSError | None:
    """Return why what is printed reaches nobody, if it does not, and let it go nowhere from here.

    A reader may have left, as after ``| head``, or the disk of the file be full.

    Args:
        ask: whether to write a line to learn it, for where nothing is buffered nothing is left to be written.
    """
    try:
        number = sys.stdout.fileno()
    except (OSError, ValueError):  # no file: somebody's own stream
        return None
    asked = select.poll()
    asked.register(number, 0)
    lost: OSError | None = None
    if any(events & select.POLLERR for _, events in asked.poll(0)):
        lost = BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
    else:
        try:
            sys.stdout.flush()
            if ask:
                os.write(number, b"\n")
        except OSError as error:
            lost = error
    if lost is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), number)
    return lost


def _say_that_it_is_lost(error: OSError) -> int:
    """Say why the answer was not written, but for a reader who has left, and return the exit code."""
    if isinstance(error, BrokenPipeError):
        return 128 + signal.SIGPIPE
    _tell(f"stdout: expected to write the answer; found: {error.strerror}; free space, or write it elsewhere")
    return 1
