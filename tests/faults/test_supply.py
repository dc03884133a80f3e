"""Dependencies have bounds that are tested, no module needs a newer Python, known vulnerabilities are reported."""

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
def test_a_dependency_is_bounded_by_its_lowest_and_its_next_version_and_the_tested_one_lies_between(
    requirement: Requirement,
) -> None:
    bounds = {specifier.operator: Version(specifier.version) for specifier in requirement.specifier}
    assert bounds.keys() == {">=", "<"}
    lower, upper, tested = bounds[">="], bounds["<"], Version(version(requirement.name))
    if requirement.name == "pytorch-lightning":  # we use its private names, which change in minor versions
        assert (upper.major, upper.minor, upper.micro) == (tested.major, tested.minor + 1, 0)
    else:
        assert (upper.minor, upper.micro) == (0, 0)
    assert lower < upper
    assert version(requirement.name) in requirement.specifier


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
        ([SOUND, HOLE], 1, "pillow 9.0.0 has PYSEC-2022-10, fixed in 9.0.1"),
        ([UNKNOWN], 0, "No package was audited, because no index of known vulnerabilities answered"),
        (None, 0, "No package was audited, because no index of known vulnerabilities answered"),
    ],
)
def test_a_known_vulnerability_fails_and_an_index_that_does_not_answer_is_reported(
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
    assert 'python_version = "3.10"' in PYPROJECT  # mypy checks the standard library's names against it
    modules = sorted((ROOT / "lit_cifar").rglob("*.py"))
    assert len(modules) > 30
    for module in modules:
        ast.parse(module.read_text(), module.name, feature_version=(3, 10))
    with pytest.raises(SyntaxError):
        ast.parse("try: pass\nexcept* ValueError: pass", feature_version=(3, 10))
