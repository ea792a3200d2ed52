"""An attack that somebody else wrote is trained, kept, loaded, and told from others."""

from __future__ import annotations

import inspect
import json
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from robustness.storage import small_config
from torch import nn

from inputaware import Run, own_code, train, write_report
from inputaware.attacks import registry
from inputaware.attacks.badnets import BadNets, ClassifierStage
from inputaware.attacks.base import Attack, Stage, StepLoss
from inputaware.attacks.input_aware import Attacked, InputAware, JointStage
from inputaware.attacks.own import check_attack
from inputaware.attacks.registry import import_attacks, register_attack
from inputaware.cli import main
from inputaware.config.checks import OWN_ATTACKS, check_config
from inputaware.config.fields import Config
from inputaware.config.presets import late_probabilities, preset_config
from inputaware.config.record import config_identity, config_to_dict, fields_that_count, override
from inputaware.data.loader import Batch
from inputaware.data.spec import DatasetSpec, dataset_spec
from inputaware.errors import ConfigError, RunFolderError
from inputaware.runs.files import read_json
from inputaware.runs.folder import RunFolder
from inputaware.runs.results import collect_result
from inputaware.sweeps.worker import run_cell

EXAMPLE = Path(__file__).parents[2] / "examples" / "own_attack.py"


@pytest.fixture(autouse=True)
def _as_in_a_new_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def forget() -> None:
        OWN_ATTACKS.clear()
        registry._CODE.clear()
        own_code._SEEN.clear()
        own_code._IMPORTED.clear()

    monkeypatch.setattr(registry, "_ATTACKS", dict(registry._ATTACKS))
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delenv("INPUTAWARE_ATTACKS", raising=False)
    forget()
    yield
    forget()


def small(attack: str, **options: Any) -> Config:
    return replace(small_config(**options), attack=attack)


def example(folder: Path, monkeypatch: pytest.MonkeyPatch, *names: str) -> Path:
    """Name attacks of a copy of the example in the environment."""
    file = folder / "mine.py"
    shutil.copy(EXAMPLE, file)
    monkeypatch.setenv("INPUTAWARE_ATTACKS", shlex.join(f"{file}:{name}" for name in names))
    return file


@pytest.mark.parametrize(("attack", "networks"), [("blended", 2), ("faint", 3)])
def test_a_run_of_ones_own_attack_is_a_run_like_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], attack: str, networks: int
) -> None:
    example(tmp_path, monkeypatch, "Blended", "Faint")
    folder = tmp_path / "run"
    import_attacks()
    run = train(small(attack), folder)
    assert len(list(folder.glob("*.safetensors"))) == networks
    assert run.backdoor is not None
    assert run.backdoor.universal == (attack == "blended")
    evaluation = read_json(folder / "evaluation.json")
    assert (evaluation["cross_accuracy"] is None) == (attack == "blended")
    rows = RunFolder(folder).metrics.rows()
    assert ("visible" in rows[-1]["losses"]) == (attack == "faint")
    for command in (["evaluate", str(folder)], ["inspect", str(folder), "--images", "1"]):
        assert main(command) == 0
    assert main(["defend", str(folder), "strip", "--strip.overlays", "5"]) == 0
    # A report needs no code.
    _forget_attacks(monkeypatch)
    write_report([folder], tmp_path / "report.html")
    capsys.readouterr()
    assert main(["evaluate", str(folder)]) == 2
    assert capsys.readouterr().err == (
        f"inputaware: attack: expected the code of {attack}, an attack of somebody's own; found none; name it with "
        "INPUTAWARE_ATTACKS=/path/to/FILE.py:CLASS, or in Python with register_attack\n"
    )


def _forget_attacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("INPUTAWARE_ATTACKS")
    for name in OWN_ATTACKS:
        del registry._ATTACKS[name]
    OWN_ATTACKS.clear()


def test_the_command_trains_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "with a space"
    folder.mkdir()
    example(folder, monkeypatch, "Blended")
    monkeypatch.chdir(tmp_path)
    command = ["train", "--dataset", "digits", "--attack", "blended", "--train-images", "100", "--output", "run"]
    assert main([*command, "--joint-stage.epochs", "1", "--joint-stage.batch-size", "50", "--device", "cpu"]) == 0
    assert Run.load("run").config.attack == "blended"


