"""The command ``inputaware``: it parses, calls the Python interface, and prints."""

from __future__ import annotations

import argparse
import contextlib
import errno
import io
import json
import os
import select
import shlex
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from inputaware import __version__
from inputaware.arguments import parse, parse_defend, parse_train
from inputaware.commands import (
    BenchmarkCommand,
    DefendCommand,
    EvaluateCommand,
    ImportOfficialCommand,
    InspectCommand,
    PoisonCommand,
    ReportCommand,
    ReproduceCommand,
    SweepCommand,
    TrainCommand,
)
from inputaware.config.checks import check_config, check_number, check_processes
from inputaware.config.datasets import IMAGE_SUFFIXES
from inputaware.config.fields import Config
from inputaware.config.presets import late_probabilities, without_effect
from inputaware.config.record import config_to_dict, flatten
from inputaware.defenses.settings import DEFENSES, DefenseName, DefenseSettings, expand_all, field_of
from inputaware.errors import (
    ConfigError,
    DefenseError,
    InputAwareError,
    RunFolderError,
    UsageError,
    WriteError,
    did_you_mean,
)

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from inputaware.api import Run
    from inputaware.defenses.base import Defense
    from inputaware.defenses.own import OwnDefense

__all__ = ["main"]

_SPINS = "1000"
"""Some microseconds: enough for threads that finish together."""


def _train(command: TrainCommand, given: Config | None, arguments: Sequence[str]) -> int:
    check_number("devices", command.devices, 1)
    from inputaware.runs.description import read_description
    from inputaware.runs.folder import RunFolder
    from inputaware.training.processes import join_processes, launch

    finished = command.resume and RunFolder(command.output).finished
    if command.devices > 1 and "WORLD_SIZE" not in os.environ and not finished:
        config = given or read_description(command.output)[0]
        check_config(config)
        # Before they are started: each is a Python with torch of its own.
        check_processes(config, command.devices)
        return launch(command.devices, _train_together, list(arguments))
    from inputaware.api import train
    from inputaware.attacks.registry import import_attacks
    from inputaware.console.displays import TrainingDisplay
    from inputaware.console.tables import evaluation_table
    from inputaware.runs.results import published, read_evaluation
    from inputaware.training.listeners import Listeners, TensorBoardListener

    processes = join_processes(command.settings.device)
    import_attacks()
    if processes.writes and given is not None and not command.resume:
        check_config(given)
        if idle := without_effect(given):
            _tell(f"these options change nothing here: {', '.join(idle)}")
        for note in late_probabilities(given):
            _tell(note)
    with TrainingDisplay(_stderr()) as display:
        listeners: list[Any] = [display] if processes.writes else []
        if processes.writes and command.tensorboard is not None:
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
    if not processes.writes:
        return 0
    result = read_evaluation(run.folder.evaluation)
    table = evaluation_table(result, published(run.config), f"{_model_in_words(run)}, test set")
    _answer(command.json, result, table, f"Run folder: {command.output}")
    return 0


def _train_together(arguments: Sequence[str]) -> None:
    """Be one of the processes that ``--devices`` asks for."""
    sys.exit(main(["train", *arguments]))


def _evaluate(command: EvaluateCommand) -> None:
    from inputaware.api import Run
    from inputaware.console.displays import progress_bar
    from inputaware.console.tables import evaluation_table
    from inputaware.runs.results import published

    run = Run.load(command.run, device=command.device, dataset=command.dataset)
    with progress_bar(_stderr(), "evaluating") as progress:
        result = run.evaluate(command.split, progress=progress)
    title = f"{_model_in_words(run)}, {command.split} split"
    _answer(command.json, result, evaluation_table(result, published(run.config), title))


