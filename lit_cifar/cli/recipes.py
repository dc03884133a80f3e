"""Reading recipe files, each once; refuses what YAML would accept silently, such as a key that is there twice."""

import re
from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from lit_cifar.errors import UsageError, reason

LARGEST = 1_000_000  # bytes; a recipe has about a thousand
MOST_VALUES = 10_000  # counting those that an alias repeats
SECTIONS = ("trainer", "model", "data")
FLOAT = re.compile(
    r"([-+]?(\d[\d_]*\.[\d_]*|\.\d[\d_]*)(e[-+]?\d+)?|[-+]?\d[\d_]*e[-+]?\d+|[-+]?\.inf|\.nan)$", re.IGNORECASE
)


class RecipeLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """YAML as jsonargparse reads it: 1e-3 is a number, and a date is text. A key that is there twice is an error."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":float", ":timestamp"))]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_yaml_map(self, node: yaml.MappingNode) -> Iterator[dict[Any, Any]]:
        seen: set[Hashable] = set()
        for key, _ in node.value:
            name = self.construct_object(key, deep=True) if isinstance(key, yaml.ScalarNode) else None
            if name in seen and key.tag != "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(None, None, f"the key {name} is there twice", key.start_mark)
            seen.add(name)
        yield from super().construct_yaml_map(node)


RecipeLoader.add_implicit_resolver("tag:yaml.org,2002:float", FLOAT, list("-+0123456789."))
RecipeLoader.add_constructor("tag:yaml.org,2002:map", RecipeLoader.construct_yaml_map)


def recipes_folder() -> Path:
    """Returns the folder of the recipes: next to the package in a clone, inside it after an installation."""
    inside = Path(__file__).parents[1] / "configs"
    return inside if inside.is_dir() else Path(__file__).parents[2] / "configs"


class Given:
    """What the words after a command, and its recipes, give before the parser is made: its defaults depend on it."""

    def __init__(self, words: Sequence[str]) -> None:
        self.words = list(words)
        self.recipes = {name: read_recipe(name) for name in self.flags("--config", "-c")}
        self.own_classes = any("class_path" in recipe.get("model", {}) for recipe in self.recipes.values())
        """Whether a recipe brings model and data classes of its own, in place of LitClassifier and its data."""

    def flags(self, *names: str) -> list[str]:
        found = []
        for i, word in enumerate(self.words):
            name, equals, value = word.partition("=")
            if name not in names:
                continue
            if not equals and i + 1 < len(self.words) and not self.words[i + 1].startswith("--"):
                value = self.words[i + 1]
            if not value:
                raise UsageError("value-missing", f"{name} has no value; add one, or leave the flag out")
            found.append(value)
        return found

    def get(self, key: str) -> Any:
        """Returns the last value of a key such as `trainer.precision`, flags before recipes; None if it has none."""
        if values := self.flags(f"--{key}"):
            return values[-1]
        section, _, name = key.rpartition(".")
        sections = [recipe.get(section) or {} if section else recipe for recipe in self.recipes.values()]
        return next((values[name] for values in reversed(sections) if values.get(name) is not None), None)

    def source(self, key: str) -> str:
        """Returns where the value of a key comes from: its flag, or the file and the key."""
        if not any(word.startswith(f"--{key}") for word in self.words):
            for name, recipe in reversed(self.recipes.items()):
                inner: Any = recipe
                for part in key.split("."):
                    inner = inner.get(part) if isinstance(inner, dict) else None
                if inner is not None:
                    return f"--config {name}: {key}"
        return f"--{key}"


def read_recipe(path: str) -> dict[str, Any]:
    """Returns the keys and values of a recipe file, not yet checked. Raises UsageError if it isn't such a file."""
    content = _load(Path(path))
    if not isinstance(content, dict):
        raise _invalid(path, "it has no keys such as trainer, model and data")
    values: list[Any] = [content]
    for value in values:  # to which the loop adds what is nested
        if len(values) > MOST_VALUES:
            raise _invalid(path, f"it has more than {MOST_VALUES:,} values")
        if isinstance(value, dict):
            is_outer = value is content or any(value is content.get(name) for name in SECTIONS)
            kinds = (str,) if is_outer else (str, int)  # a dictionary among the arguments may have numbers
            if odd := [key for key in value if type(key) not in kinds or key == ""]:
                raise _invalid(path, f"the key {odd[0]!r} is not a name")
            values += value.values()
        elif isinstance(value, list):
            values += value
    for name in SECTIONS:
        section = content.get(name, {})
        if not isinstance(section, dict):
            raise _invalid(path, f"{name} is {section!r}, but must have keys and values below it")
        if "init_args" in section and "class_path" not in section:
            raise _invalid(path, f"{name} has init_args, but no class_path to name the class")
    return content


def _load(path: Path) -> Any:
    try:
        if path.stat().st_size > LARGEST:
            raise _invalid(path, f"it has more than {LARGEST:,} bytes")
        if not path.is_file():
            raise UsageError("recipe-unreadable", f"--config {path} is a folder or a device; name a YAML file")
        return yaml.load(path.read_text(encoding="utf-8"), RecipeLoader)
    except FileNotFoundError as error:
        raise UsageError("recipe-missing", f"--config {path} does not exist; recipes are in configs/") from error
    except RecursionError as error:
        raise _invalid(path, "its values are nested too deeply") from error
    except (OSError, ValueError, yaml.YAMLError) as error:  # ValueError: a path with NUL, not UTF-8, a long number
        why = getattr(error, "strerror", None) or reason(error)
        if mark := getattr(error, "problem_mark", None):
            why = f"line {mark.line + 1}: {getattr(error, 'problem', why)}"
        raise UsageError("recipe-unreadable", f"--config {path} can't be read as YAML: {why}") from error


def _invalid(path: object, why: str) -> UsageError:
    return UsageError("recipe-invalid", f"--config {path} is not a recipe: {why}")