def test_the_blend_is_what_its_strength_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    example(tmp_path, monkeypatch, "Blended")
    import_attacks()
    attack = registry.build_attack(small("blended"), dataset_spec("digits"))
    assert attack.backdoor is not None
    images = torch.rand(3, 1, 28, 28)
    poisoned = attack.backdoor.poison(images, torch.tensor([3, 4, 5]))
    noise = torch.rand((1, 28, 28), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(poisoned.images, 0.8 * images + 0.2 * noise)


def test_changed_code_is_told_from_the_one_a_run_was_made_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = example(tmp_path, monkeypatch, "Blended")
    import_attacks()
    run = train(small("blended"), tmp_path / "run")
    code = read_json(run.folder.environment)["attack_code"]
    assert train(None, tmp_path / "run", resume=True).config == run.config
    file.write_text(file.read_text(encoding="utf-8").replace("strength=0.2", "strength=0.1"), encoding="utf-8")
    own_code._SEEN.clear()
    own_code._IMPORTED.clear()
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]
    cell: dict[str, Any] = {"defenses": [], "overwrite": False, "threads": 1, "allow_different_machine": False}
    with pytest.raises(RunFolderError) as caught:
        run_cell(_plain(small("blended")), str(tmp_path / "run"), **cell, tell=lambda stage, share: None)
    assert str(caught.value) == (
        f"{tmp_path / 'run'}: expected a run of the present code of the attack blended; found one of other code; put "
        "that back, or train into another folder"
    )
    run_cell(_plain(small("blended")), str(tmp_path / "new"), **cell, tell=lambda stage, share: None)
    assert read_json(tmp_path / "new" / "environment.json")["attack_code"] != code


def _plain(config: Config) -> dict[str, Any]:
    return config_to_dict(config)


def test_further_terms_are_part_of_the_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Attacked] = []

    class Stage(JointStage):
        def further_terms(self, attacked: Attacked) -> dict[str, Any]:
            seen.append(attacked)
            return {"constant": torch.tensor(3.0)}

    @register_attack
    class Constant(InputAware):
        name = "constant"
        joint_stage = Stage

    losses = []
    for attack in ("input-aware", "constant"):
        torch.manual_seed(0)
        built = registry.build_attack(small(attack), dataset_spec("digits"))
        stage = list(built.stages())[1]
        images = torch.rand(20, 1, 28, 28, generator=torch.Generator().manual_seed(1))
        built.classifier.eval()
        losses.append(stage.loss(Batch(images, torch.arange(20) % 10, None), 0.0))
    plain, more = losses
    assert more.total.item() == pytest.approx(plain.total.item() + 3.0, rel=1e-6)
    assert more.parts["constant"].item() == 3.0
    (attacked,) = seen
    expected = attacked.images + attacked.masks * (attacked.patterns - attacked.images)
    torch.testing.assert_close(attacked.triggered, expected)
    assert len(attacked.logits) == len(attacked.wanted) == len(attacked.images) == 3
    assert attacked.patterns.requires_grad


def test_a_name_that_is_not_known_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        check_config(small("trojan"))
    assert str(caught.value) == (
        "attack: expected one of input-aware, badnets, none, or the name of one of your own; found 'trojan'; say "
        "where its code is: INPUTAWARE_ATTACKS=/path/to/FILE.py:CLASS"
    )
    with pytest.raises(ConfigError, match=r"found 'badnet'; did you mean badnets\? Or say where its code is: "):
        check_config(small("badnet"))
    with pytest.raises(ConfigError, match=r"found 'mine\.py:Blended'; say where its code is"):
        check_config(small("mine.py:Blended"))


