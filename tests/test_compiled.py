"""`--model.compile true`."""

import shutil
from pathlib import Path

import pytest
import torch
from conftest import Result
from running import DRAWN, RUN, run, start

COMPILED = (*DRAWN, "--data.batch_size=128", "--trainer.max_steps=10", "--model.compile=true")


@pytest.mark.slow
def test_without_a_compiler_it_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", str(tmp_path / "no_compiler"))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    process = start(*COMPILED, f"--trainer.default_root_dir={tmp_path}")
    _, err = process.communicate(timeout=300)
    assert Result(process.returncode, "", err).failed(1, "compile-failed", "--model.compile", "cpu", "C++ compiler")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++: torch compiles for the CPU with it")
def test_a_compiled_net_learns_the_same_and_leaves_the_same_checkpoint(tmp_path: Path) -> None:
    run(*COMPILED, f"--trainer.default_root_dir={tmp_path / 'compiled'}")
    run(*COMPILED[:-1], f"--trainer.default_root_dir={tmp_path / 'eager'}")
    weights = [
        torch.load(tmp_path / name / RUN / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for name in ("compiled", "eager")
    ]
    assert weights[0].keys() == weights[1].keys()
    for name, weight in weights[0].items():
        torch.testing.assert_close(weight, weights[1][name], rtol=1e-4, atol=1e-5)
