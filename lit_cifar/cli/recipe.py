"""Reading a recipe file: what YAML would pass over in silence, such as a key that is there twice, is refused."""

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import get_loader

from lit_cifar.errors import UsageError

LARGEST = 1_000_000  # bytes; a recipe has a thousand
MOST = 10_000  # values, with those that an alias repeats
LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # that jsonargparse's is made from


def _mapping(loader: Any, node: yaml.MappingNode) -> Any:
    """A mapping; of a key that is there twice YAML would take the last."""
    seen: dict[Hashable, Any] = {}
    for key, _ in node.value:
        name = loader.construct_object(key, deep=True) if isinstance(key, yaml.ScalarNode) else None
        if name in seen and key.tag != "tag:yaml.org,2002:merge":
            raise yaml.constructor.ConstructorError(None, None, f"the key {name} is there twice", key.start_mark)
        seen[name] = key
    yield from loader.construct_yaml_map(node)


LOADER.add_constructor("tag:yaml.org,2002:map", _mapping)


def recipes_folder() -> Path:
    """Where the recipes lie: beside the package in a clone, inside it where it was installed as a wheel."""
    package = Path(__file__).parents[1]
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def read_recipe(path: str) -> dict[str, Any]:
    """The keys and values of a recipe file, not yet checked.

    Raises:
        UsageError: it is not there, can't be read, or is no YAML mapping of words to values.
    """
    content = _read(Path(path))
    if not isinstance(content, dict):
        raise UsageError(f"--config {path} is not a recipe: it holds no keys such as trainer, model and data")
    count = 0
    rest = [content]
    while rest:
        value = rest.pop()
        count += 1
        if count > MOST:
            raise UsageError(f"--config {path} is not a recipe: it holds more than {MOST:,} values")
        if isinstance(value, dict):
            if odd := [key for key in value if not isinstance(key, str) or not key]:
                raise UsageError(f"--config {path} has the key {odd[0]!r}, which is no word; put a name in its place")
            rest += value.values()
        elif isinstance(value, list):
            rest += value
    for name in ("trainer", "model", "data"):
        section = content.get(name, {})
        if not isinstance(section, dict):
            raise UsageError(f"--config {path}: {name} is {section!r}, but takes keys and values below it")
        if "init_args" in section and "class_path" not in section:
            raise UsageError(f"--config {path}: {name} has init_args, but no class_path to say of which class")
    return content


def _read(path: Path) -> Any:
    try:
        if path.stat().st_size > LARGEST:
            raise UsageError(f"--config {path} is no recipe: it has more than {LARGEST:,} bytes")
        if not path.is_file():
            raise UsageError(f"--config {path} is a folder or a device; name a YAML file")
        return get_loader("yaml")(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UsageError(f"--config {path} does not exist; recipes lie in configs/") from error
    except RecursionError as error:
        raise UsageError(f"--config {path} is no recipe: its values lie too deep in each other") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" (line {mark.line + 1}: {getattr(error, 'problem', '')})" if mark else ""
        raise UsageError(f"--config {path} is not valid YAML{where}; correct it or name another recipe") from error
    except (OSError, ValueError) as error:  # of a path with a NUL, of bytes that are no UTF-8, of a number too long
        reason = (
            "it is not text" if isinstance(error, UnicodeDecodeError) else getattr(error, "strerror", None) or error
        )
        raise UsageError(f"--config {path} can't be read: {reason}; name a YAML file") from error