def test_what_is_no_attack_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Beartype would be first to say it of another type.
    with pytest.raises(ConfigError) as caught:
        inspect.unwrap(register_attack)(int)  # type: ignore[type-var]
    assert str(caught.value) == "attack: expected a class derived from Attack; found <class 'int'>"

    class Unfinished(Attack):
        name = "unfinished"

    with pytest.raises(ConfigError) as caught:
        register_attack(Unfinished)
    assert str(caught.value) == (
        "attack: expected a class with __init__ and stages; found Unfinished without __init__, stages; write it"
    )
    for name in ("badnets", "My attack", 3, None):
        body = {} if name is None else {"name": name}
        with pytest.raises(ConfigError) as caught:
            register_attack(type("Mine", (BadNets,), body))
        assert str(caught.value) == (
            "attack: expected a name of its own in Mine, in small letters, digits and dashes, that none of "
            f'input-aware, badnets, none has; found {name!r}; write name = "my-attack" into the class'
        )
    file = tmp_path / "broken.py"
    file.write_text("from inputaware.attacks.badnets import BadNets\nmade = 3\n", encoding="utf-8")
    monkeypatch.setenv("INPUTAWARE_ATTACKS", f"{file}:made")
    with pytest.raises(ConfigError) as caught:
        import_attacks()
    assert str(caught.value) == (
        f"attack: expected a class derived from Attack, or an object of one, in {file}:made; found 'made', which is "
        "something else"
    )
    file.write_text(
        "from inputaware import preset_config\nfrom inputaware.attacks.badnets import BadNets\n"
        "from inputaware.data.spec import DatasetSpec, dataset_spec\n"
        'made = BadNets(preset_config("fast", dataset="digits"), dataset_spec("digits"))\n',
        encoding="utf-8",
    )
    with pytest.raises(ConfigError) as caught:
        import_attacks()
    assert str(caught.value) == f"attack: expected a class in {file}:made; found an object; name its class"


def test_it_may_read_all_of_a_configuration() -> None:
    mine = preset_config("fast", dataset="digits", attack="mine", patch="white")
    assert set(fields_that_count(mine)) >= {"patch", "mask_stage.epochs", "joint_stage.lambda_div"}
    assert config_identity(mine)["patch"] == "white"
    assert "patch" not in config_identity(override(mine, {"attack": "none"}))


def test_the_code_of_its_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (EXAMPLE.parents[1] / "docs" / "guide" / "own-attack.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```$", page, re.M | re.S)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("inputaware.preset_config", lambda preset, **options: small(options["attack"]))
    names: dict[str, Any] = {"__name__": "page"}
    exec(code, names)
    assert names["run"].config.attack == "quiet"
    assert "quiet" in RunFolder("runs/quiet").metrics.rows()[-1]["losses"]


def test_only_absolute_paths_and_names_of_their_own_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A file of that name may lie in a run folder that somebody sent.
    monkeypatch.chdir(tmp_path)
    shutil.copy(EXAMPLE, tmp_path / "mine.py")
    monkeypatch.setenv("INPUTAWARE_ATTACKS", "mine.py:Blended")
    with pytest.raises(ConfigError) as caught:
        import_attacks()
    assert str(caught.value) == (
        "INPUTAWARE_ATTACKS: expected an absolute path; found 'mine.py', which is another file in each folder; say "
        f"{tmp_path / 'mine.py'}"
    )
    monkeypatch.setenv("INPUTAWARE_ATTACKS", "/my folder/mine.py:Blended")
    with pytest.raises(ConfigError) as caught:
        import_attacks()
    assert str(caught.value) == (
        "INPUTAWARE_ATTACKS: expected /path/to/FILE.py:CLASS, or module:CLASS; found '/my'; a path with spaces stands "
        "in quotation marks of its own"
    )
    monkeypatch.setenv("INPUTAWARE_ATTACKS", "'mine.py:Blended")
    with pytest.raises(ConfigError) as caught:
        import_attacks()
    assert str(caught.value) == (
        'INPUTAWARE_ATTACKS: expected words of a shell; found "\'mine.py:Blended": No closing quotation; mend it'
    )
    shutil.copy(EXAMPLE, tmp_path / "other.py")
    first, second = (f"{tmp_path / name}:Blended" for name in ("mine.py", "other.py"))
    monkeypatch.setenv("INPUTAWARE_ATTACKS", f"{first} {first} {second}")
    with pytest.raises(ConfigError) as caught:
        import_attacks()
    assert str(caught.value) == (
        f"INPUTAWARE_ATTACKS: expected attacks with names of their own; found 'blended' in {first} and in {second}; "
        "rename one"
    )