def _poison(command: PoisonCommand) -> None:
    if (command.input is None) == (command.split is None):
        raise ConfigError(
            "poison: expected either --input or --split; found " + ("neither" if command.input is None else "both")
        )
    suffix = command.output.suffix.lower()
    if command.split is None and suffix in (".parquet", *IMAGE_SUFFIXES):
        raise ConfigError(f"output: expected a folder for images; found {str(command.output)!r}")
    if command.split is not None and suffix != ".parquet":
        raise ConfigError(f"output: expected a file that ends in .parquet for a split; found {str(command.output)!r}")
    from inputaware.api import Run
    from inputaware.console.displays import progress_bar
    from inputaware.console.tables import poison_table
    from inputaware.poisoning import export_poisoned_split, poison_files

    run = Run.load(command.run, device=command.device, dataset=command.dataset)
    if command.split is not None:
        with progress_bar(_stderr(), "poisoning") as progress:
            count = export_poisoned_split(run, command.split, command.output, progress=progress)
        if command.json:
            print(json.dumps({"images": count, "output": str(command.output)}))
        else:
            _say(f"{count} poisoned images: {command.output}")
        return
    assert command.input is not None
    with progress_bar(_stderr(), "poisoning") as progress:
        rows = poison_files(run, command.input, command.output, progress=progress)
    lines = [f"Pictures and poison.csv: {command.output}"]
    if resized := sum(row["resized_from"] != "" for row in rows):
        _, height, width = run.spec.shape
        lines.append(
            f"Resized to {width}x{height}, stretched where they were not square: {resized} of {len(rows)} "
            "(resized_from in poison.csv)"
        )
    _answer(command.json, rows, poison_table(rows), *lines)


def _defend(command: DefendCommand, own: Mapping[str, OwnDefense]) -> None:
    names = list(dict.fromkeys(expand_all(command.names)))
    for name in names:
        if name not in DEFENSES and ":" not in name:
            raise ConfigError(
                f"defense: expected all, some of {', '.join(DEFENSES)}, or FILE.py:CLASS, a class of your own; "
                f"found {name!r}"
                + (
                    "; name the class behind a colon"
                    if name.endswith(".py")
                    else did_you_mean(name, ("all", *DEFENSES))
                )
            )
    usual = DefenseSettings()
    for name in DEFENSES:
        part = field_of(name)
        asked, default = (flatten(config_to_dict(getattr(one, part))) for one in (command.settings, usual))
        if asked != default and name not in names:
            option = next(key for key, value in asked.items() if value != default[key])
            raise ConfigError(
                f"{part}.{option}: expected settings of a defense that is run; found one of {name}; name {name} "
                "too, or leave the option out"
            )
    from inputaware.api import Run
    from inputaware.console.displays import named_progress
    from inputaware.console.tables import defense_table
    from inputaware.defenses.own import import_defense
    from inputaware.evaluation.doubts import doubts
    from inputaware.runs.results import read_evaluation

    def chosen(name: str) -> DefenseName | Defense:
        if name in DEFENSES:
            return name
        one = own.get(name) or import_defense(name)
        return one.with_settings(getattr(command.settings, field_of(one.made.name), one.made.settings))

    # What a defense of one's own prints must not stand in the JSON.
    with contextlib.redirect_stdout(sys.stderr):
        defenses = [chosen(name) for name in names]
        run = Run.load(command.run, device=command.device, dataset=command.dataset)
        with named_progress(_stderr()) as progress:
            try:
                records = run.defend(
                    defenses, command.settings, seed=command.seed, overwrite=command.overwrite, progress=progress
                )
            except SystemExit as error:
                raise DefenseError(
                    f"defense: expected one that returns; found one that ends Python ({error}); mend it"
                ) from error
    try:
        doubted = doubts(read_evaluation(run.folder.evaluation)) if run.folder.finished else []
    except RunFolderError as error:  # which the defenses do without
        doubted = [str(error)]
    table = defense_table(records, _model_in_words(run), doubted)
    _answer(command.json, records, table, f"Results and arrays: {run.folder.defenses}")


def _inspect(command: InspectCommand) -> None:
    from inputaware.api import Run
    from inputaware.console.displays import progress_bar
    from inputaware.console.tables import inspection_table

    run = Run.load(command.run, device=command.device, dataset=command.dataset)
    with progress_bar(_stderr(), "inspecting") as progress:
        record = run.inspect(
            images=command.images,
            indices=command.indices or None,
            seed=command.seed,
            overwrite=command.overwrite,
            progress=progress,
        )
    table = inspection_table(record, f"{_model_in_words(run)}, test set")
    _answer(command.json, record, table, f"Pictures and arrays: {run.folder.inspection}")


def _report(command: ReportCommand) -> None:
    from inputaware.console.displays import progress_bar
    from inputaware.report import write_report

    with progress_bar(_stderr(), "drawing") as progress:
        write_report(command.runs, command.output, overwrite=command.overwrite, progress=progress)
    _say(f"Report: {command.output}")


