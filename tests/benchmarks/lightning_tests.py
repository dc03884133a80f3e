"""Runs Lightning's own tests twice, with its Trainer and with lit_cifar's in its place, and compares what fails.

    git clone https://github.com/Lightning-AI/pytorch-lightning
    pip install cloudpickle scikit-learn psutil pandas
    python tests/benchmarks/lightning_tests.py pytorch-lightning

Takes an hour on two cores. Exit code 1 if a test fails with lit_cifar's Trainer only. The clone may be of another
version than the installed Lightning: what that version lacks fails both times.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

FOLDERS = ("loops", "checkpointing", "trainer", "tuner", "callbacks", "core", "models")
SPAWNING = "not spawn and not ddp and not fork and not standalone and not tpu and not cuda and not mps"
PACKAGES = {r"\blightning\.pytorch\b": "pytorch_lightning", r"\blightning\.fabric\b": "lightning_fabric"}
WITH_OURS = "LIT_CIFAR_TRAINER"
"""Environment variable with which this file, as a plugin of pytest, puts our Trainer in place of Lightning's."""


def main() -> int:
    """Runs, prints the tests that fail once, and returns the exit code."""
    parser = argparse.ArgumentParser(description="Run Lightning's own tests with its Trainer and with lit_cifar's.")
    parser.add_argument("checkout", type=Path, help="A clone of Lightning's repository.")
    parser.add_argument("--folders", nargs="+", default=FOLDERS, help="Folders below tests/tests_pytorch.")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="Processes that run tests.")
    options = parser.parse_args()
    source = options.checkout / "tests" / "tests_pytorch"
    if not source.is_dir():
        parser.error(f"{options.checkout} has no tests/tests_pytorch; name a clone of Lightning's repository")
    with tempfile.TemporaryDirectory() as folder:
        tests = Path(folder)
        shutil.copytree(source, tests / "tests_pytorch")
        for file in tests.rglob("*.py"):  # the tests are of the package lightning; ours is pytorch_lightning
            text = file.read_text(encoding="utf-8")
            for pattern, name in PACKAGES.items():
                text = re.sub(pattern, name, text)
            file.write_text(text, encoding="utf-8")
        (tests / "pytest.ini").write_text("[pytest]\nxfail_strict = true\n", encoding="utf-8")
        plain, ours = (_outcomes(tests, options.folders, options.processes, trainer) for trainer in ("", "1"))
    for name, outcomes in (("Lightning's Trainer", plain), ("lit_cifar's Trainer", ours)):
        counts = {
            kind: sum(outcome == kind for outcome in outcomes.values()) for kind in ("passed", "skipped", "failed")
        }
        print(f"{name}: " + ", ".join(f"{count:,} {kind}" for kind, count in counts.items()))
    worse = sorted(name for name, outcome in ours.items() if outcome == "failed" != plain.get(name))
    better = sorted(name for name, outcome in plain.items() if outcome == "failed" != ours.get(name))
    for title, names in (("Fail with lit_cifar's Trainer only", worse), ("Fail with Lightning's Trainer only", better)):
        print(f"{title}: {len(names)}", *names, sep="\n  ")
    return 1 if worse or not ours else 0


def _outcomes(tests: Path, folders: list[str], processes: int, trainer: str) -> dict[str, str]:
    """Returns `passed`, `skipped` or `failed` by the name of the test."""
    results = tests / f"results{trainer}.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-p", Path(__file__).stem, f"--junitxml={results}", "-k", SPAWNING]
    command += ["-n", str(processes), "--dist", "loadfile", "--no-header", "--tb=short"]
    path = os.pathsep.join([str(tests), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path, WITH_OURS: trainer}
    subprocess.run([*command, *(f"tests_pytorch/{name}" for name in folders)], cwd=tests, env=environment, check=False)
    outcomes = {}
    for case in ElementTree.parse(results).iter("testcase"):
        failed = case.find("failure") is not None or case.find("error") is not None
        outcome = "failed" if failed else "skipped" if case.find("skipped") is not None else "passed"
        outcomes[f"{case.get('classname')}::{case.get('name')}"] = outcome
    return outcomes


def pytest_configure() -> None:
    """Makes pytest's process what the tests expect, before any of them is imported."""
    import pytorch_lightning.utilities.imports as known

    for name in ("_TORCH_GREATER_EQUAL_2_8", "_TORCH_GREATER_EQUAL_2_11"):  # which newer tests ask for
        if not hasattr(known, name):
            setattr(known, name, True)
    if os.environ.get(WITH_OURS):
        import pytorch_lightning as pl
        import pytorch_lightning.cli

        from lit_cifar import Trainer

        for module in (pl, pl.trainer, pl.trainer.trainer, pl.cli):
            vars(module)["Trainer"] = Trainer


if __name__ == "__main__":
    sys.exit(main())
