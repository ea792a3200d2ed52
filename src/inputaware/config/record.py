"""A configuration, or other settings, as plain data and back; changed, compared, and known again."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import cache
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union, get_args, get_origin

from inputaware.config.datasets import COLOURED, DATASETS
from inputaware.config.fields import ArchitectureName, Config
from inputaware.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    import cattrs
    from _typeshed import DataclassInstance

__all__ = [
    "config_differences",
    "config_from_dict",
    "config_identity",
    "config_to_dict",
    "fields_that_count",
    "flatten",
    "override",
]

_Settings = TypeVar("_Settings")


def override(settings: _Settings, changes: dict[str, Any]) -> _Settings:
    """Return a configuration, or other settings that are a dataclass, with changed fields.

    Args:
        settings: what to start from.
        changes: values by field name; a nested dictionary changes fields of a nested part.

    Raises:
        ConfigError: a field is unknown or a value has the wrong type.
    """
    return _from_dict(_merge(settings, changes, ""), type(settings))


def _merge(settings: Any, changes: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Return settings as plain data, with changes; the fields of a nested part are changed one by one."""
    merged = config_to_dict(settings)
    for key, value in changes.items():
        if key not in merged:
            raise ConfigError(
                f"{prefix}{key}: unknown option; expected one of {', '.join(merged)}{did_you_mean(key, merged)}"
            )
        part = getattr(settings, key)
        if dataclasses.is_dataclass(part):
            if dataclasses.is_dataclass(value) and not isinstance(value, type):
                value = dataclasses.asdict(value)
            if not isinstance(value, dict):
                raise ConfigError(f"{prefix}{key}: expected options by name; found {value!r}")
            value = _merge(part, value, f"{prefix}{key}.")
        merged[key] = value
    return merged


def config_to_dict(config: DataclassInstance) -> dict[str, Any]:
    """Return a configuration, or other settings that are a dataclass, as plain data for JSON: what makes it anew."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        if isinstance(value, tuple | list):
            return [plain(item) for item in value]
        return value

    found: dict[str, Any] = plain(dataclasses.asdict(config))
    return {part.name: found[part.name] for part in dataclasses.fields(config) if part.init}


def config_identity(config: Config) -> dict[str, Any]:
    """Return what tells a configuration from others, in names of folders and in what a run's files carry.

    A field that earlier versions did not have is left out where it says what they did, so that their runs and sweeps
    are known again.
    """
    record = config_to_dict(config)
    if config.attack in ("input-aware", "none") or config.patch == "checkerboard":
        del record["patch"]
    if config.counted_images is None:
        del record["counted_images"]
    if config.hold_out:
        del record["hold_out"]
    return record


def config_from_dict(data: dict[str, Any]) -> Config:
    """Return the configuration that :func:`config_to_dict` wrote.

    Raises:
        ConfigError: a field is unknown or missing, or a value has the wrong type.
    """
    return _from_dict(data, Config)


def _from_dict(data: dict[str, Any], kind: type[_Settings]) -> _Settings:
    from cattrs.errors import ClassValidationError, StructureHandlerNotFoundError
    from cattrs.v import transform_error

    try:
        return _converter().structure(data, kind)
    except StructureHandlerNotFoundError as error:
        raise ConfigError(
            f"{kind.__name__}: expected fields of numbers, text and truth values, or tuples, lists and dictionaries of "
            f"them; found one of {error.type_}"
        ) from None
    except (ClassValidationError, ValueError) as error:
        reasons = (reason.rpartition(" @ $") for reason in transform_error(error, format_exception=_explain))
        raise ConfigError(
            "; ".join(f"{path.removeprefix('.') or 'configuration'}: {words}" for words, _, path in reasons)
        ) from None


@cache
def _converter() -> cattrs.Converter:
    """Return what makes a configuration of plain data and refuses what does not fit a field's type."""
    import cattrs  # here, since it takes a tenth of a second

    converter = cattrs.Converter(forbid_extra_keys=True)

    def strict(expected: tuple[type, ...], words: str, make: type) -> Any:
        def structure(value: Any, _: Any) -> Any:
            if isinstance(value, bool) != (make is bool) or not isinstance(value, expected):
                raise ValueError(f"expected {words}; found {value!r}")
            return make(value)

        return structure

    def structure_choice(value: Any, kind: Any) -> Any:
        choices = get_args(kind)
        if isinstance(value, int) and not isinstance(value, bool) and str(value) in choices:
            return str(value)  # JSON and YAML have a number where the command line has precision 32
        if value not in choices:
            words = [*map(str, choices)]
            raise ValueError(f"expected one of {', '.join(words)}; found {value!r}{did_you_mean(value, words)}")
        return value

    def structure_tuple(value: Any, kind: Any) -> Any:
        kinds = get_args(kind)
        words = "numbers" if {int, float} >= {*kinds} - {Ellipsis} else "values"
        if not isinstance(value, list | tuple):
            raise ValueError(f"expected a list of {words}; found {value!r}")
        if kinds[-1] is Ellipsis:
            kinds = (kinds[0],) * len(value)
        if len(value) != len(kinds):
            raise ValueError(f"expected a list of {len(kinds)} {words}; found {value!r}")
        return tuple(converter.structure(item, item_kind) for item, item_kind in zip(value, kinds, strict=True))

    def structure_list(value: Any, kind: Any) -> Any:
        if not isinstance(value, list | tuple):
            raise ValueError(f"expected a list; found {value!r}")
        return [converter.structure(item, get_args(kind)[0]) for item in value]

    def structure_dictionary(value: Any, kind: Any) -> Any:
        if not isinstance(value, dict):
            raise ValueError(f"expected values by name; found {value!r}")
        kinds = get_args(kind)
        return {converter.structure(key, kinds[0]): converter.structure(item, kinds[1]) for key, item in value.items()}

    def structure_union(value: Any, kind: Any) -> Any:
        reasons = []
        for one in get_args(kind):
            if one is NoneType:
                if value is None:
                    return None
                reasons.append("none")
                continue
            try:
                return converter.structure(value, one)
            except ValueError as error:
                reasons.append(str(error).partition(";")[0].removeprefix("expected "))
        if "none" in reasons and value == "none":  # in a file the word does as well as null, as it does in an option
            return None
        raise ValueError(f"expected {' or '.join(reasons)}; found {value!r}")

    def part(kind: type) -> Any:
        structure_options: Any = converter.gen_structure_attrs_fromdict(kind)

        def structure(value: Any, _: Any) -> Any:
            if not isinstance(value, dict):
                raise ValueError(f"expected options by name; found {value!r}")
            return structure_options(value, kind)

        return structure

    def made_of(origin: object) -> Callable[[Any], bool]:
        return lambda kind: get_origin(kind) is origin

    converter.register_structure_hook_factory(dataclasses.is_dataclass, part)
    converter.register_structure_hook_func(made_of(Literal), structure_choice)
    converter.register_structure_hook_func(made_of(tuple), structure_tuple)
    converter.register_structure_hook_func(made_of(list), structure_list)
    converter.register_structure_hook_func(made_of(dict), structure_dictionary)
    converter.register_structure_hook_func(made_of(UnionType), structure_union)
    converter.register_structure_hook_func(made_of(Union), structure_union)
    converter.register_structure_hook(bool, strict((bool,), "true or false", bool))
    converter.register_structure_hook(int, strict((int,), "a whole number", int))
    converter.register_structure_hook(float, strict((int, float), "a number", float))
    converter.register_structure_hook(str, strict((str,), "text", str))
    return converter


