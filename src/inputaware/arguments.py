"""A command line's arguments, read as one of the commands, with messages that say what was expected."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import math
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, fields, is_dataclass, replace
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast, get_args, get_origin, get_type_hints

import tyro

from inputaware.commands import DefendCommand, SweepCommand, TrainCommand
from inputaware.config.fields import Config
from inputaware.config.presets import preset_config
from inputaware.config.record import override
from inputaware.defenses.settings import DefenseSettings
from inputaware.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from inputaware.defenses.own import OwnDefense

__all__ = ["parse", "parse_defend", "parse_train"]

_Command = TypeVar("_Command")

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


def parse(name: str, command: type[_Command], arguments: Sequence[str], default: _Command | None = None) -> _Command:
    """Return a command as its arguments say.

    Args:
        name: of the command.
        command: its class.
        arguments: what stands behind its name.
        default: the command without any; none: the defaults of the class.

    Raises:
        ConfigError: an option with several values stands twice, or one is misspelt that must be there.
        SystemExit: help was asked for, or an option is unknown or cannot be read, which is said on stderr.
    """
    _check_words(command, arguments)
    _check_names(command, arguments)
    _check_choices(command, arguments)
    prog, args = f"inputaware {name}", list(arguments)
    if default is None:
        return tyro.cli(command, prog=prog, args=args, registry=_NUMBERS)
    return tyro.cli(command, prog=prog, args=args, registry=_NUMBERS, default=default)


def parse_train(arguments: Sequence[str]) -> tuple[TrainCommand, Config | None]:
    """Return the command, and the configuration that it asks for; none where it takes a run folder's.

    The first of two passes decides the defaults of the second.

    Raises:
        ConfigError: no data set is named, or as in :func:`parse`, or a file or a folder does not fit.
    """
    _check_words(TrainCommand, arguments)
    _check_names(TrainCommand, arguments)
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
    command = parse("train", TrainCommand, arguments, TrainCommand(settings=shown, output=tyro.MISSING))
    return command, command.settings if defaults is not None else None


def _settings_from(arguments: Sequence[str]) -> Config | None:
    """Return the configuration that flags override, or none where no data set is named.

    The first of two passes: data set, preset, configuration file and the folder to resume decide what the
    other flags' defaults are. Of a folder that is resumed it is the recorded configuration, so that only what is
    asked for can differ from it.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for option in ("--dataset", "--preset", "--target", "--config", "--output"):
        # Without a value too: the second pass, which knows the whole command, says what is wrong.
        parser.add_argument(option, nargs="?")
    found, _ = parser.parse_known_args(arguments)
    settings = _read_settings(Path(found.config)) if found.config else {}
    if "--resume" in arguments and found.output and os.path.exists(Path(found.output) / "config.json"):
        from inputaware.runs.folder import RunFolder

        return override(RunFolder(found.output).config(), settings)
    dataset = found.dataset or settings.get("dataset")
    preset = found.preset or settings.get("preset", "fast")
    target = found.target or settings.get("target", "all-to-one")
    if dataset is None:
        return None
    if not isinstance(dataset, str):
        raise ConfigError(f"dataset: expected text; found {dataset!r}")
    if settings.get("dataset", dataset) != dataset:
        settings.pop("counted_images", None)  # how many the other one has
    start = preset_config(preset, dataset=dataset, target=target)
    return override(start, settings | {"dataset": dataset, "preset": preset, "target": target})


def _read_settings(path: Path) -> dict[str, Any]:
    """Return the settings in a file or a run folder; what config.json says of its data and itself is left out."""
    from inputaware.runs.files import parse_json

    if os.path.isfile(path / "config.json"):
        path = path / "config.json"
    try:
        settings = parse_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"config: expected a JSON file at {str(path)!r}; found: {error.strerror}; name a file, or a run folder"
        ) from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"config: expected JSON in {str(path)!r}; found: {error}; mend the file") from None
    if not isinstance(settings, dict):
        raise ConfigError(f"config: expected options by name in {str(path)!r}; found {type(settings).__name__}")
    return {name: value for name, value in settings.items() if name not in ("data", "sha256")}


def parse_defend(arguments: Sequence[str]) -> tuple[DefendCommand, dict[str, OwnDefense]]:
    """Return the command, and the defenses of one's own by their place, whose settings are options like all others.

    The first of two passes: which they are decides what options there are.

    Raises:
        ConfigError: one of them cannot be imported, or as in :func:`parse`.
    """
    positionals = _positionals(DefendCommand, arguments)
    if not positionals:
        _check_run_comes_first(arguments)
    places = [name for name in positionals[1:] if ":" in name]
    if not places:
        return parse("defend", DefendCommand, arguments), {}
    from inputaware.defenses.own import import_defenses, settings_with

    with contextlib.redirect_stdout(sys.stderr):
        own = import_defenses(places)
    settings = settings_with(list(own.values()))
    _check_words(type(settings), arguments)
    return parse("defend", DefendCommand, arguments, DefendCommand(run=tyro.MISSING, settings=settings)), own


def _positionals(command: type[Any], arguments: Sequence[str]) -> list[str]:
    """Return the words of a command line that are no option's.

    An option that is not known, as one of a defense of one's own, has all words up to the next one.
    """
    kinds = _kinds(command)
    found: list[str] = []
    waiting: float = 0  # for words of the last option
    for number, word in enumerate(arguments):
        if word == "--":
            return [*found, *arguments[number + 1 :]]
        if word.startswith("-"):
            name, equals, _ = word.replace("_", "-").partition("=")
            kind = kinds.get(name) or kinds.get(name.replace("no-", "", 1), tuple)
            waiting = 0 if equals or kind is bool else math.inf if _is_several(kind) else 1
        elif waiting:
            waiting -= 1
        else:
            found.append(word)
    return found


