"""The Python interface: train a run, load it, evaluate it, poison images with it.

::

    from inputaware import Run, preset_config, train

    run = train(preset_config("fast", dataset="digits"), "runs/digits")
    run.evaluate()["attack_success_rate"]
    Run.load("runs/digits").backdoor.poison(images, labels)
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from jaxtyping import Int64, UInt8
from PIL import Image
from torch import Tensor, nn

from inputaware.attacks.base import Attack, Backdoor
from inputaware.attacks.own import check_attack, check_kept
from inputaware.attacks.registry import attack_code, build_attack, import_attacks
from inputaware.config.checks import check_config, check_images, check_processes, check_seed, derived_from
from inputaware.config.datasets import DATASETS
from inputaware.config.fields import Config, EvaluationSplit
from inputaware.config.record import config_differences, override
from inputaware.data.cache import ImageSet, load_images
from inputaware.data.sources import DataSplit
from inputaware.data.spec import DatasetSpec
from inputaware.data.splits import split_indices, subset_indices
from inputaware.defenses.base import CleanData, Defense, Suspect, Trial
from inputaware.defenses.examine import run_and_rate
from inputaware.defenses.own import choose_defenses
from inputaware.defenses.settings import DEFENSES, PAPER_DEFENSES, DefenseSettings, Settings
from inputaware.errors import ConfigError, DataError, RunFolderError, did_you_mean
from inputaware.evaluation.evaluate import evaluate, three_accuracies
from inputaware.inspection.inspect import inspect_classifier
from inputaware.models.registry import last_convolution, last_map
from inputaware.runs.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from inputaware.runs.description import resume_command, run_identity
from inputaware.runs.environment import (
    describe_environment,
    fingerprint,
    keep_freed_memory,
    resolve_device,
    resolve_precision,
    seeded,
)
from inputaware.runs.files import check_new_folder, read_json, write_arrays, write_folder, write_json, writing
from inputaware.runs.findings import kept_finding
from inputaware.runs.folder import RunFolder
from inputaware.runs.import_official import OfficialCheckpoint, read_official
from inputaware.training.listeners import Listeners
from inputaware.training.loop import Listener, Trainer, training_state
from inputaware.training.processes import Processes
from inputaware.training.step import place_modules

__all__ = ["Run", "check_attack_code", "import_official", "recorded_config", "train"]


@dataclass(eq=False, repr=False)
class Run:
    """A finished run: a classifier, its backdoor, and the folder that they came from.

    Attributes:
        folder: where its files are.
        config: its configuration.
        spec: the data set that it was trained on.
        classifier: the network that a defender is handed; maps pixels in [0, 1] to logits.
        backdoor: how to apply the trigger; none for a clean model.
        device: where the networks are.
    """

    folder: RunFolder
    config: Config
    spec: DatasetSpec
    classifier: nn.Module
    backdoor: Backdoor | None
    device: torch.device
    _digests: dict[str, str]
    _dataset: str

    def __repr__(self) -> str:
        """Return its folder, and what it was trained on, by which attack, to which target."""
        target = "" if self.config.attack == "none" else f", {self.config.target}"
        return f"<Run {str(self.folder)!r}: {self.config.dataset}, {self.config.attack}{target}>"

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        device: str | torch.device = "auto",
        dataset: str | os.PathLike[str] | None = None,
    ) -> Run:
        """Return the run in a folder.

        Args:
            path: the run folder.
            device: auto, cpu, cuda, cuda:N or mps.
            dataset: where images of one's own lie now; none: where they were when the run was trained.

        Raises:
            ConfigError: a place is given for a data set that has a name.
            RunFolderError: this is no run folder, training is not finished, or a file is corrupt or belongs
                to another run.
            DeviceError: the device is not there.
        """
        folder = RunFolder(path)
        target = resolve_device(device)
        attack, config, spec = folder.load_attack(target)
        if dataset is not None and config.dataset in DATASETS:
            raise ConfigError(
                f"dataset: expected none for a run of {config.dataset}, whose images are found by that name; found "
                f"{os.fspath(dataset)!r}; leave it out"
            )
        place_modules(attack, target)
        place = config.dataset if dataset is None else os.path.abspath(dataset)
        return cls(folder, config, spec, attack.classifier, attack.backdoor, target, folder.digests(), place)

    def images(
        self, split: EvaluationSplit = "test"
    ) -> tuple[UInt8[Tensor, "batch channel height width"], Int64[Tensor, " batch"]]:
        """Return 8-bit images and labels of a split that no training saw, on the run's device.

        Raises:
            DataError: the split is none of these, or was trained on, or the data set is missing or corrupt.
            RunFolderError: the data set is not the one that the run was trained on.
        """
        if split not in get_args(EvaluationSplit):
            raise DataError(
                f"split: expected test, validation or defender, which no training saw; found {split!r}"
                f"{did_you_mean(split, get_args(EvaluationSplit))}"
            )
        if split != "test" and not self.config.hold_out:
            raise DataError(
                f"{self.folder.path}: expected a run that held images out; found one that held none out "
                f"(hold_out is false), so that it has no {split} split; train another one, without --no-hold-out"
            )
        part: DataSplit = "test" if split == "test" else "train"
        if self._dataset not in DATASETS and not os.path.exists(self._dataset):
            raise RunFolderError(
                f"{self.folder.path}: expected the images that the run was trained on; found no folder "
                f"{self._dataset!r}; say where they are now, with --dataset"
            )
        data = load_images(self._dataset, part)
        _check_same_data(self.spec, self._digests, part, data, self.folder)
        images, labels = data.images, data.labels
        if split != "test":
            indices = getattr(split_indices(labels, name=self.config.dataset, class_names=data.spec.class_names), split)
            images, labels = images[indices], labels[indices]
        return images.to(self.device), labels.to(self.device)

    def evaluate(
        self, split: EvaluationSplit = "test", *, progress: Callable[[float], None] = lambda share: None
    ) -> dict[str, Any]:
        """Return the three tests of the paper and what else belongs to them; the test set's are written to the folder.

        Args:
            split: test for reporting; validation for choosing settings.
            progress: told the share of the work that is done.

        Returns:
            What ``evaluation.json`` holds: rates as fractions, none where a notion does not apply.

        Raises:
            DataError: the split is none of these, or was trained on, or the data set is missing or corrupt.
            RunFolderError: the folder cannot be written or is in use.
            WriteError: the disk is full, or the folder is gone.
        """
        with self.folder.lock() if split == "test" else nullcontext():
            images, labels = self.images(split)
            result = evaluate(self.classifier, self.backdoor, images, labels, self.spec.classes, progress=progress)
            if split == "test":
                write_json(self.folder.evaluation, result)
        return result

    def suspect(self) -> Suspect:
        """Return the classifier as a defender gets it: without generators, configuration or training data."""
        return Suspect(self.classifier, self.spec.shape, self.spec.classes, last_convolution(self.classifier))

    def defend(
        self,
        defenses: str | Defense | Sequence[str | Defense] = PAPER_DEFENSES,
        settings: DefenseSettings | Settings | None = None,
        *,
        seed: int = 0,
        overwrite: bool = False,
        progress: Callable[[str, float], None] = lambda name, share: None,
    ) -> dict[str, dict[str, Any]]:
        """Run defenses on the classifier, score them from outside, and write the results to the folder.

        Each defense gets the classifier and the ``defender`` split. What it found is then scored on the test set, with
        and without triggers. A result that is in the folder already, with the same settings and seed, is returned
        as it is; the data are not compared. One of a defense of your own is taken for the same only if it is given by
        the place of its code, ``FILE.py:CLASS`` or ``package.module:CLASS``, and this has not changed.

        Args:
            defenses: which ones, by name, or all; defenses of your own, or the places of their code; one may stand
                by itself.
            settings: the settings of the defenses that are named, or of the one that is; none: the defaults.
            seed: of the defenses' random choices.
            overwrite: make all results anew, also where others are there.
            progress: told the defense that is at work and the share of it that is done.

        Returns:
            What each ``defenses/NAME.json`` holds, by name.

        Raises:
            ConfigError: a name is unknown, taken, no name for a file or stands twice, or a setting is out of its range
                or another defense's.
            DefenseError: the classifier or the data are not such that the defense can work with them, or what it
                returns is nothing that a file can hold.
            DataError: the run held no images out, or the data set is missing or corrupt.
            RunFolderError: a result with other settings, or of other code, is there, or the folder cannot be written
                or is in use.
            TrainingError: a defense's fine-tuning did not stay finite.
            WriteError: the disk is full, or the folder is gone.
        """
        check_seed(seed)
        chosen = choose_defenses(defenses, settings)
        keep_freed_memory()

        def kept_ones() -> dict[str, dict[str, Any]]:
            # All are looked at before any work: one that was made otherwise is refused.
            records = {
                defense.name: kept_finding(
                    self.folder.defenses,
                    defense.name,
                    defense.settings,
                    seed,
                    own=defense.name not in DEFENSES,
                    code=defense.source_digest,
                )
                for defense in chosen
                if not overwrite
            }
            return {name: record for name, record in records.items() if record is not None}

        # What is done can be looked at in a folder that cannot be written, and while another process works in it.
        if len(kept := kept_ones()) == len(chosen):
            return {defense.name: kept[defense.name] for defense in chosen}
        with self.folder.lock():
            kept = kept_ones()
            if len(kept) < len(chosen):
                suspect = self.suspect()
                clean = CleanData(*self.images("defender"), split="defender")
                trial = Trial(CleanData(*self.images("test"), split="test"), self.backdoor)
                for defense in chosen:
                    if defense.name not in kept:
                        defense.check(suspect, clean)
            for defense in chosen:
                if defense.name not in kept:
                    kept[defense.name] = self._defend(defense, suspect, clean, trial, seed, progress)
        return {defense.name: kept[defense.name] for defense in chosen}

    def _defend(
        self,
        defense: Defense,
        suspect: Suspect,
        clean: CleanData,
        trial: Trial,
        seed: int,
        progress: Callable[[str, float], None],
    ) -> dict[str, Any]:
        started = time.perf_counter()
        record, arrays = run_and_rate(
            defense, suspect, clean, trial, seed=seed, progress=lambda share: progress(defense.name, share)
        )
        with writing(self.folder.defenses):
            self.folder.defenses.mkdir(exist_ok=True)
            # An old JSON file goes first and the new one comes last: where it is, its own arrays are.
            (self.folder.defenses / f"{defense.name}.json").unlink(missing_ok=True)
        write_arrays(self.folder.defenses / f"{defense.name}.npz", arrays)
        # Before the JSON file, which says that the defense is done: what publishes it reads this row.
        self.folder.note_time(f"defense {defense.name}", time.perf_counter() - started, self.device)
        write_json(self.folder.defenses / f"{defense.name}.json", record)
        progress(defense.name, 1.0)
        return record

    def inspect(
        self,
        *,
        images: int | None = None,
        indices: Sequence[int] | None = None,
        seed: int = 0,
        overwrite: bool = False,
        progress: Callable[[float], None] = lambda share: None,
    ) -> dict[str, Any]:
        """Look at test images with and without their triggers, and write pictures and arrays to the folder.

        Args:
            images: samples of each class, drawn at random; none: one, unless indices are given.
            indices: places in the test set, as ``images("test")`` has them, of the samples in this order, in place of
                drawn ones.
            seed: of the draw.
            overwrite: replace an inspection that is there.
            progress: told the share of the work that is done.

        Returns:
            What ``inspection/inspection.json`` holds.

        Raises:
            ConfigError: fewer than one image of each class is asked for, or more than the test set has; or indices are
                none of its images, name one twice, or stand beside images.
            DataError: the data set is missing or corrupt.
            RunFolderError: an inspection is there, or the folder cannot be written or is in use.
            WriteError: the disk is full, or the folder is gone.
        """
        check_seed(seed)
        if images is not None and indices is not None:
            raise ConfigError("indices: expected images of each class or indices; found both; leave one of them out")
        each = 1 if images is None else images
        if not isinstance(each, int) or isinstance(each, bool):
            raise ConfigError(f"images: expected a whole number, the images of each class; found {images!r}")
        target = self.folder.inspection
        with self.folder.lock():
            if target.exists() and not overwrite:
                raise RunFolderError(
                    f"{target}: expected a run without an inspection; found one; replace it with --overwrite"
                )
            found = inspect_classifier(
                self.classifier,
                last_map(self.classifier),
                self.backdoor,
                *self.images("test"),
                self.spec.class_names,
                each=each,
                indices=indices,
                seed=seed,
                progress=progress,
            )

            def write(folder: Path) -> None:
                for name, picture in found.pictures.items():
                    Image.fromarray(picture).save(folder / f"{name}.png")
                write_arrays(folder / "gallery.npz", found.gallery)
                write_arrays(folder / "grad_cam.npz", found.grad_cam)
                if found.cross_trigger is not None:
                    write_arrays(folder / "cross_trigger.npz", found.cross_trigger)
                write_json(folder / "inspection.json", found.record)

            write_folder(target, write, replace=overwrite)
        return found.record


def _check_same_data(
    expected: DatasetSpec, digests: dict[str, str], part: DataSplit, data: ImageSet, folder: RunFolder
) -> None:
    """Refuse other data than the run was made with: splits drawn from them would hold images that were trained on."""
    found = data.spec
    if (expected.shape, expected.class_names) != (found.shape, found.class_names):
        names = zip(expected.class_names, found.class_names, strict=False)
        renamed = [f", class {then!r} now {now!r}" for then, now in names if then != now][:1]
        raise RunFolderError(
            f"{folder}: expected the data set that the run was trained on, {expected.name} with {expected.classes} "
            f"classes and images of shape {expected.shape}; found {found.classes} classes and shape "
            f"{found.shape}{''.join(renamed)}: the data have changed since; put them back as they were, or train anew"
        )
    if digests.get(part, data.digest) != data.digest:
        raise RunFolderError(
            f"{folder}: expected the images and labels that the run was made with; found others in the {part} part of "
            f"{expected.name}: files were added, removed, renamed or changed since, or another version of Pillow "
            "decodes them differently (environment.json names the run's); put them back as they were, or train anew"
        )


def train(
    config: Config | None,
    output: str | os.PathLike[str],
    *,
    resume: bool = False,
    allow_different_machine: bool = False,
    listener: Listener | None = None,
    evaluating: Callable[[float], None] = lambda share: None,
    processes: Processes | None = None,
) -> Run:
    """Train and evaluate a run, and return it.

    Args:
        config: what to train; none only with ``resume``, where the folder's own configuration is taken.
        output: the run folder; a new one unless ``resume``.
        resume: go on with an interrupted run: from its checkpoint, or from the start where there is none yet. A
            finished run is returned as it is.
        allow_different_machine: resume although library, hardware or thread count differ; the bits may then differ
            from those of a run that was never stopped.
        listener: told how training goes.
        evaluating: told the share of the final evaluation that is done.
        processes: those that train the run together and all call this; none: this one is alone.

    Raises:
        ConfigError: an option is out of its range, or contradicts the data set or the number of processes; or what is
            handed over is no configuration, or no listener.
        DataError: the data set is missing or corrupt.
        DeviceError: the device or precision is not there.
        RunFolderError: the folder exists (without ``resume``), cannot be written, is in use, or belongs to another
            configuration or machine.
        TrainingError: a loss is not finite.
        WriteError: the disk is full, or the folder is gone or read-only; the last checkpoint stays.
    """
    started = time.perf_counter()
    _check_arguments(config, listener)
    import_attacks()
    processes = processes or Processes()
    folder = RunFolder(output)
    resuming = resume and os.path.exists(folder.path / "config.json")
    if resuming:
        config = recorded_config(folder, config)
        if folder.finished:  # nothing is left to do, for which its data set or its GPU would be needed
            check_attack_code(folder, config)
            return Run.load(folder.path, device="cpu" if config.device == "cpu" else "auto")
    elif config is None:
        raise RunFolderError(
            f"output: expected a run folder to resume; found "
            f"{'no config.json in ' if folder.path.is_dir() else 'no folder '}{str(folder)!r}; "
            "name a data set to start a new run"
        )
    else:
        config = _with_absolute_path(config)
    check_config(config)
    check_processes(config, processes.count)
    keep_freed_memory()
    device = processes.device(resolve_device(config.device))
    if not resuming:
        # Before the folder is made; a run that goes on asks its checkpoint first.
        precision = processes.first(resolve_precision(config.precision, device))
        if not folder.finished and _is_run(folder):
            again = resume_command(folder.path)
            raise RunFolderError(
                f"output: expected a folder that does not exist yet; found the unfinished run {str(folder.path)!r}; go "
                f"on with it ({again}), or choose another one"
            )
        check_new_folder(folder.path)
    data = load_images(config.dataset, "train")
    test = load_images(config.dataset, "test")
    if resuming:
        known = folder.spec(), folder.digests()
        _check_same_data(*known, "train", data, folder)
        _check_same_data(*known, "test", test, folder)
    elif data.spec != test.spec:
        raise RunFolderError(
            f"dataset: expected the same classes and shapes in both splits of {config.dataset}; found "
            f"{data.spec.classes} and {test.spec.classes} classes, shapes {data.spec.shape} and {test.spec.shape}; "
            "restore the files"
        )
    chosen, watched = _choose(config, data)
    # All have looked at the folder before one makes it.
    processes.wait()

    # Whatever the caller has switched off.
    with seeded(config.seed, device), torch.inference_mode(mode=False), torch.enable_grad():
        attack = build_attack(config, data.spec)
        check_attack(attack, config, data.spec)
        if not resuming and processes.writes:
            # Nothing is drawn from the test images: more of them may come later.
            RunFolder.create(folder.path, config, data.spec, digests={"train": data.digest})
        with folder.lock() if processes.writes else nullcontext():
            if resuming and folder.finished and processes.count == 1:  # by a process that held the folder until now
                return Run.load(folder.path, device=config.device)
            checkpoint = _resume_from(folder) if resuming else None
            if resuming:
                begun_in = checkpoint.fingerprint.get("precision") if checkpoint else None
                precision = processes.first(resolve_precision(config.precision, device, begun_in=begun_in))
            machine = fingerprint(device, precision, processes.count)
            if checkpoint and not allow_different_machine:
                check_attack_code(folder, config)
                _check_same_machine(folder, checkpoint, machine)
            if processes.writes:
                if resuming:
                    folder.metrics.cut(checkpoint.rows if checkpoint else 0)
                record = describe_environment(device, precision, processes.count)
                if (code := attack_code(config.attack)) is not None:
                    record["attack_code"] = code
                _record_environment(folder, record, checkpoint)
            watched_images, watched_labels = data.images[watched].to(device), data.labels[watched].to(device)

            def validate() -> dict[str, float | None]:
                if not len(watched):
                    return {}
                return three_accuracies(attack.classifier, attack.backdoor, watched_images, watched_labels)

            trainer = Trainer(
                attack=attack,
                config=config,
                images=data.images[chosen].to(device),
                labels=data.labels[chosen].to(device),
                validate=validate,
                device=device,
                precision=precision,
                fingerprint=machine,
                folder=folder,
                listener=listener or Listeners(()),
                processes=processes,
            )
            if processes.writes:
                folder.note_time("preparation", time.perf_counter() - started, device)
            trainer.run(checkpoint)
            if not processes.writes:
                processes.wait()
                return Run.load(folder.path, device=config.device)
            run = _finish(folder, attack, config, data.spec, test, device, evaluating)
            processes.wait()
    return run


def _check_arguments(config: object, listener: object) -> None:
    """Refuse what is no configuration and no listener, before anything is made."""
    if config is not None and not isinstance(config, Config):
        raise ConfigError(
            f"config: expected a Config; found {type(config).__name__} {config!r}; make one with "
            'preset_config("fast", dataset="digits")'
        )
    names = [name for name in vars(Listener) if not name.startswith("_")]
    lacking = [name for name in names if not callable(getattr(listener, name, None))]
    if listener is not None and lacking:
        raise ConfigError(
            f"listener: expected an object with the methods {', '.join(names)}; found {type(listener).__name__} "
            f"without {', '.join(lacking)}; add them"
        )


def _choose(config: Config, data: ImageSet) -> tuple[Int64[Tensor, " train"], Int64[Tensor, " validation"]]:
    """Return the images that train and those that validate, if any; what cannot be had is refused."""
    if config.hold_out:
        splits = split_indices(data.labels, name=config.dataset, class_names=data.spec.class_names)
        chosen, watched = splits.train, splits.validation
    else:
        chosen, watched = torch.arange(len(data.labels)), torch.arange(0)
    if config.train_images is not None:
        if config.train_images > len(chosen):
            raise ConfigError(
                f"train_images: expected at most {len(chosen)}, the images of the training "
                f"{'split' if config.hold_out else 'set'}; found {config.train_images}"
            )
        chosen = subset_indices(data.labels, chosen, config.train_images)
    if config.validation_images is not None and config.validation_images < len(watched):
        watched = subset_indices(data.labels, watched, config.validation_images)
    _check_batches(config, len(chosen))
    check_images(config, len(chosen))
    return chosen, watched


def _finish(
    folder: RunFolder,
    attack: Attack,
    config: Config,
    spec: DatasetSpec,
    test: ImageSet,
    device: torch.device,
    evaluating: Callable[[float], None],
) -> Run:
    """Write the networks and what they are worth on the test set, and return the run."""
    started = time.perf_counter()
    folder.save_modules(attack, config, spec)
    # Read back, so that what is evaluated is what the files hold.
    run = Run.load(folder.path, device=config.device)
    check_kept(attack, run.backdoor, test.images[:8])
    images, labels = test.images.to(device), test.labels.to(device)
    result = evaluate(run.classifier, run.backdoor, images, labels, spec.classes, progress=evaluating)
    folder.note_time("evaluation", time.perf_counter() - started, device)
    folder.metrics.mend()
    # Last, since this file says that the run is finished.
    write_json(folder.evaluation, result)
    return run


def import_official(file: str | os.PathLike[str], output: str | os.PathLike[str]) -> OfficialCheckpoint:
    """Make a run folder from a checkpoint of the authors' release, and return what it held.

    A checkpoint with all three networks becomes a trained run: load it with :meth:`Run.load`. One of the release's
    mask stage becomes an unfinished one: ``train(None, output, resume=True)`` goes on with the joint stage.

    Args:
        file: a ``*.pth.tar`` file of the release; nothing of it is run.
        output: a new run folder.

    Raises:
        CheckpointError: the file is missing, corrupt, or has another layout.
        RunFolderError: the folder exists, or cannot be made.
        WriteError: the disk is full.
    """
    check_new_folder(Path(output))
    official = read_official(Path(file))
    config = official.config
    device = resolve_device(config.device)
    precision = resolve_precision(config.precision, device)
    with seeded(config.seed, torch.device("cpu")):
        attack = build_attack(config, official.spec)
        official.load_into(attack)
        tensors = training_state(attack, torch.Generator().manual_seed(config.seed))
    checkpoint = Checkpoint(
        stage=1,
        epoch=config.joint_stage.epochs if official.complete else 0,
        rows=0,
        run=run_identity(config, official.spec),
        fingerprint=fingerprint(device, precision),
        tensors=tensors,
    )
    record = {"file": Path(file).name, "sha256": official.sha256, "epoch": official.epoch}

    def fill(folder: RunFolder) -> None:
        write_json(folder.environment, {**describe_environment(device, precision), "imported": record})
        save_checkpoint(folder.checkpoint, checkpoint)
        if official.complete:
            folder.save_modules(attack, config, official.spec)

    RunFolder.create(output, config, official.spec, fill)
    return official


def recorded_config(folder: RunFolder, config: Config | None) -> Config:
    """Return the configuration of a run that is there; another one that was asked for is refused.

    Args:
        folder: the run's.
        config: what was asked for; none: whatever is there.

    Raises:
        ConfigError: it is another one.
        RunFolderError: the folder's is missing or corrupt.
    """
    recorded = folder.config()
    if config is not None and (differences := config_differences(recorded, _with_absolute_path(config))):
        listed = "; ".join(f"{key}: {old!r} there, {new!r} here" for key, (old, new) in differences.items())
        raise ConfigError(
            f"{folder}: expected the configuration that the run was started with; found {listed}; "
            "leave these options out to go on, or train into another folder"
        )
    return recorded


def check_attack_code(folder: RunFolder, config: Config) -> None:
    """Refuse a run of an attack of somebody's own whose code was another one, where both are known.

    Args:
        folder: the run's.
        config: its configuration.

    Raises:
        RunFolderError: it was another one, or the record of it is damaged.
    """
    code = attack_code(config.attack)
    if code is None or not os.path.exists(folder.environment):
        return
    record = read_json(folder.environment)
    resumed = record.get("resumed")
    last = resumed[-1] if isinstance(resumed, list) and resumed else record
    if not isinstance(last, dict) or last.get("attack_code", code) != code:
        raise RunFolderError(
            f"{folder}: expected a run of the present code of the attack {config.attack}; found one of other code; put "
            "that back, or train into another folder"
        )


def _with_absolute_path(config: Config) -> Config:
    """Return the configuration with a data set's path made absolute, so that the run can go on from anywhere."""
    if config.dataset in DATASETS or not os.path.exists(config.dataset):
        return config
    return override(config, {"dataset": os.path.abspath(config.dataset)})