def _reproduce(command: ReproduceCommand) -> None:
    from inputaware.console.displays import Announcer
    from inputaware.console.tables import plan_table
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
    _say(plan_table(plan))
    for reason in dict.fromkeys(plan.impossible.values()):
        names = [name for name, other in plan.impossible.items() if other == reason]
        _say(f"{', '.join(names)} cannot be made here: {reason}")
    if command.plan:
        return
    with Announcer(_stderr()) as announcer:
        page = reproduce(plan, listener=announcer.listener, progress=announcer.progress)
    _say(f"Page: {page}")


def _benchmark(command: BenchmarkCommand) -> None:
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # torch's profiler says otherwise when it starts and stops
    from inputaware.benchmarking import benchmark
    from inputaware.console.displays import named_progress
    from inputaware.console.tables import benchmark_tables

    # Drawn seldom, since drawing takes time from what is measured.
    with named_progress(_stderr(), draws_per_second=1) as progress:
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
    files = {"Result": command.output, "Plot": command.plot}
    written = [f"{words}: {path}" for words, path in files.items() if path is not None]
    _answer(command.json, result, *benchmark_tables(result), *written)


def _import_official(command: ImportOfficialCommand) -> None:
    from inputaware.api import import_official
    from inputaware.runs.description import resume_command

    official = import_official(command.file, command.output)
    record = {
        "output": str(command.output),
        "dataset": official.config.dataset,
        "target": official.config.target,
        "epoch": official.epoch,
        "networks": list(official.weights),
        "sha256": official.sha256,
    }
    folder = shlex.quote(str(command.output))
    networks = ", ".join(name.replace("_", " ") for name in official.weights)
    next_step = f"inputaware evaluate {folder}" if official.complete else resume_command(command.output)
    words = f"{official.config.dataset}, {official.config.target}, {networks} after epoch {official.epoch}"
    _answer(command.json, record, words, f"Run folder: {command.output}", f"Next: {next_step}")


def _sweep(command: SweepCommand) -> int:
    from inputaware.console.displays import SweepDisplay
    from inputaware.console.tables import sweep_plan_table, sweep_tables
    from inputaware.console.text import count_in_words
    from inputaware.sweeps.grid import parse_options, plan_sweep, read_sweep

    defenses = list(command.defenses)
    description = {"defenses": defenses} if command.file is None else read_sweep(command.file, defenses)
    axes = {
        name: values for name in ("dataset", "attack", "target", "preset", "seed") if (values := getattr(command, name))
    }
    # What a defense of one's own prints must not stand in the JSON.
    with contextlib.redirect_stdout(sys.stderr):
        sweep = plan_sweep(description, axes | parse_options(command.set, axes))
    for note in dict.fromkeys(note for cell in sweep.cells for note in late_probabilities(cell.config)):
        _tell(note)
    if command.plan:
        rows = [{"name": cell.name, "config": config_to_dict(cell.config)} for cell in sweep.cells]
        met = []
        for one in sweep.defenses:
            settings = ", ".join(f"{name} {value}" for name, value in flatten(config_to_dict(one.settings)).items())
            met.append(f"Each run meets {one.name}{f': {settings}' if settings else ''}")
        _answer(command.json, rows, sweep_plan_table(rows), *met)
        return 0
    from inputaware.sweeps.cluster import run_sweep

    with SweepDisplay(_stderr()) as display:
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
            f"{count_in_words(others, 'run folder')} of other sweeps in {command.output / 'runs'}: results.parquet, "
            "results.csv and summary.json are now of this command's cells alone"
        )
    broken = [f"broken: {name}: {error}" for name, error in summary["broken"].items()]
    where = f"Runs, results.parquet, results.csv and summary.json: {command.output}"
    _answer(command.json, summary, *sweep_tables(summary), *broken, where)
    return 1 if summary["broken"] else 0


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


def _dispatch(name: str, arguments: Sequence[str]) -> int:
    """Run a command and return its exit code."""
    if name == "train":
        return _train(*parse_train(arguments), arguments)
    if name == "defend":
        _defend(*parse_defend(arguments))
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
    return action(parse(name, command, arguments)) or 0


def _terminated(number: int, frame: FrameType | None) -> None:
    raise _TerminatedError


class _TerminatedError(BaseException):
    """SIGTERM, as an exception, so that files are closed and partial ones removed on the way out."""


def _model_in_words(run: Run) -> str:
    """Return data set, attack and target of a run; a clean model has no target."""
    target = [] if run.config.attack == "none" else [run.config.target]
    return ", ".join([run.spec.name, run.config.attack, *target])


