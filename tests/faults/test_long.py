"""Hundreds of short epochs: neither memory nor open files nor the time of an epoch grow, and logs as documented."""

import sys
import time
from pathlib import Path
from statistics import median

import pytest
import pytorch_lightning as pl
from conftest import Cli

from lit_cifar.training.callbacks.progress import LitProgressBar

resource = pytest.importorskip("resource", reason="needs a POSIX system: limits and peaks of memory")

EPOCHS = 600
EVENTS = 450  # bytes of an epoch with three classes: 3 + 5 points


class Watch:
    """What a process uses, at the end of each epoch."""

    def __init__(self) -> None:
        self.memory: list[int] = []  # in bytes
        self.files: list[int] = []
        self.seconds: list[float] = []  # of the processor: others may use it too

    def look(self) -> None:
        self.memory.append(int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize())
        self.files.append(len(list(Path("/proc/self/fd").iterdir())))
        self.seconds.append(time.process_time())


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    """Looks without being a callback, which would slow the loop."""
    found, before = Watch(), LitProgressBar.on_train_epoch_end

    def look(bar: LitProgressBar, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        before(bar, trainer, module)
        found.look()

    monkeypatch.setattr(LitProgressBar, "on_train_epoch_end", look)
    return found


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: reads /proc")
def test_hundreds_of_epochs_take_no_more_of_anything_at_their_end(
    cli: Cli, pictures: Path, tmp_path: Path, watch: Watch
) -> None:
    data = (f"--data.root={pictures}", "--data.val_size=6", "--data.batch_size=8", "--model.net.num_classes=3")
    run = (f"--trainer.max_epochs={EPOCHS}", f"--trainer.default_root_dir={tmp_path}")
    result = cli("fit", "--config=configs/tutorial.yaml", *data, *run)
    assert result.code == 0, result.err
    assert result.err == ""
    quarter = EPOCHS // 4
    assert len(watch.memory) == EPOCHS
    grown = median(watch.memory[-quarter:]) - median(watch.memory[quarter : 2 * quarter])
    # Points take 0.3 kB an epoch, and the allocator gives back 4 MB now and then; one batch kept an epoch were 37 MB
    assert grown < 12 * 1024 * 1024
    assert median(watch.files[-quarter:]) <= median(watch.files[:quarter])  # a file may be open just then
    each = [b - a for a, b in zip(watch.seconds, watch.seconds[1:], strict=False)]
    assert median(each[-quarter:]) < 2 * median(each[1:quarter])
    (folder,) = tmp_path.glob("lightning_logs/tutorial/version_0")
    events = sum(path.stat().st_size for path in folder.glob("events.*"))
    assert events < EVENTS * EPOCHS + 2_000_000  # with the report's pictures
