"""What is installed: bounds that are tested at both ends, no syntax that the lowest Python lacks, no known hole."""

import json
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PYPROJECT = (ROOT / "pyproject.toml").read_text()


def requirements() -> list[Requirement]:
    listed = PYPROJECT[PYPROJECT.index("dependencies = [") : PYPROJECT.index("[project.scripts]")]
    found = [Requirement(text) for text in re.findall(r'"(.+?)"', listed)]
    return [requirement for requirement in found if requirement.name != "lit_cifar"]


@pytest.mark.parametrize("requirement", requirements(), ids=str)
def test_a_dependency_has_a_lowest_and_a_next_major_version_that_hold_the_tested_one(requirement: Requirement) -> None:
    bounds = {specifier.operator: Version(specifier.version) for specifier in requirement.specifier}
    assert bounds.keys() == {">=", "<"}
    upper = bounds["<"]
    assert (upper.minor, upper.micro) == (0, 0)
    assert bounds[">="] < upper
    assert version(requirement.name) in requirement.specifier  # of this very run of the tests


def test_the_constraints_of_the_lowest_versions_hold_every_dependency_at_its_lower_bound() -> None:
    out = subprocess.run(
        [sys.executable, ROOT / ".ci" / "lowest.py"], capture_output=True, text=True, check=True
    ).stdout
    expected = [f"{r.name}=={s.version}" for r in requirements() for s in r.specifier if s.operator == ">="]
    assert out.split() == expected
    assert "torch==2.9.1" in expected


SOUND = {"name": "torch", "version": "2.14.1", "vulns": []}
UNKNOWN = {"name": "lit-cifar", "skip_reason": "Dependency not found on PyPI and could not be audited"}
HOLE = {"name": "pillow", "version": "9.0.0", "vulns": [{"id": "PYSEC-2022-10", "fix_versions": ["9.0.1"]}]}


@pytest.mark.parametrize(
    ("found", "code", "line"),
    [
        ([SOUND, UNKNOWN], 0, "1 of 2 packages were audited for known vulnerabilities"),
        ([SOUND, HOLE], 1, "pillow 9.0.0 has PYSEC-2022-10, fixed by 9.0.1"),
        ([UNKNOWN], 0, "Nothing was audited: no index of known vulnerabilities answers here"),
        (None, 0, "Nothing was audited: no index of known vulnerabilities answers here"),
    ],
)
def test_a_known_vulnerability_fails_and_an_index_that_does_not_answer_is_said(
    found: list[dict[str, object]] | None, code: int, line: str
) -> None:
    said = "" if found is None else json.dumps({"dependencies": found, "fixes": []})
    command: list[str | Path] = [sys.executable, ROOT / ".ci" / "audited.py"]
    result = subprocess.run(command, input=said, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (code, "")
    assert line in result.stdout.splitlines()


def test_no_module_uses_syntax_that_the_lowest_python_lacks() -> None:
    import ast

    assert 'requires-python = ">=3.10"' in PYPROJECT
    assert 'python_version = "3.10"' in PYPROJECT  # by which mypy judges the standard library's names
    modules = sorted((ROOT / "lit_cifar").rglob("*.py"))
    assert len(modules) > 40
    for module in modules:
        ast.parse(module.read_text(), module.name, feature_version=(3, 10))
    with pytest.raises(SyntaxError):
        ast.parse("try: pass\nexcept* ValueError: pass", feature_version=(3, 10))
