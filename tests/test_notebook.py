"""In a notebook: docs/tutorial.ipynb, the bar, figures and report below a cell, and a second run in the same kernel."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import nbclient
import nbformat
import pytest
from conftest import CLASSES, paint_pictures

NOTEBOOK = Path(__file__).parent.parent / "docs" / "tutorial.ipynb"
SEVERAL_DEVICES = """
try:
    Trainer(devices=2, max_epochs=1).fit(model, datamodule=data)
except Exception as error:
    print(error.code)
"""


class Client(nbclient.NotebookClient):
    """Keeps what is shown for a while only."""

    def process_message(self, msg: dict[str, Any], cell: Any, cell_index: int) -> Any:
        if msg["msg_type"] == "update_display_data":
            shown.append(msg["content"]["data"].get("text/html", ""))
        return super().process_message(msg, cell, cell_index)


shown: list[str] = []


def test_the_notebook_is_kept_without_outputs() -> None:
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    assert not [cell for cell in cells if cell.get("outputs") or cell.get("execution_count")]


@pytest.mark.slow
def test_the_tutorial_runs_in_a_notebook_shows_its_report_and_runs_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paint_pictures(tmp_path / "data", CLASSES)
    monkeypatch.setenv("PYTHONPATH", str(NOTEBOOK.parents[1]))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    tutorial = [cell for cell in notebook.cells if cell.cell_type == "code"]
    again = [cell for cell in tutorial if "Trainer(" in cell.source or "trainer." in cell.source]
    sources = [cell.source for cell in [*tutorial, *again]] + [SEVERAL_DEVICES]
    notebook.cells = [nbformat.v4.new_code_cell(source) for source in sources]
    Client(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()

    printed = [output for cell in notebook.cells for output in cell.outputs]
    assert not [output for output in printed if output.output_type == "stream" and output.name == "stderr"]
    assert printed[-1].text == "notebook-devices\n"
    assert "\x1b[2K" not in "".join(output.get("text", "") for output in printed)  # no bars of `!python`
    (grid,) = [cell for cell in notebook.cells if "image_grid(" in cell.source]
    assert "image/png" in grid.outputs[-1].data
    tests = [cell for cell in notebook.cells if "trainer.test(" in cell.source]
    assert len(tests) == 2
    for cell in tests:
        kinds = [kind for output in cell.outputs for kind in output.get("data", {})]
        assert kinds.count("image/png") >= 2
        assert any("srcdoc" in output.data.get("text/html", "") for output in cell.outputs if "data" in output)
    assert any("<progress" in html and "Epoch 1/2" in html for html in shown)
    assert sorted(path.name for path in tmp_path.glob("lightning_logs/version_*")) == ["version_0", "version_1"]
    assert (tmp_path / "lightning_logs/tutorial/version_0/report.html").exists()