def _explain(error: BaseException, _: object) -> str:
    """Return the words of a message for what cattrs ran into."""
    from cattrs.errors import ForbiddenExtraKeysError

    if isinstance(error, KeyError):
        return "expected a value; found none"
    if isinstance(error, ForbiddenExtraKeysError):
        known = ", ".join(field.name for field in dataclasses.fields(error.cl))
        return f"unknown option {', '.join(sorted(error.extra_fields))}; expected one of {known}"
    return str(error)


def flatten(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested dictionaries as one, by dotted names that start with a prefix."""
    result: dict[str, Any] = {}
    for key, value in data.items():
        result |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return result


def config_differences(first: Config, second: Config) -> dict[str, tuple[Any, Any]]:
    """Return the fields in which two configurations differ, by dotted name, with both values.

    What the attack of neither reads makes no difference.
    """
    left, right = flatten(config_to_dict(first)), flatten(config_to_dict(second))
    counting = fields_that_count(first).keys() | fields_that_count(second).keys()
    return {key: (left[key], right[key]) for key in left if key in counting and left[key] != right[key]}


_UNREAD_BY_CONTROLS = (
    "mask_stage",
    "partners",
    *(
        f"joint_stage.{name}"
        for name in (
            *("cross_probability", "initial_attack_probability", "initial_cross_probability"),
            *("ramp", "lambda_div", "generator"),
        )
    ),
)

_UNREAD: dict[str, tuple[str, ...]] = {
    "input-aware": ("patch",),
    "badnets": _UNREAD_BY_CONTROLS,
    "none": (*_UNREAD_BY_CONTROLS, "joint_stage.attack_probability", "target", "target_class", "patch"),
}
"""Fields and groups of fields that an attack does not read, so that its results do not depend on them."""

_UNREAD_BY_ARCHITECTURE: dict[ArchitectureName, tuple[str, ...]] = {
    "auto": (),  # of images of one's own it is not known here whether they are grey
    "mnist-cnn": ("model.width",),
    "preact-resnet18": ("model.hidden_units", "model.dropout"),
}
"""The same of a classifier."""


def fields_that_count(config: Config) -> dict[str, Any]:
    """Return the fields on which a run's results depend, by dotted name.

    A control leaves out what only the input-aware attack has, a classifier what only others have. An attack of one's
    own may read all that there is.
    """
    architecture = config.model.architecture
    if architecture == "auto" and config.dataset in DATASETS:
        architecture = "preact-resnet18" if config.dataset in COLOURED else "mnist-cnn"
    unread = (*_UNREAD.get(config.attack, ()), *_UNREAD_BY_ARCHITECTURE[architecture])
    if not config.hold_out:
        unread = (*unread, "validation_images")
    if config.target == "all-to-all":
        unread = (*unread, "target_class")
    return {
        key: value
        for key, value in flatten(config_to_dict(config)).items()
        if not any(key == name or key.startswith(f"{name}.") for name in unread)
    }
