"""Checkpoints are compared on the same test images: what each predicts right, and whether the difference is chance."""

import re
from math import comb
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import checkpoint, refused

from lit_cifar import CIFAR10DataModule, LitClassifier
from lit_cifar.cli.compare_checkpoints import main
from lit_cifar.errors import UsageError


def altered(runs: Path, to: Path, **card: Any) -> Path:
    """The checkpoint of `runs` with other values on its card."""
    content = torch.load(checkpoint(runs), weights_only=True)
    content["lit_cifar"]["card"] |= card
    torch.save(content, to)
    return to


def test_each_is_tested_with_its_own_normalization_and_compared_with_the_first(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [checkpoint(runs), altered(runs, tmp_path / "b.ckpt", mean=[0.9, 0.1, 0.5], std=[0.5, 0.5, 0.5])]
    paths.append(altered(runs, tmp_path / "c.ckpt"))
    test = CIFAR10DataModule(str(runs / "pictures"), val_size=6).images.test
    right = [LitClassifier.load_from_checkpoint(path).predict(test.images).argmax(1) == test.labels for path in paths]
    main(["--checkpoints", *map(str, paths), f"--data.root={runs / 'pictures'}"])
    printed = capsys.readouterr().out
    lines = printed.splitlines()
    for path, each in zip(paths, right, strict=True):
        assert any(line.startswith(f"{each.float().mean() * 100:.1f} %") and str(path) in line for line in lines)
    first, second = int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())
    assert first != second
    assert re.search(rf"about {first} images?, only the second about {second}\n", printed)
    assert f"{(second - first) / 24 * 100:+.2f} percentage points" in printed
    tail = sum(comb(first + second, k) for k in range(min(first, second) + 1))
    p = min(1, 2 * tail / 2 ** (first + second))
    assert [float(found) for found in re.findall(r"p [=<] ([\d.]+)", printed)] == [pytest.approx(p, abs=1e-4), 1]
    assert not list(Path().glob("lightning_logs/*/version_*/compare*"))


def test_what_can_not_be_compared_is_refused_before_anything_is_tested(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    best, monkey = str(checkpoint(runs)), altered(runs, tmp_path / "monkey.ckpt", classes=["plane", "car", "monkey"])
    for code, words, *names in (
        ("value-missing", []),
        ("value-missing", ["--checkpoints"]),
        ("value-missing", ["--checkpoints", best], best),
        ("value-invalid", ["--checkpoints", best, f"{checkpoint(runs).parent}/../checkpoints/best.ckpt"], best),
        ("checkpoint-missing", ["--checkpoints", best, "no.ckpt"], "--checkpoints no.ckpt"),
        ("data-classes", ["--checkpoints", best, str(monkey)], "monkey", "bird"),
        ("value-invalid", ["--checkpoints", best, str(monkey), "--ckpt_path=last"], "--ckpt_path"),
    ):
        with refused(UsageError, code, *names):
            main([*words, f"--data.root={runs / 'pictures'}"])
    monkeypatch.setitem(__import__("sys").modules, "scipy", None)
    with refused(UsageError, "package-missing", "scipy"):
        main(["--checkpoints", best, str(monkey)])
    assert capsys.readouterr().out == ""