def test_what_the_code_prints_is_no_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = example(tmp_path, monkeypatch, "Blended")
    file.write_text(file.read_text(encoding="utf-8") + 'print("hello")\n', encoding="utf-8")
    train(small("blended"), tmp_path / "run")
    capsys.readouterr()
    own_code._IMPORTED.clear()
    del registry._ATTACKS["blended"]
    assert main(["evaluate", str(tmp_path / "run"), "--json"]) == 0
    found = capsys.readouterr()
    assert json.loads(found.out)["test_images"] == 360
    assert "hello" in found.err
    # Help and reports need no code.
    monkeypatch.setenv("INPUTAWARE_ATTACKS", "/none.py:Mine")
    assert main(["report", str(tmp_path / "run"), "--output", str(tmp_path / "report.html")]) == 0


class Shade(nn.Module):
    """A trigger that follows from an argument, with what may be wrong with it."""

    def __init__(
        self, *, lasting: bool = True, plain: bool = False, looking: bool = False, strength: float = 0.3
    ) -> None:
        super().__init__()
        self.register_buffer("places", torch.arange(3))  # no numbers whose precision pixels need
        self.register_buffer("strength", torch.full((1, 1, 1, 1), strength), persistent=lasting)
        if looking:
            self.get_buffer("strength").numpy()
        self.plain = torch.rand(1, device="cpu") if plain else 0.5

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mask = self.get_buffer("strength").expand(len(images), 1, *images.shape[2:])
        return mask, torch.ones_like(images) * self.plain


_KEPT = (
    "a run folder keeps the parameters and buffers of modules, and nothing else: put there all that triggers and "
    "logits are made of"
)


@pytest.mark.parametrize(
    ("patch", "message"),
    [
        (
            {"lasting": False},
            r"Mine: expected an attack that can be read from files; found \w+: .*; "
            f"{_KEPT}",
        ),
        (
            {"plain": True},
            f"Mine: expected the same triggers and logits after it is read from files; found others; {_KEPT}",
        ),
        (
            {"looking": True},
            r"Mine: expected an __init__ that can be called without memory, on torch's device meta; found \w+: .*; "
            'look at no numbers there, and make those that you need with device="cpu"',
        ),
        (
            {"strength": -torch.inf},
            r"Mine: expected networks of finite numbers; found others in trigger\.strength; make them where they "
            "are used",
        ),
    ],
)
def test_what_a_folder_would_not_keep_is_refused_before_training(
    tmp_path: Path, patch: dict[str, Any], message: str
) -> None:
    @register_attack
    class Mine(BadNets):
        name = "mine"

        def make_patch(self) -> nn.Module:
            return Shade(**patch)

    with pytest.raises(ConfigError) as caught:
        train(small("mine"), tmp_path / "run")
    assert re.fullmatch(message, str(caught.value))
    assert not (tmp_path / "run").exists()


def test_an_attack_with_other_parts_than_it_has_to_have_is_refused(tmp_path: Path) -> None:
    def refused(kind: type[Attack]) -> str:
        register_attack(kind)
        with pytest.raises(ConfigError) as caught:
            train(small("mine"), tmp_path / "run")
        assert not (tmp_path / "run").exists()
        return str(caught.value)

    class Mine(BadNets):
        name = "mine"

        def __init__(self, config: Config, spec: DatasetSpec) -> None:
            super().__init__(config, spec)
            self.change()

        def change(self) -> None:
            del self.modules["classifier"]

    assert refused(Mine) == (
        "Mine: expected modules, a dictionary of networks by name, with a classifier; found ['trigger']; keep the "
        "classifier there"
    )
    Mine.change = lambda self: self.modules.update({"../evil": nn.Linear(1, 1)})  # type: ignore[method-assign]
    assert refused(Mine) == (
        "Mine: expected networks, with names of small letters, digits and underscores, each a file's; found Linear as "
        "'../evil'; rename it, or take it out"
    )
    Mine.change = lambda self: setattr(self, "backdoor", None)  # type: ignore[method-assign]
    assert refused(Mine) == (
        "Mine: expected a backdoor, of a class derived from Backdoor; found None; a clean model is trained with the "
        "attack none"
    )
    Mine.change = lambda self: self.modules.update({"classifier": nn.Flatten()})  # type: ignore[method-assign]
    assert refused(Mine) == (
        "Mine: expected 10 logits for each image; found an answer of shape (2, 784) for two; mend the classifier"
    )


