"""What a sweep runs: a grid of configurations, read from a file and from options, checked before anything starts."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from reprlib import repr as short
from typing import TYPE_CHECKING, Any

from inputaware.config.checks import check_config
from inputaware.config.datasets import DATASETS
from inputaware.config.fields import Config
from inputaware.config.presets import preset_config
from inputaware.config.record import config_identity, fields_that_count, override
from inputaware.data.spec import dataset_spec
from inputaware.defenses.settings import DEFENSES, DefenseSettings, Settings, expand_all, field_of
from inputaware.errors import ConfigError

if TYPE_CHECKING:
    from inputaware.defenses.own import OwnDefense

__all__ = ["Asked", "Cell", "Sweep", "parse_option", "parse_options", "plan_sweep", "read_sweep"]

_KEYS = ("base", "runs", "defenses", "defense_settings")

_DEEPEST = 3
"""Parts that lie in each other."""

_MOST_NAMES = 1000
"""Names in a part of a file, those that it merges included."""


@dataclass(frozen=True)
class Cell:
    """One run of a sweep.

    Attributes:
        name: of its run folder. It follows from the configuration alone, so that a sweep that grows, or another one
            into the same folder, finds what is done.
        config: the run's configuration.
    """

    name: str
    config: Config


@dataclass(frozen=True)
class Asked:
    """A defense that each run meets.

    Attributes:
        reference: its name, or ``FILE.py:CLASS`` or ``module:CLASS`` of one that somebody else wrote, the file by its
            absolute path.
        name: what its result is called.
        settings: all of them.
        own: whether somebody else wrote it.
        code: a digest of its code, if so.
    """

    reference: str
    name: str
    settings: Settings
    own: bool = False
    code: str | None = None


@dataclass(frozen=True)
class Sweep:
    """Everything that a sweep is to run.

    Attributes:
        cells: the runs, each once: of configurations that differ in what their attack does not read, the first.
        defenses: which defenses each run meets when it is trained; their seed is the run's.
    """

    cells: tuple[Cell, ...]
    defenses: tuple[Asked, ...] = ()


def read_sweep(path: Path, defenses: Sequence[str] = ()) -> dict[str, Any]:
    """Return what a sweep's YAML file says (JSON without tabs is YAML too).

    Decimal numbers are those of YAML 1.2: ``1e-4`` is one, ``010`` is ten, and ``1:30`` is text.

    Args:
        path: of the file.
        defenses: that stand in place of the file's, if any.

    Raises:
        ConfigError: the file is missing or is not YAML, a name stands twice in a part, it names code for a defense, or
            PyYAML is not installed.
    """
    try:
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        found = getattr(error, "strerror", None) or error
        raise ConfigError(f"{path}: expected a sweep's YAML file; found: {found}") from None
    try:
        import yaml
    except ImportError:
        raise ConfigError(
            "sweep: expected PyYAML, of the extra 'cluster', to read a file; found none; "
            "in the checkout: pip install -c constraints.txt -e '.[cluster]'"
        ) from None
    try:
        description = yaml.load(content.decode(), _strict_loader())
    except (
        yaml.YAMLError,
        ArithmeticError,
        AttributeError,
        LookupError,
        RecursionError,
        TypeError,
        ValueError,
    ) as error:
        # All but the first are PyYAML's ways to say that a value does not fit the type that the file gives it.
        raise ConfigError(f"{path}: expected YAML; found: {' '.join(str(error).split())}") from None
    if not isinstance(description, dict):
        raise ConfigError(f"{path}: expected {', '.join(_KEYS)} by name; found {type(description).__name__}")
    if defenses:
        return {**description, "defenses": list(defenses)}
    named = description.get("defenses")
    for name in named if isinstance(named, list) else [named]:
        if isinstance(name, str) and ":" in name:
            raise ConfigError(
                f"{path}: expected names of built-in defenses, since no file may have code run; found {short(name)}; "
                "name a defense of your own behind --defenses"
            )
    return description


def _strict_loader() -> type[Any]:
    """Return YAML's safe loader, without the ways in which it takes a mistake for something else."""
    import yaml

    class StrictLoader(yaml.SafeLoader):  # type: ignore[misc]
        """Refuses a name that stands twice, of which the last would count, and a part that is a part of itself."""

        def __init__(self, stream: str) -> None:
            super().__init__(stream)
            self.deep_construct = True  # all of a part before the part, which finds one that holds itself

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            """Return a mapping."""
            names = set()
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode):
                    if key.value in names:
                        raise yaml.constructor.ConstructorError(
                            None, None, f"the name {key.value[:60]!r} twice", key.start_mark
                        )
                    names.add(key.value)
            mapping: dict[Any, Any] = super().construct_mapping(node, deep)
            return mapping

        def flatten_mapping(self, node: Any) -> None:
            """Merge what a part names with ``<<``, which doubles with each level where it names the same twice."""
            super().flatten_mapping(node)
            if len(node.value) > _MOST_NAMES:
                raise yaml.constructor.ConstructorError(
                    None, None, f"a part with more than {_MOST_NAMES} names", node.start_mark
                )

    # PyYAML's own patterns are of YAML 1.1, where 010 is eight, 1:30 is ninety and 1e-4 is text.
    whole, broken = (f"tag:yaml.org,2002:{kind}" for kind in ("int", "float"))
    StrictLoader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag not in (whole, broken)]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    for tag, pattern in (
        (whole, r"^[-+]?[0-9]+$"),
        (broken, r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$|^[-+]?\.inf$|^\.nan$"),
    ):
        StrictLoader.add_implicit_resolver(tag, re.compile(pattern), list("-+0123456789."))
    StrictLoader.add_constructor(whole, lambda loader, node: int(loader.construct_scalar(node)))
    return StrictLoader


def parse_options(texts: Sequence[str], given: Collection[str]) -> dict[str, list[Any]]:
    """Return fields and values of options as :func:`parse_option` reads them.

    Args:
        texts: the options.
        given: fields that have values already.

    Raises:
        ConfigError: an option cannot be read, or a field has values already.
    """
    found: dict[str, list[Any]] = {}
    for text in texts:
        name, values = parse_option(text)
        if name in found or name in given:
            raise ConfigError(
                f"set: expected each field in one option; found {name!r} once more; give all its values together"
            )
        found[name] = values
    return found


def parse_option(text: str) -> tuple[str, list[Any]]:
    """Return the field and the values of an option ``FIELD=VALUE`` or ``FIELD=VALUE,VALUE,...``.

    Values are read as JSON where they are JSON, and as text elsewhere.

    Raises:
        ConfigError: there is no field or no value.
    """
    name, equals, values = text.partition("=")
    if not name or not equals or not values:
        raise ConfigError(f"set: expected FIELD=VALUE or FIELD=VALUE,VALUE,...; found {text!r}")
    field = name.replace("-", "_")
    try:
        # As one list: so that values that are lists themselves, or quoted, keep their commas.
        return field, json.loads(f"[{values}]")
    except ValueError:
        return field, [_plain(value, field) for value in re.split(r",(?![^\[]*\])", values)]


def _plain(text: str, field: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        # "none" is no value, but for the attack.
        return None if text == "none" and field != "attack" else text


def plan_sweep(description: Mapping[str, Any], axes: Mapping[str, Sequence[Any]]) -> Sweep:
    """Return the sweep that a description asks for, with every configuration checked.

    Args:
        description: ``base``: fields of all runs; ``runs``: a list of grids, each with fields of its own;
            ``defenses``: names, ``all``, or ``FILE.py:CLASS`` of one that somebody else wrote, whose code is run;
            ``defense_settings``: their settings by name. A field is a name with dots or a nested part, its
            value one value or a list of values to try; a value that is a list itself stands in a second list.
        axes: fields with their values from the command line, which replace the description's; those of a defense that
            is asked for are its settings (``strip.overlays``), and have one value.

    Raises:
        ConfigError: a field is unknown, a value is out of its range or of the wrong type, or nothing is to be run.
    """
    if os.environ.get("INPUTAWARE_ATTACKS"):
        from inputaware.attacks.registry import import_attacks

        import_attacks()
    for key in description:
        if key not in _KEYS:
            raise ConfigError(
                f"sweep: expected one of {', '.join(_KEYS)}; found {key!r}; fields of the runs stand under base"
            )
    asked, axes = _defenses(description.get("defenses", []), _part(description, "defense_settings"), axes)
    base = _flat(_part(description, "base"))
    grids = description.get("runs", [{}])
    if not isinstance(grids, list) or not grids:
        raise ConfigError(f"runs: expected a list of one or more grids; found {short(grids)}")
    cells: dict[str, Cell] = {}
    # By what a run's results depend on: a control of another target is the same training once more.
    for number, grid in enumerate(grids, 1):
        if not isinstance(grid, dict):
            raise ConfigError(f"runs: expected fields by name in each grid; found {short(grid)} as number {number}")
        try:
            for config in _configurations({**base, **_flat(grid), **axes}):
                if asked and not config.hold_out:
                    raise ConfigError(
                        "hold_out: expected true in a sweep with defenses, which are given images that were held out; "
                        "found false; leave out one or the other"
                    )
                cells.setdefault(json.dumps(fields_that_count(config), sort_keys=True), Cell(_name(config), config))
        except ConfigError as error:
            if len(grids) == 1:
                raise
            raise ConfigError(f"grid {number} of runs: {error}") from None
    return Sweep(tuple(cells.values()), asked)


def _part(description: Mapping[str, Any], key: str) -> dict[str, Any]:
    part = description.get(key, {})
    if not isinstance(part, dict):
        raise ConfigError(f"{key}: expected fields by name; found {short(part)}")
    return part


def _flat(part: Mapping[str, Any], prefix: str = "", *, levels: float = math.inf) -> dict[str, Any]:
    """Return nested fields by dotted name, as Python spells it; a field in two spellings is refused.

    Args:
        part: the fields.
        prefix: of their names.
        levels: how deep fields lie; what lies deeper is a value.
    """
    found: dict[str, Any] = {}
    if prefix.count(".") > _DEEPEST:  # parts that name each other twice double with each level
        raise ConfigError(f"{prefix.rstrip('.')}: expected parts at most {_DEEPEST} deep; found more")
    for key, value in part.items():
        name = f"{prefix}{key}".replace("-", "_")
        nested = isinstance(value, dict) and levels > 1
        for field_name, values in (_flat(value, f"{name}.", levels=levels - 1) if nested else {name: value}).items():
            if field_name in found:
                raise ConfigError(
                    f"{field_name}: expected it in one spelling; found it nested and with dots, or with - and _; "
                    "take one of them out"
                )
            found[field_name] = values
    return found


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Return fields by dotted name as nested parts."""
    found: dict[str, Any] = {}
    for name, value in sorted(flat.items()):
        *parts, last = name.split(".")
        place = found
        for part in parts:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                raise ConfigError(f"{name}: expected a field; found a value for {part!r}, which it is a part of")
        place[last] = value
    return found


def _configurations(axes: Mapping[str, Any]) -> Iterable[Config]:
    """Yield the configuration of each point of a grid."""
    if "dataset" not in axes:
        raise ConfigError(
            "dataset: expected digits, mnist, cifar10, gtsrb or the path of a folder in every grid; found none"
        )
    values = {name: value if isinstance(value, list | tuple) else [value] for name, value in axes.items()}
    for name, choices in values.items():
        if not choices:
            raise ConfigError(f"{name}: expected at least one value; found none")
    for point in itertools.product(*values.values()):
        options = dict(zip(values, point, strict=True))
        dataset, preset, target = (
            options.pop(name, default) for name, default in (("dataset", None), ("preset", "fast"), ("target", None))
        )
        if not isinstance(dataset, str):
            raise ConfigError(f"dataset: expected text; found {dataset!r}")
        if dataset not in DATASETS and os.path.exists(dataset):
            dataset = os.path.abspath(dataset)
        chosen = {} if target is None else {"target": target}
        config = override(preset_config(preset, dataset=dataset, **chosen), _nested(options))
        check_config(config)
        if dataset in DATASETS:
            dataset_spec(dataset).check_target_class(config.target_class)
        yield config


def _name(config: Config) -> str:
    """Return a name that a person can read, made unique by a digest of the whole configuration."""
    digest = hashlib.sha256(json.dumps(config_identity(config), sort_keys=True).encode()).hexdigest()[:8]
    dataset = re.sub(r"[^A-Za-z0-9_.-]+", "-", os.path.basename(config.dataset))[:40].strip("-.") or "images"
    target = [] if config.attack == "none" else [config.target]
    return "-".join([dataset, config.attack, *target, config.preset, f"seed{config.seed}", digest])


def _defenses(
    names: Any, changes: Mapping[str, Any], axes: Mapping[str, Sequence[Any]]
) -> tuple[tuple[Asked, ...], dict[str, Sequence[Any]]]:
    """Return the defenses that are named, with their settings, and the axes that are none of these.

    Code that somebody else wrote is run.

    Args:
        names: of the defenses, or the places of their code.
        changes: their settings in the description.
        axes: of the command line.
    """
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, list | tuple):
        raise ConfigError(f"defenses: expected a list of names, or all; found {short(names)}")
    references = list(dict.fromkeys(expand_all(names)))
    for name in references:
        if not isinstance(name, str) or (name not in DEFENSES and ":" not in name):
            raise ConfigError(
                f"defenses: expected all, some of {', '.join(DEFENSES)}, or FILE.py:CLASS, a class of your own; "
                f"found {short(name)}"
            )
    start, own = DefenseSettings(), {}
    if places := [name for name in references if name not in DEFENSES]:
        from inputaware.defenses.own import import_defenses, settings_with

        own = import_defenses(places)
        start = settings_with(list(own.values()))
    # A field of the runs that is called like a defense of one's own is the runs'.
    parts = {part.name for part in fields(start)} - {part.name for part in fields(Config)}
    # A setting may be a dictionary: what is in it is no field.
    given = _settings(start, "defense_settings", _flat(changes, levels=2))
    options = {name: values for name, values in axes.items() if "." in name and name.partition(".")[0] in parts}
    given = _settings(given, "set", {name: _only(given, name, values) for name, values in options.items()})
    asked: dict[str, Asked] = {}
    for name in references:
        one = _own(own[name], given) if name in own else Asked(name, name, getattr(given, field_of(name)))
        if one.name in asked:
            raise ConfigError(f"defenses: expected each name once; found two of {one.name!r}")
        asked[one.name] = one
    for name in options:
        if name.partition(".")[0] not in map(field_of, asked):
            raise ConfigError(
                f"set: expected settings of a defense that the sweep runs; found {name!r}; name the defense behind "
                "--defenses"
            )
    return tuple(asked.values()), {name: values for name, values in axes.items() if name not in options}


def _settings(start: DefenseSettings, place: str, changes: Mapping[str, Any]) -> DefenseSettings:
    """Return settings with some others, checked; a mistake is one of the place."""
    try:
        settings = override(start, _nested(changes))
        for part in fields(settings):
            getattr(settings, part.name).check()
    except ConfigError as error:
        raise ConfigError(f"{place}: {error}") from None
    return settings


def _only(settings: DefenseSettings, name: str, values: Sequence[Any]) -> Any:
    """Return the one value of an option that is no axis; of a setting that is a list itself another way is told."""
    if len(values) != 1:
        part, _, setting = name.partition(".")
        several = isinstance(getattr(getattr(settings, part), setting, None), tuple | list)
        raise ConfigError(
            f"set: expected one value of {name}, since each run meets a defense once; found {len(values)}"
            + (f"; write a list as {name}=[VALUE,VALUE]" if several else "")
        )
    return values[0]


def _own(own: OwnDefense, settings: DefenseSettings) -> Asked:
    """Return a defense that somebody else wrote with the settings that are asked for, if any are."""
    made = own.made.name
    defense = own.with_settings(getattr(settings, field_of(made), own.made.settings))
    place, _, name = own.reference.rpartition(":")
    reference = f"{os.path.abspath(place)}:{name}" if place.endswith(".py") else own.reference
    return Asked(reference, made, defense.settings, own=True, code=defense.source_digest)