def _resume_from(folder: RunFolder) -> Checkpoint | None:
    """Return where to go on, or none where there is no checkpoint yet."""
    if not folder.checkpoint.exists():
        return None
    checkpoint = load_checkpoint(folder.checkpoint)
    if checkpoint.run != folder.identity():
        raise RunFolderError(
            f"{folder.checkpoint}: expected a file with run {folder.identity()!r}, as config.json says; "
            f"found {checkpoint.run!r}: it belongs to another run"
        )
    return checkpoint


def _check_same_machine(folder: RunFolder, checkpoint: Checkpoint, machine: dict[str, str]) -> None:
    # Only the number of processes may be missing, where it is one.
    differences = [
        f"{key}: {checkpoint.fingerprint.get(key, '1')} there, {machine.get(key, '1')} here"
        for key in machine | checkpoint.fingerprint
        if checkpoint.fingerprint.get(key) != machine.get(key)
    ]
    if differences:
        raise RunFolderError(
            f"{folder}: expected the machine that the run was started on, since only there it repeats bit for bit; "
            f"found {'; '.join(differences)}; go on without that promise with --allow-different-machine"
        )


def _record_environment(folder: RunFolder, record: dict[str, Any], checkpoint: Checkpoint | None) -> None:
    """Write what the run is trained on.

    Of a run that goes on the first record stays, and later ones are listed in it. Of one that starts over nothing was
    trained where it was begun: only the command stays, which says what was asked for.
    """
    if os.path.exists(folder.environment):
        first = read_json(folder.environment)
        earlier = first.get("resumed", [])
        if checkpoint is None:
            record["command"] = first.get("command")
        else:
            record = {**first, "resumed": [*(earlier if isinstance(earlier, list) else []), record]}
    write_json(folder.environment, record)


def _is_run(folder: RunFolder) -> bool:
    try:
        folder.config()
    except RunFolderError:
        return False
    return True


def _check_batches(config: Config, images: int) -> None:
    """Refuse batches that the training split cannot fill, before the folder is made."""
    stages = {"joint_stage": config.joint_stage.batch_size}
    if derived_from(config.attack) == "input-aware":
        stages["mask_stage"] = config.mask_stage.batch_size
    for stage, batch_size in stages.items():
        if batch_size > images:
            raise ConfigError(
                f"{stage}.batch_size: expected at most {images}, the images of the training split; found {batch_size}; "
                f"take smaller batches with --{stage.replace('_', '-')}.batch-size"
            )
