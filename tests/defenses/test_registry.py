"""Built-in defenses by their names."""

from __future__ import annotations

from typing import Any

import pytest

from inputaware.defenses.registry import build_defense, is_built_in
from inputaware.defenses.settings import DEFENSES, DefenseSettings, StripSettings
from inputaware.errors import ConfigError


def test_each_name_has_its_defense_and_its_settings() -> None:
    settings = DefenseSettings(strip=StripSettings(overlays=7))
    made = [build_defense(name, settings) for name in DEFENSES]
    assert [defense.name for defense in made] == list(DEFENSES)
    assert made[1].settings == settings.strip
    assert all(is_built_in(type(defense)) for defense in made)
    assert not is_built_in(type("Mine", (type(made[1]),), {}))


@pytest.mark.usefixtures("unchecked")
def test_an_unknown_name_is_refused() -> None:
    unknown: Any = "strap"
    with pytest.raises(ConfigError) as error:
        build_defense(unknown)
    assert str(error.value) == (
        "defense: expected one of neural-cleanse, strip, fine-pruning, image-regularization; found 'strap'"
    )
