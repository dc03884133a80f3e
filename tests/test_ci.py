"""CI runs the commands of the README, and a run of the tests says what it left out."""

import ast
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
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


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_the_script_for_a_gpu_can_be_rehearsed_on_a_cpu_and_goes_on_after_a_failure(tmp_path: Path) -> None:
    (tmp_path / "damaged" / "train").mkdir(parents=True)
    written = tmp_path / "gpu.json"
    words = (ROOT / ".ci" / "gpu", "--device=cpu", "--quick", f"--data={tmp_path / 'damaged'}", f"--output={written}")
    finished = subprocess.run(
        ["bash", *words, "device", "loader", "waits"], capture_output=True, text=True, timeout=500, check=False
    )
    parts = json.loads(written.read_text())["parts"]
    assert [*parts] == ["device", "loader", "waits"]
    assert parts["device"]["versions"]["torch"]
    assert not parts["loader"]["ok"]
    assert str(tmp_path / "damaged") in parts["loader"]["why"]
    assert {test["outcome"] for test in parts["waits"]["tests"].values()} == {"skipped: needs CUDA"}
    assert finished.returncode == 1
    assert "loader: FAILED" in finished.stdout
