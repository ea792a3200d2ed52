"""What each command takes: dataclasses whose fields are its options, and whose words are its help."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from inputaware.config.fields import Config, EvaluationSplit, PrecisionName, PresetName
from inputaware.defenses.settings import PAPER_DEFENSES, DefenseSettings

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
]

_Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff]


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
    split: EvaluationSplit = "test"
    """Test for reporting (written to the run folder); validation for choosing settings (only printed)."""
    dataset: Path | None = None
    """Where images of your own lie now, if they have moved since the run was trained."""
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
    split: EvaluationSplit | None = None
    """Export this split as a parquet file instead."""
    output: Path
    """The folder to make for images, or the parquet file for a split."""
    dataset: Path | None = None
    """Where images of your own lie now, if they have moved since the run was trained."""
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
    names: Annotated[tuple[str, ...], tyro.conf.Positional] = PAPER_DEFENSES
    """Which defenses, or all; the paper's four, where none is named. FILE.py:CLASS or module:CLASS is one of your own,
    whose code is run; --help beside it shows its settings."""
    settings: Annotated[DefenseSettings, tyro.conf.arg(name="")] = field(default_factory=DefenseSettings)
    seed: int = 0
    """Seed of the defenses' random choices."""
    overwrite: _Flag = False
    """Make these results anew, also where others are in the run folder."""
    dataset: Path | None = None
    """Where images of your own lie now, if they have moved since the run was trained."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    json: _Flag = False
    """Print the results as JSON."""


@dataclass(frozen=True, kw_only=True)
class InspectCommand:
    """Look at test images with and without their triggers: galleries and Grad-CAM, written to RUN/inspection/."""

    run: Annotated[Path, tyro.conf.Positional]
    """The run folder."""
    images: int | None = None
    """Images of each class, drawn at random from the test set; none: one."""
    indices: tuple[int, ...] = ()
    """These images of the test set, counted from 0, in place of drawn ones."""
    seed: int = 0
    """Seed of the draw."""
    overwrite: _Flag = False
    """Replace the inspection that is in the run folder."""
    dataset: Path | None = None
    """Where images of your own lie now, if they have moved since the run was trained."""
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
    """The page to make, a file that ends in .html."""
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
    """Of training and size: 32, bf16 (mixed precision), or auto: bf16 where it is faster."""
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
    joint_stage.attack_probability=0.05,0.1; or a setting of a defense, such as strip.overlays=50."""
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
