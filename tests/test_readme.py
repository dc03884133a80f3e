"""The README's Python runs as it stands there."""

import re
import subprocess
import sys
from pathlib import Path

from conftest import paint_pictures

README = Path(__file__).parent.parent / "README.md"


def test_the_experiment_of_the_readme_runs(tmp_path: Path) -> None:
    (script,) = re.findall(r"^```python\n(.*?)^```", README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    paint_pictures(tmp_path / "data")
    finished = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert finished.returncode == 0, finished.stderr
    lines = re.findall(r"^(.+): (\d+\.\d) %$", finished.stdout, re.MULTILINE)
    assert [name for name, _ in lines] == ["all images", "the hardest 60 %", "a random 60 %"]
