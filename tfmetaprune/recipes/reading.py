"""Reads recipes: YAML text into a `Recipe`, with the path of the key in every message."""

import dataclasses
import pathlib
import types
import typing

from tfmetaprune.errors import ArgumentError
from tfmetaprune.recipes.recipe import Recipe

_FOLDER = pathlib.Path(__file__).parent
_NAMES = {int: "a whole number", float: "a number", str: "text", bool: "true or false", dict: "keys and values"}


def available_recipes() -> tuple[str, ...]:
    """Returns the names of the recipes that are shipped, sorted.

    Example:
      >>> "resnet56_cifar10" in available_recipes()
      True
    """
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.yaml")))


def read_recipe(name_or_path) -> Recipe:
    """Reads a recipe.

    Args:
      name_or_path: the name of a shipped one, or the path of a .yaml file.

    Returns:
      The `Recipe`.

    Raises:
      ArgumentError: there is no such recipe, it is no YAML, or a key is unknown, missing, or has a value that cannot be used.
    """
    import yaml

    path = pathlib.Path(name_or_path)
    is_path = path.suffix in (".yaml", ".yml") or path.parent != pathlib.Path()
    path = path if is_path else _FOLDER / f"{name_or_path}.yaml"
    if not path.is_file():
        raise ArgumentError(
            f"Recipe {str(name_or_path)!r}: expected one of {', '.join(available_recipes())} or the path of a .yaml file, found "
            f"none of this name. Choose one of these."
        )
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ArgumentError(f"Recipe {path.name}: expected YAML, got {' '.join(str(error).split())}. Mend the file.") from error
    try:
        recipe = build(Recipe, values, "")
        _check_network(recipe.network)
        _check_stages(recipe)
        return recipe
    except ArgumentError as error:
        raise ArgumentError(f"Recipe {path.name}, {error}. Change the file there.") from error


def _check_network(network):
    """Raises ArgumentError if there is no such architecture, or its builder has no such option."""
    from tfmetaprune.recipes.architectures import ARCHITECTURES

    names = ", ".join(ARCHITECTURES)
    if network.architecture not in ARCHITECTURES:
        raise ArgumentError(f"network.architecture: expected one of {names}, got {network.architecture!r}")
    known = ARCHITECTURES[network.architecture][0].__kwdefaults__
    unknown = [option for option in network.options if option not in known]
    if unknown:
        raise ArgumentError(f"network.options: expected some of {', '.join(known)}, got {unknown[0]!r}")


def _check_stages(recipe):
    """Raises ArgumentError for what a stage would refuse, some of them hours later."""
    from tfmetaprune.data.splits import SCALINGS
    from tfmetaprune.export.verify import ADVICE
    from tfmetaprune.metanet import MetaNetConfig
    from tfmetaprune.metatrain.trainer import MetaTraining
    from tfmetaprune.pruning import CRITERIA, needs_statistics
    from tfmetaprune.pruning.sparse.method import sparse_method

    has_statistics = recipe.use == "scores" and recipe.data_models.speedups is None  # no other stage measures them
    for key, value, known in (
        ("data.scaling", recipe.data.scaling, SCALINGS),
        ("pruning.criterion", recipe.pruning.criterion, [name for name in CRITERIA if has_statistics or not needs_statistics(name)]),
        ("export.quantize", recipe.export.quantize, list(ADVICE)),
    ):
        if value not in known:
            raise ArgumentError(f"{key}: expected one of {', '.join(map(str, known))}, got {value!r}")
    metanetwork = dataclasses.asdict(recipe.metanetwork)
    metatraining = dataclasses.asdict(recipe.metatraining)
    del metanetwork["ratio_unit"], metatraining["examples"]
    for key, make in (
        ("metanetwork", lambda: MetaNetConfig(**metanetwork)),
        ("metatraining", lambda: MetaTraining(**metatraining)),
        ("pruning", lambda: sparse_method(recipe.pruning.method, sparsity=recipe.pruning.sparsity)),
    ):
        try:
            make()
        except ArgumentError as error:
            raise ArgumentError(f"{key}: {str(error).rstrip('.')}") from error


def build(kind, values, path):
    """Makes a dataclass of plain values.

    Args:
      kind: the dataclass.
      values: dict of its fields.
      path: of the key that the values come from, with a dot behind it; "" at the top.

    Returns:
      An instance of `kind`.

    Raises:
      ArgumentError: "KEY: expected ..., got ...", where KEY is the whole path.
    """
    fields = {field.name: field for field in dataclasses.fields(kind)}
    if not isinstance(values, dict):
        raise ArgumentError(f"{path.rstrip('.') or 'top'}: expected the keys {', '.join(fields)}, got {values!r}")
    unknown = [key for key in values if key not in fields]
    if unknown:
        raise ArgumentError(f"{path}{unknown[0]}: expected one of the keys {', '.join(fields)}, got another")
    required = [n for n, f in fields.items() if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING]
    missing = [name for name in required if name not in values]
    if missing:
        raise ArgumentError(f"{path}{missing[0]}: expected a value, got none")
    hints = typing.get_type_hints(kind)
    made = {key: _value(hints[key], value, f"{path}{key}") for key, value in values.items()}
    try:
        return kind(**made)
    except ArgumentError as error:
        raise ArgumentError(f"{path}{error}") from None


def _value(hint, value, path):
    """Returns a value as its type hint wants it."""
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        options = [option for option in typing.get_args(hint) if option is not type(None)]
        return None if value is None else _value(options[0], value, path)
    if dataclasses.is_dataclass(hint):
        return build(hint, value, f"{path}.")
    if typing.get_origin(hint) is tuple:
        kinds = typing.get_args(hint)
        is_open = kinds[-1] is Ellipsis
        if not isinstance(value, (list, tuple)) or not (is_open or len(value) == len(kinds)):
            wanted = "a list" if is_open else f"a list of {len(kinds)}"
            raise ArgumentError(f"{path}: expected {wanted}, got {value!r}")
        return tuple(_value(kinds[0], entry, f"{path}[{index}]") for index, entry in enumerate(value))
    is_number = hint in (int, float) and isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is float and isinstance(value, str) and _is_float(value):  # YAML reads 1e-3 as text
        return float(value)
    if hint is float and is_number:
        return float(value)
    if not isinstance(value, hint) or (hint is int and not is_number):
        raise ArgumentError(f"{path}: expected {_NAMES[hint]}, got {value!r}")
    return value


def _is_float(text):
    try:
        float(text)
    except ValueError:
        return False
    return True
