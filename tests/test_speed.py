"""tests/benchmarks/speed.py compares."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent / "benchmarks"


def test_speed_measures_all_sides_in_turns_and_compares_their_medians(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import comparisons
    import speed

    (tmp_path / "lit_cifar").mkdir()
    (tmp_path / "lit_cifar" / "__main__.py").touch()
    now, before, other = iter([1.0, 9.0, 2.0]), iter([4.0, 5.0, 80.0]), iter([8.0, 8.0, 9.0])
    order: list[str] = []

    def ours(setting: comparisons.Setting) -> float:
        assert (setting.steps, setting.flags) == (7, ("--model.compile=true",))
        order.append("now" if setting.checkout == BENCHMARKS.parents[1] else setting.checkout.name)
        return next(now if order[-1] == "now" else before)

    def theirs(setting: comparisons.Setting) -> float:
        order.append("other")
        return next(other)

    monkeypatch.setitem(comparisons.COMPARISONS, "step", comparisons.Comparison("ms", "fit", "bare", ours, theirs))
    output = tmp_path / "speed.json"
    words = ["--against=step", "--rounds=3", "--steps=7", f"--before={tmp_path}", f"--output={output}"]
    monkeypatch.setattr(sys, "argv", ["speed.py", *words, "--model.compile=true"])
    speed.main()
    assert order == ["now", tmp_path.name, "other"] * 3
    figures = json.loads(output.read_text())
    assert figures["values"] == {"fit": [1, 9, 2], "fit, before": [4, 5, 80], "bare": [8, 8, 9]}
    assert figures["ratios"] == {"fit / fit, before": 2 / 5, "fit / bare": 2 / 8, "fit, before / bare": 5 / 8}
    assert capsys.readouterr().out.count("Round ") == 3


@pytest.mark.slow
@pytest.mark.parametrize("against", ["plain", "step", "eval", "start"])
def test_speed_measures_real_trainings(pictures: Path, tmp_path: Path, against: str) -> None:
    recipe = tmp_path / "three.yaml"
    classes = "class_path: lit_cifar.nets.tutorial.Net\n    init_args: {num_classes: 3}"
    text = (BENCHMARKS.parents[1] / "configs" / "tutorial.yaml").read_text()
    recipe.write_text(text.replace("class_path: lit_cifar.nets.tutorial.Net", classes).replace("5000", "6"))
    words = (f"--against={against}", "--rounds=1", "--steps=20", f"--config={recipe}", f"--data.root={pictures}")
    before = ("--before", BENCHMARKS.parents[1], f"--output={tmp_path / 'speed.json'}")
    subprocess.run([sys.executable, BENCHMARKS / "speed.py", *words, *before], check=True, cwd=tmp_path)
    figures = json.loads((tmp_path / "speed.json").read_text())
    (now,), (same,), (other,) = figures["values"].values()
    assert min(now, same, other) > 0
    assert len(figures["ratios"]) == 3
