"""Built-in defenses by their names."""

from __future__ import annotations

from typing import Any

import pytest

from inputaware.defenses.registry import build_defense, is_built_in
from inputaware.defenses.settings import DEFENSES, DefenseSettings, FinePruningSettings, StripSettings
from inputaware.errors import ConfigError


def test_each_name_has_its_defense_and_its_settings() -> None:
    settings = DefenseSettings(strip=StripSettings(overlays=7))
    made = [build_defense(name, settings) for name in DEFENSES]
    assert [defense.name for defense in made] == list(DEFENSES)
    assert made[1].settings == settings.strip
    assert all(is_built_in(type(defense)) for defense in made)
    assert not is_built_in(type("Mine", (type(made[1]),), {}))


def test_a_defense_takes_its_own_settings() -> None:
    own = StripSettings(overlays=7)
    assert build_defense("strip", own).settings == own
    assert build_defense("strip").settings == StripSettings()


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("among_others", [False, True])
@pytest.mark.parametrize("wrong", [{"overlays": 7}, FinePruningSettings()], ids=["dictionary", "another's"])
def test_settings_of_another_defense_are_refused(wrong: Any, among_others: bool) -> None:
    with pytest.raises(ConfigError) as error:
        build_defense("strip", DefenseSettings(strip=wrong) if among_others else wrong)
    assert str(error.value) == (
        f"strip: expected its settings, an object of StripSettings; found {wrong!r}; "
        "give StripSettings(...), or DefenseSettings(strip=StripSettings(...)) where there are several defenses"
    )


@pytest.mark.usefixtures("unchecked")
def test_an_unknown_name_is_refused() -> None:
    unknown: Any = "strap"
    with pytest.raises(ConfigError) as error:
        build_defense(unknown)
    assert str(error.value) == (f"defense: expected one of {', '.join(DEFENSES)}; found 'strap'; did you mean strip?")
