"""What only a GPU can show, in at most eight minutes: exactness, speed, waiting, deployment. `.ci/gpu` starts it.

    python tests/benchmarks/gpu.py [--device cpu] [--quick] [--data DIR] [--output gpu.json] [PART ...]

Each part is a process of its own with a time limit. One that fails is written down with its last line, and the others
go on; then the exit code is 1. gpu.json is written after each part, so that a script that is killed leaves what it has.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

HERE = Path(__file__).resolve().parents[2]
SECONDS = 470  # of all parts
PATIENCE = 5  # times as long on a CPU
PARTS = {  # and the seconds each may take
    "device": 60,
    "speedrun": 120,
    "bare_speedrun": 90,
    "same_bits": 120,
    "waits": 60,
    "resnet18": 60,
    "loader": 40,
    "deploy": 90,
    "resnet18_compiled": 150,
    "learns": 120,
}
TESTS = {"same_bits": "same_bits", "waits": "waits", "deploy": "predict or export or demo", "learns": "learn"}
"""Parts that are tests marked gpu, chosen by words of their names."""


def main() -> int:
    """Runs the parts and returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"), help="cpu is for trying this script")
    parser.add_argument("--quick", action="store_true", help="a few steps of each part")
    parser.add_argument("--data", type=Path, default=HERE / "data", help="folder of the images")
    parser.add_argument("--output", type=Path, default=Path("gpu.json"))
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"all by default: {', '.join(PARTS)}")
    options = parser.parse_args()
    if unknown := {*options.parts} - {*PARTS}:
        parser.error(f"there is no part {', '.join(unknown)}; choose from {', '.join(PARTS)}")
    started, patience = time.monotonic(), 1 if options.device == "cuda" else PATIENCE
    found: dict[str, Any] = {"began": time.strftime("%Y-%m-%d %H:%M:%S"), "quick": options.quick, "parts": {}}
    for name in options.parts or PARTS:
        left = patience * SECONDS - (time.monotonic() - started)
        print(f"{name} …", flush=True)
        result = (
            measure(name, options, min(patience * PARTS[name], left)) if left > 10 else _failure("no time was left")
        )
        found["parts"][name] = result
        found["seconds"] = round(time.monotonic() - started, 1)
        part = options.output.with_suffix(".part")
        part.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        part.replace(options.output)
        state = result.get("why", "done") if result["ok"] else f"FAILED: {result['why']}"
        print(f"{name}: {state} ({result.get('seconds', 0):.0f} s)", flush=True)
        if name == "device" and not result["ok"]:
            break  # nothing else could run
    failed = [name for name, result in found["parts"].items() if not result["ok"]]
    print(
        f"Written: {options.output}; {len(found['parts']) - len(failed)} parts done, {len(failed)} failed", flush=True
    )
    return 1 if failed else 0


def _failure(why: str) -> dict[str, Any]:
    return {"ok": False, "why": why}


def measure(name: str, options: argparse.Namespace, limit: float) -> dict[str, Any]:
    """Runs a part; what it found, or why it failed."""
    paths = [HERE, HERE / "tests" / "benchmarks", os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, paths)), "LIT_CIFAR_TEST_DEVICE": options.device}
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        xml = Path(folder, "tests.xml")
        if name in TESTS:
            chosen = ["tests/test_gpu.py", "-m", "gpu", "-k", TESTS[name], f"--junitxml={xml}"]
            words = [
                "-m",
                "pytest",
                "-q",
                "-o",
                "addopts=",
                "-p",
                "no:cacheprovider",
                f"--basetemp={folder}/t",
                *chosen,
            ]
        else:
            length = "quick" if options.quick else "full"
            words = ["tests/benchmarks/gpu_parts.py", name, options.device, str(options.data.resolve()), length]
        code, out, err = run([sys.executable, *words], environment, limit)
        seconds = {"seconds": round(time.monotonic() - started, 1)}
        lines = [line for line in (out + err if name in TESTS else err).splitlines() if line.strip()]
        errors = [line for line in lines if name in TESTS and line.startswith("E  ")]  # pytest's own last line counts
        last = (errors or lines or [f"exit code {code}"])[-1]
        if code is None:
            return _failure(f"it took more than {limit:.0f} s; its last line: {last}") | seconds
        result = {"ok": not code} | seconds | ({"why": last} if code else {})
        if name in TESTS:
            tests = outcomes(xml) if xml.exists() else {}
            reasons = {test["outcome"] for test in tests.values()}
            skipped = {"why": reasons.pop()} if len(reasons) == 1 and "passed" not in reasons and not code else {}
            return result | skipped | {"tests": tests}
        return result | (json.loads(out.splitlines()[-1]) if not code else {})


def run(command: list[str], environment: dict[str, str], limit: float) -> tuple[int | None, str, str]:
    """The exit code, or None if it had to be killed, with all that it had started; and what it printed."""
    text: dict[str, Any] = {"mode": "w+", "encoding": "utf-8", "errors": "replace"}
    with tempfile.TemporaryFile(**text) as out, tempfile.TemporaryFile(**text) as err:
        process = subprocess.Popen(command, cwd=HERE, env=environment, stdout=out, stderr=err)
        code: int | None = None
        try:
            with suppress(subprocess.TimeoutExpired):
                code = process.wait(limit)
        finally:
            if code is None:
                for pid in [*descendants(process.pid), process.pid]:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                process.wait()
        out.seek(0)
        err.seek(0)
        return code, out.read(), err.read()


def descendants(pid: int) -> list[int]:
    """The processes that a process has started, and those that they have, as far as Linux tells."""
    try:
        children = [*map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]
    except OSError:
        return []
    return [each for child in children for each in (*descendants(child), child)]


def outcomes(xml: Path) -> dict[str, Any]:
    """What each test left in pytest's report: passed, or why not, its seconds, and what it recorded."""
    found: dict[str, Any] = {}
    for case in ElementTree.parse(xml).iter("testcase"):
        outcome = "passed"
        for problem in (*case.iter("failure"), *case.iter("error"), *case.iter("skipped")):
            outcome = f"{problem.tag}: {problem.get('message', '').splitlines()[0]}"
        recorded = {each.get("name", ""): each.get("value") for each in case.iter("property")}
        found[case.get("name", "")] = {"outcome": outcome, "seconds": float(case.get("time", 0)), **recorded}
    return found


if __name__ == "__main__":
    sys.exit(main())
