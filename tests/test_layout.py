"""The house: rooms import only from rooms above them, nothing imports in a circle, and files stay short.

Imports are read from the source, lazy ones and those under TYPE_CHECKING included.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "lit_cifar"
ROOMS = ("errors", "nets", "data", "evaluation", "runs", "training", "report", "deploy", "experiments", "cli")
FILES = sorted(path.relative_to(PACKAGE.parent) for path in PACKAGE.rglob("*.py"))
LONGEST = 300


def module(file: Path) -> str:
    return ".".join(file.with_suffix("").parts).removesuffix(".__init__")


MODULES = {module(file): file for file in FILES}


def imported(file: Path) -> Iterator[str]:
    """Modules of ours that a file imports, or reaches by an import path in a string."""
    for node in ast.walk(ast.parse((PACKAGE.parent / file).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "lit_cifar")
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            if node.module and node.module.split(".")[0] == "lit_cifar":
                for alias in node.names:
                    name = f"{node.module}.{alias.name}"
                    yield name if name in MODULES else node.module


GRAPH = {name: set(imported(file)) - {name} for name, file in MODULES.items()}


def room(name: str) -> str | None:
    """The room of a module; None for the package itself and its entry, which may import anything."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 and parts[1] != "__main__" else None


def test_the_package_holds_the_rooms_and_three_files() -> None:
    entries = {path.name for path in PACKAGE.iterdir() if path.name != "__pycache__"}
    assert entries == {"__init__.py", "__main__.py", "errors.py"} | {*ROOMS} - {"errors"}


def test_a_room_imports_only_from_rooms_above_it() -> None:
    for name, others in GRAPH.items():
        for other in others:
            here, there = room(name), room(other)
            if here is not None and other != "lit_cifar":  # whose public names are imported when they are first used
                assert there is not None, f"{name} imports {other}"
                assert ROOMS.index(there) <= ROOMS.index(here), f"{name} imports {other}"


def test_no_modules_import_each_other_in_a_circle() -> None:
    left = {name: set(others) for name, others in GRAPH.items()}
    while free := [name for name, others in left.items() if not others & left.keys()]:
        for name in free:
            del left[name]
    assert not left, f"each of these imports another of them: {sorted(left)}"


@pytest.mark.parametrize("folder", ["lit_cifar", "tests"])
def test_no_file_is_longer_than_300_lines(folder: str) -> None:
    for file in (PACKAGE.parent / folder).rglob("*.py"):
        assert len(file.read_text(encoding="utf-8").splitlines()) <= LONGEST, file


def test_tests_import_no_private_name_of_ours() -> None:
    private = re.compile(r"^\s*from lit_cifar[\w.]* import .*\b_[a-z]|lit_cifar(\.\w+)*\._[a-z]", re.MULTILINE)
    for file in (PACKAGE.parent / "tests").rglob("*.py"):
        assert not private.search(file.read_text(encoding="utf-8")), file
