"""What loggers get after a test."""

from pathlib import Path
from typing import Any

import pytest
from drawing import some_images
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from lit_cifar.report.figures import image_grid
from lit_cifar.report.loggers import log_report

REPORT: dict[str, Any] = {
    "recipe": "tutorial",
    "dataset": "folder",
    "data_root": None,
    "seed": 3,
    "net": "lit_cifar.nets.timm.Timm",
    "net_name": "Timm resnet18",
    "parameters": 62006,
    "epochs": 2,
    "steps": 28,
    "batch_size": 4,
    "precision": "32-true",
    "test_loss": 1.25,
    "test_accuracy": 0.5,
    "confusion_matrix": [[1]],
}
OPTIMIZER = {"class_path": "torch.optim.sgd.SGD", "init_args": {"lr": 0.01, "momentum": 0.9}}
CARD = {"recipe": "tutorial", "net": "Timm resnet18", "seed": 3, "batch_size": 4, "optimizer": "SGD", "lr": 0.01}


class ImageLogger(CSVLogger):
    """Takes images as Weights & Biases does."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.taken: list[tuple[str, int | None]] = []
        self.settings: dict[str, Any] = {}

    def log_hyperparams(self, params: Any = None) -> None:
        self.settings = params

    def log_image(self, key: str, images: list[str], step: int | None = None) -> None:
        assert Path(images[0]).read_bytes().startswith(b"\x89PNG")
        self.taken.append((key, step))


@pytest.mark.parametrize("loss", [1.25, None])
def test_each_logger_gets_the_figures_at_the_step_of_the_test_and_the_run_s_settings_and_results(
    tmp_path: Path, loss: float | None
) -> None:
    figures = {"confusion": image_grid(some_images(1), ["猫"], "Confusion")}
    board, images = TensorBoardLogger(tmp_path / "board"), ImageLogger(tmp_path / "images")
    log_report([board, images], REPORT | {"test_loss": loss}, OPTIMIZER, figures)
    assert images.taken == [("confusion", 29)]
    for settings in (images.settings, {"net": REPORT["net"], "optimizer": OPTIMIZER["class_path"], "lr": 0.01}):
        assert settings.items() <= images.settings.items()
    assert "confusion_matrix" not in images.settings

    events = EventAccumulator(board.log_dir)
    events.Reload()
    assert [event.step for event in events.Images("confusion")] == [29]
    assert [(event.step, event.value) for event in events.Scalars("hp/test_accuracy")] == [(29, 0.5)]
    (shown,) = (event.value for event in events.Scalars("hp/test_loss"))
    assert shown == loss or (loss is None and shown != shown)
    metadata = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    values = HParamsPluginData.FromString(metadata).session_start_info.hparams
    read = {name: value.string_value or value.number_value for name, value in values.items()}
    assert read == CARD | {"epochs": 2, "precision": "32-true"}