def _kinds(command: type[Any]) -> dict[str, Any]:
    """Return the options of a command with their types."""
    return {f"--{name.replace('_', '-')}": kind for name, kind in _options(command)} | {"--help": bool, "-h": bool}


def _is_several(kind: Any) -> bool:
    return kind is tuple or get_origin(kind) is tuple


def _check_run_comes_first(arguments: Sequence[str]) -> None:
    """Say which option has taken a run folder, or a defense of one's own, for one of its values."""
    if {"-h", "--help"} & set(arguments):
        return
    kinds = _kinds(DefendCommand)
    option = ""
    for word in arguments:
        if word.startswith("-"):
            option = word
        elif _is_several(kind := kinds.get(option.replace("_", "-"))) or (kind is None and ":" in word):
            raise ConfigError(
                f"run: expected the run folder and the defenses before the options; found them behind {option}, which "
                f"takes all words for its values; write inputaware defend RUN NAME ... {option} VALUE ..."
            )


def _options(settings: type[Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the fields of a command with their types, those of nested parts with dots."""
    for name, kind in get_type_hints(settings).items():
        if is_dataclass(kind):
            # The options of a command's settings stand without that name.
            yield from _options(cast(type[Any], kind), "" if name == "settings" else f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", kind


def _check_words(command: type[Any], arguments: Sequence[str]) -> None:
    """Refuse what the parser would take without a word, and nobody can have meant.

    That is an empty path, which is the folder one is in, and an option with several values that stands twice,
    of which the last one alone would count, or with none, as if it were left out.
    """
    paths = [f"--{name.replace('_', '-')}" for name, kind in _options(command) if Path in (kind, *get_args(kind))]
    for before, word in zip(["", *arguments], arguments, strict=False):
        option = before if not word else word.removesuffix("=") if word.endswith("=") else None
        if option in paths or (option is not None and not word and not option.startswith("--")):
            place = option.removeprefix("--") if option in paths else "arguments"
            raise ConfigError(
                f"{place}: expected a path; found an empty one, perhaps of a shell variable that is not set"
            )
    given = [argument.partition("=")[0].replace("_", "-") for argument in arguments]
    if {"-h", "--help"} & set(given):
        return
    words = [*arguments, "--"]
    for name in (name for name, kind in _options(command) if get_origin(kind) in (tuple, list)):
        option = f"--{name.replace('_', '-')}"
        if given.count(option) > 1:
            raise ConfigError(
                f"{name}: expected one {option} with all its values behind it; found {given.count(option)}; "
                f"write {option} VALUE VALUE ..."
            )
        # A setting may be a list without entries.
        if "." not in name and option in words and words[words.index(option) + 1].startswith("--"):
            raise ConfigError(
                f"{name}: expected a value or more behind {option}; found none, perhaps of a shell variable that is "
                "not set; name some, or leave it out"
            )


def _check_names(command: type[Any], arguments: Sequence[str]) -> None:
    """Say more of an option that the command does not have than the parser does.

    Of a sweep it does not know the fields of a run, and where an option is missing it guesses at no misspelt one.
    """
    kinds = _kinds(command)
    given = dict.fromkeys(word.partition("=")[0].replace("_", "-") for word in arguments if word.startswith("-"))
    if {"-h", "--help"} & set(given):
        return
    unknown = [name for name in given if not {name, name.replace("no-", "", 1)} & set(kinds)]
    of_a_run = [*_options(Config), *_options(DefenseSettings)] if command is SweepCommand else []
    for name, _ in of_a_run:
        if (option := f"--{name.replace('_', '-')}") in unknown:
            raise ConfigError(
                f"sweep: expected fields of the configuration, and settings of defenses, behind --set; found {option}; "
                f"write --set {name}={_value_of(option, arguments)}"
            )
    hints = get_type_hints(command, include_extras=True)
    required = [
        f"--{one.name}"
        for one in fields(command)
        if (one.default, one.default_factory) == (MISSING, MISSING)
        and one.name != "settings"
        and tyro.conf.Positional not in get_args(hints[one.name])
    ]
    missing = [option for option in required if option not in given]
    for name in unknown:
        if guess := did_you_mean(name, missing):
            raise ConfigError(f"arguments: expected {missing[0]}; found {name}{guess}")


def _check_choices(command: type[Any], arguments: Sequence[str]) -> None:
    """Guess at a misspelt choice; the parser lists what there is, and does no more."""
    kinds = _kinds(command)
    if {"-h", "--help"} & set(arguments):
        return
    for place, word in enumerate(arguments):
        name, equals, value = word.partition("=")
        kind = kinds.get(name.replace("_", "-"))
        choices = next((get_args(part) for part in (kind, *get_args(kind)) if get_origin(part) is Literal), ())
        found = value if equals else next(iter(arguments[place + 1 :]), "")
        if not _is_several(kind) and found not in choices and (guess := did_you_mean(found, choices)):
            raise ConfigError(
                f"{name.removeprefix('--').replace('-', '_')}: expected one of {', '.join(choices)}; "
                f"found {found!r}{guess}"
            )


def _value_of(option: str, arguments: Sequence[str]) -> str:
    """Return the one value of an option on a command line; VALUE where it has none or several."""
    for place, word in enumerate(arguments):
        name, equals, value = word.partition("=")
        if name.replace("_", "-") == option:
            behind = list(itertools.takewhile(lambda word: not word.startswith("--"), arguments[place + 1 :]))
            return value if equals else behind[0] if len(behind) == 1 else "VALUE"
    return "VALUE"