def _shading(stage: type[ClassifierStage]) -> None:
    """Register an attack whose trigger is a shade and whose stage is of a class."""

    @register_attack
    class Mine(BadNets):
        name = "mine"

        def make_patch(self) -> nn.Module:
            return Shade()

        def stages(self) -> Iterator[Stage]:
            yield stage(self.classifier, self.patch, self.spec, self.config)


def test_a_trigger_that_training_changes_elsewhere_is_told(tmp_path: Path) -> None:
    class Grows(ClassifierStage):
        def loss(self, batch: Batch, progress: float) -> StepLoss:
            self.patch.plain = progress  # type: ignore[union-attr,assignment]
            return super().loss(batch, progress)

    _shading(Grows)

    with pytest.raises(ConfigError) as caught:
        train(small("mine"), tmp_path / "run")
    assert str(caught.value) == (
        "Mine: expected the same triggers after training as of the files; found others: training has changed something "
        "that is in no parameter or buffer of modules; keep it there, and train again"
    )
    assert not RunFolder(tmp_path / "run").finished


def test_the_check_before_training_changes_nothing() -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(1)
            self.frozen = nn.Dropout(0.5).eval()

        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return torch.full_like(images, 0.2), self.frozen(self.norm(images)).sigmoid()

    @register_attack
    class Mine(BadNets):
        name = "mine"

        def make_patch(self) -> nn.Module:
            return Noisy()

    attack = registry.build_attack(small("mine"), dataset_spec("digits"))
    before = {key: value.clone() for key, value in attack.modules["trigger"].state_dict().items()}
    drawn = torch.get_rng_state()
    check_attack(attack, small("mine"), dataset_spec("digits"))
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(torch.equal(before[key], value) for key, value in attack.modules["trigger"].state_dict().items())
    trigger = attack.modules["trigger"]
    assert [part.training for part in trigger.modules()] == [True, True, False]


class Named(ClassifierStage):
    """A stage with another name."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.name = "third act"


def test_a_network_and_a_stage_of_ones_own_are_swept_and_reported(tmp_path: Path) -> None:
    _shading(Named)
    run = train(small("mine", precision="bf16"), tmp_path / "run")
    cell: dict[str, Any] = {"defenses": [], "overwrite": False, "threads": 1, "allow_different_machine": False}
    run_cell(config_to_dict(small("mine")), str(tmp_path / "cell"), **cell, tell=lambda stage, share: None)
    result = collect_result(tmp_path / "cell", run.config)
    assert len(result["validation_by_epoch"]["clean_accuracy"]) == 2
    write_report([tmp_path / "run", tmp_path / "cell"], tmp_path / "report.html")


def test_terms_keep_out_of_each_others_names() -> None:
    with pytest.raises(ConfigError) as caught:
        StepLoss(torch.zeros(()), {"total": torch.zeros(())})
    assert str(caught.value) == "loss: expected parts with names of their own; found one called 'total' or nothing"

    class Stage(JointStage):
        def further_terms(self, attacked: Attacked) -> dict[str, Any]:
            return {"diversity": attacked.patterns.mean()}

    @register_attack
    class Mine(InputAware):
        name = "mine"
        joint_stage = Stage

    stage = list(registry.build_attack(small("mine"), dataset_spec("digits")).stages())[1]
    with pytest.raises(ConfigError) as caught:
        stage.loss(Batch(torch.rand(20, 1, 28, 28), torch.arange(20) % 10, None), 0.0)
    assert str(caught.value) == "further_terms: expected terms with names of their own; found diversity; rename it"


def test_what_ours_are_checked_for_those_derived_from_them_are_too() -> None:
    @register_attack
    class Patched(BadNets):
        name = "patched"

    @register_attack
    class Aware(InputAware):
        name = "aware"

    joint = {"attack_probability": 0.9, "cross_probability": 0.9, "initial_attack_probability": None}
    with pytest.raises(ConfigError, match="a sum of at most 1"):
        check_config(small("aware", joint_stage={**joint, "initial_cross_probability": None}))
    with pytest.raises(ConfigError, match="at least one image in a batch of 50"):
        check_config(small("patched", joint_stage={"attack_probability": 0.001, "batch_size": 50}))
    changed = {"joint_stage": {"attack_probability": 0.3}}
    assert late_probabilities(small("patched", **changed)) == []
    assert len(late_probabilities(small("aware", **changed))) == 1
