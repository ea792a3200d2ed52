"""Attacks by name, and target classes that a data set has."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from inputaware.attacks.badnets import BadNets, Clean
from inputaware.attacks.base import Attack
from inputaware.attacks.input_aware import InputAware
from inputaware.attacks.registry import build_attack
from inputaware.config.fields import AttackName
from inputaware.config.presets import preset_config
from inputaware.data.spec import DatasetSpec
from inputaware.errors import ConfigError


@pytest.mark.parametrize(("name", "kind"), [("input-aware", InputAware), ("badnets", BadNets), ("none", Clean)])
def test_each_name_gives_its_attack(grey: DatasetSpec, name: AttackName, kind: type[Attack]) -> None:
    attack = build_attack(preset_config("fast", dataset="digits", attack=name, target_class=9), grey)
    assert type(attack) is kind
    assert attack.classifier is attack.modules["classifier"]
    assert (attack.backdoor is None) == (name == "none")
    if attack.backdoor is not None:
        assert (attack.backdoor.shape, attack.backdoor.classes) == (grey.shape, 10)
        assert attack.backdoor.universal == (name == "badnets")
        assert attack.backdoor.targets(torch.arange(10)).tolist() == [9] * 10


@pytest.mark.parametrize("name", ["input-aware", "badnets", "none"])
@pytest.mark.parametrize("target_class", [10, 42])
def test_a_target_class_that_the_data_lack_is_refused(grey: DatasetSpec, name: AttackName, target_class: int) -> None:
    config = preset_config("fast", dataset="digits", attack=name, target_class=target_class)
    with pytest.raises(ConfigError) as caught:
        build_attack(config, grey)
    assert str(caught.value) == f"target_class: expected a class from 0 to 9; found {target_class}"


def test_an_architecture_that_does_not_fit_is_refused(colour: DatasetSpec) -> None:
    config = preset_config("fast", dataset="gtsrb", attack="none", model={"architecture": "mnist-cnn"})
    with pytest.raises(ConfigError) as caught:
        build_attack(config, colour)
    assert str(caught.value) == (
        "model.architecture: expected images of shape 1x28x28 for mnist-cnn; found 3x32x32; take preact-resnet18"
    )


def test_the_same_seed_gives_the_same_weights(grey: DatasetSpec) -> None:
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        attack = build_attack(preset_config("fast", dataset="digits"), grey)
        states.append(nn.ModuleDict(attack.modules).state_dict())
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