def _stderr() -> Console:
    """Return the console that progress is drawn on."""
    from rich.console import Console

    return Console(stderr=True)


def _answer(as_json: bool, data: Any, *parts: Table | str) -> None:
    """Print what a command found: the data as JSON, or else tables and lines."""
    if as_json:
        print(json.dumps(data, indent=2))
    else:
        _say(*parts)


def _say(*parts: Table | str) -> None:
    """Print tables and lines to stdout; what files and folders are called is not for the terminal to obey."""
    from rich.console import Console

    from inputaware.console.text import printable

    for part in parts:
        if isinstance(part, str):
            print(printable(part))
        else:
            Console().print(part)


def _tell(words: str) -> None:
    """Print a message to stderr, in the same way."""
    from inputaware.console.text import printable

    rank = os.environ.get("RANK", "0")  # of several processes that train a run, the first has no number
    print(f"inputaware{'' if rank == '0' else f', process {rank}'}: {printable(words)}", file=sys.stderr)


def _how_to_go_on(name: str, arguments: Sequence[str], *, stopped: bool = False) -> str:
    """Return the end of a message: how to go on, or, of a command that was stopped, that nothing was written."""
    if name == "sweep":
        return f"; go on with: {shlex.join(['inputaware', name, *arguments])}"
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--output")
    output = parser.parse_known_args(arguments)[0].output
    if output is not None and stopped and not os.path.lexists(output):
        return f"; nothing was written to {output}"
    if name != "train" or output is None or not os.path.exists(Path(output) / "config.json"):
        return ""
    # What --resume does not take from the folder.
    parser.add_argument("--devices")
    parser.add_argument("--device")
    found = parser.parse_known_args(arguments)[0]
    from inputaware.runs.description import resume_command

    options = [
        word
        for name in ("devices", "device")
        if (value := getattr(found, name)) and found.devices
        for word in (f"--{name}", value)
    ]
    return f"; go on with: {resume_command(output, options)}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    Args:
        arguments: the command line without the program's name; none takes the process's.

    Returns:
        0 done, 2 the user's mistake, 130 interrupted, 141 nobody reads the output any more, 143 terminated, 1 anything
        else.
    """
    _let_waiting_threads_sleep()
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
    parser.add_argument("command", type=_command, metavar="COMMAND", help="what to do")
    given = list(sys.argv[1:] if arguments is None else arguments)
    if sys.stdout is None:  # closed by whoever started us: nobody asks for the answer
        sys.stdout = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w", closefd=False)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # As stderr does: what the terminal's encoding lacks must not end a command whose work is done.
        sys.stdout.reconfigure(errors="backslashreplace")
    if not given:
        parser.print_help(sys.stderr)
        return 2
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


def _let_waiting_threads_sleep() -> None:
    """Let threads that wait for one another sleep soon, unless the caller has said how they wait.

    GNU's OpenMP, which torch computes with on Linux, lets them spin for about a millisecond first. Beside any other
    process that computes they then take the processor from the thread that they wait for, and a step takes many times
    as long. It reads the variable when torch is loaded.
    """
    if "torch" not in sys.modules and "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", _SPINS)


def _command(name: str) -> str:
    """Return the name of a command; argparse says what is wrong with another one."""
    if name not in _COMMANDS:
        raise argparse.ArgumentTypeError(
            f"expected one of {', '.join(_COMMANDS)}; found {name!r}{did_you_mean(name, _COMMANDS)}"
        )
    return name


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
    except (MemoryError, RuntimeError) as error:
        # Of a GPU's memory torch has an error of its own, of the processor's only words.
        of_torch = type(error).__name__ == "OutOfMemoryError" or "DefaultCPUAllocator" in str(error)
        if not (of_torch or isinstance(error, MemoryError)):
            raise
        remedy = "free memory, or use a machine that has more"
        if name == "train":
            remedy += ", or train anew with smaller batches or a narrower network (--model.width)"
        _tell(f"memory: expected enough for this; found: {str(error).partition(chr(10))[0] or 'none left'}; {remedy}")
        return 1
    except (KeyboardInterrupt, _TerminatedError) as error:
        if os.environ.get("RANK", "0") == "0":  # of several processes that train a run, one says it
            _tell(f"stopped{_how_to_go_on(name, arguments, stopped=True)}")
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
