"""CI runs the commands of the README, and a run of the tests says what it left out."""

import ast
import re
from pathlib import Path

import yaml
from conftest import not_run

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_ci_runs_the_two_commands_of_the_readme() -> None:
    install, test = (block.strip() for block in re.findall(r"^```bash\n(.*?)^```", README, re.MULTILINE | re.DOTALL))
    assert (install, test) == ("pip install -e . && python -m lit_cifar fit", "pip install -e '.[test]' && pytest")
    steps = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"]["test"]["steps"]
    assert {install, test} < {step.get("run") for step in steps}
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    assert lines.index("pip install --quiet -e '.[test]'") < lines.index("pytest")


def test_the_last_line_of_a_test_run_counts_what_skipped_tests_need() -> None:
    reasons = ["needs Chromium: apt-get install chromium", "needs root: mounts", "needs Chromium", "needs root, or so"]
    assert not_run([*reasons, "needs root"]) == "not run here: 3 tests need root, 2 need Chromium"
    assert not_run(["needs root", "needs /proc"]) == "not run here: 1 test needs root, 1 needs /proc"
    assert not_run([]) == ""


def test_every_reason_to_skip_a_test_begins_with_needs() -> None:
    reasons = []
    for module in (ROOT / "tests").rglob("*.py"):
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            if node.func.attr in ("skip", "skipif", "importorskip"):
                named = [keyword.value for keyword in node.keywords if keyword.arg == "reason"]
                reason = named[0] if named else node.args[0]
                assert isinstance(reason, ast.Constant), (module.name, node.lineno)
                reasons.append((module.name, reason.value))
    assert len(reasons) > 10
    assert not [(name, reason) for name, reason in reasons if not str(reason).startswith("needs ")]
