"""Numbers from logits, against values worked out by hand."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from lit_cifar import CIFAR10DataModule, LitClassifier, Trainer
from lit_cifar.evaluation.confidence import RANKED, calibration, describe, read_answers
from lit_cifar.evaluation.metrics import class_scores, computed, evaluating, metrics
from lit_cifar.evaluation.test_time_augmentation import Views, mean_logits
from lit_cifar.evaluation.wording import percent
from lit_cifar.nets.tutorial import Net

NAMES = ["a", "b", "c", "d"]


def one_hot(classes: list[int], count: int = 3) -> Tensor:
    return torch.nn.functional.one_hot(torch.tensor(classes), count).float()


def test_the_accuracy_of_a_class_is_the_share_of_its_images_that_are_predicted_as_it() -> None:
    measured = metrics(3)
    measured["loss"].update(torch.tensor(2.0).expand(3))
    measured["loss"].update(torch.tensor(4.0).expand(1))
    measured["divisor"].update(torch.tensor(4))
    measured["confusion_matrix"].update(one_hot([0, 1, 1, 1]), torch.tensor([0, 0, 0, 0]))
    measured["confusion_matrix"].update(one_hot([1]), torch.tensor([1]))
    values = computed(measured)
    assert values["confusion_matrix"].tolist() == [[1, 3, 0], [0, 1, 0], [0, 0, 0]]
    assert values["class_accuracy"].tolist() == [0.25, 1, 0]
    assert float(values["accuracy"]) == pytest.approx(2 / 5)
    assert float(values["loss"]) == 2.5


def test_the_loss_of_a_test_is_the_mean_over_its_images_whatever_the_batches(pictures: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = LitClassifier(Net(3))
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, default_root_dir=tmp_path)
    data = CIFAR10DataModule(str(pictures), val_size=0, eval_batch_size=5)  # of 24 images: the last batch has 4
    (results,) = trainer.test(model, datamodule=data, verbose=False)
    images, labels = data.test_dataloader().take(torch.arange(24))
    with torch.no_grad():
        losses = nn.functional.cross_entropy(model.net(images), labels, reduction="none")
    assert results["loss/test"] == pytest.approx(float(losses.mean()), rel=1e-6)


def test_an_evaluation_does_not_count_what_the_one_before_it_counted() -> None:
    measured = metrics(3)
    for right in ([0, 1], [0, 2]):
        measured["loss"].update(torch.tensor(float(right[1])).expand(2))
        measured["divisor"].update(torch.tensor(2))
        measured["confusion_matrix"].update(one_hot(right), torch.tensor([0, 2]))
        values = computed(measured)
    assert (float(values["accuracy"]), float(values["loss"]), int(values["confusion_matrix"].sum())) == (1, 2, 2)


def test_a_single_class_has_a_confusion_matrix_too() -> None:
    measured = metrics(1)
    measured["loss"].update(torch.tensor(0.0).expand(2))
    measured["divisor"].update(torch.tensor(2))
    measured["confusion_matrix"].update(torch.zeros(2, 1), torch.tensor([0, 0]))
    assert computed(measured)["confusion_matrix"].tolist() == [[2]]


def test_precision_recall_and_f1_are_those_of_the_textbook_and_none_where_they_are_not_defined() -> None:
    matrix = torch.tensor([[6, 2, 0, 0], [3, 1, 0, 0], [0, 5, 0, 0], [0, 0, 0, 0]])  # rows are true classes
    scores = class_scores(matrix, NAMES)
    del scores["class_accuracy_interval"]  # see test_statistics.py
    assert scores == {
        "class_precision": {"a": 6 / 9, "b": 1 / 8, "c": None, "d": None},
        "class_recall": {"a": 6 / 8, "b": 1 / 4, "c": 0, "d": None},
        "class_f1": {"a": 12 / 17, "b": 2 / 12, "c": 0, "d": None},
    }


@pytest.mark.parametrize(
    ("fraction", "digits", "text"),
    [
        (0.5417, 1, "54.2 %"),
        (0.9994, 1, "99.9 %"),
        (0.9996, 1, ">99.9 %"),
        (0.9996, 2, "99.96 %"),
        (0.99996, 2, ">99.99 %"),
        (1, 1, "100.0 %"),
        (0, 1, "0.0 %"),
    ],
)
def test_only_what_is_complete_is_called_100_percent(fraction: float, digits: int, text: str) -> None:
    assert percent(fraction, digits) == text


def test_a_network_is_evaluated_in_evaluation_mode_and_each_part_returns_to_its_own_mode() -> None:
    net = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2).eval())
    with pytest.raises(ZeroDivisionError), evaluating(net):
        assert not any(part.training for part in net.modules())
        raise ZeroDivisionError
    assert [part.training for part in net.modules()] == [True, True, False]


def logits_of(probabilities: list[list[float]]) -> Tensor:
    return torch.tensor(probabilities, dtype=torch.float64).log()


def test_calibration_error_is_the_mean_distance_of_accuracy_and_confidence_over_the_images() -> None:
    logits = logits_of([[0.9, 0.1], [0.88, 0.12], [0.06, 0.94], [0.4, 0.6]])  # bins 13, 13, 14 and 9 of 15
    answers = read_answers(logits, torch.tensor([0, 1, 1, 1]))
    bins = calibration(answers)
    assert [(i, b["images"]) for i, b in enumerate(bins) if b["images"]] == [(9, 1), (13, 2), (14, 1)]
    assert (bins[13]["accuracy"], bins[13]["confidence"]) == (0.5, pytest.approx(0.89))
    assert (bins[13]["from"], bins[13]["to"]) == (13 / 15, 14 / 15)
    assert (bins[0]["accuracy"], bins[0]["confidence"]) == (None, None)
    expected = (2 * abs(0.5 - 0.89) + abs(1 - 0.94) + abs(1 - 0.6)) / 4
    assert describe(answers, NAMES)["calibration_error"] == pytest.approx(expected, abs=1e-6)


def test_a_confidence_of_1_belongs_to_the_last_of_the_bins() -> None:
    logits = torch.tensor([[100.0, 0.0], [100.0, 0.0], [3.0, 0.0]])  # 1, 1 and 0.9526
    last = calibration(read_answers(logits, torch.tensor([0, 1, 0])))[-1]
    assert last["images"] == 3
    assert last["accuracy"] == pytest.approx(2 / 3)
    assert last["confidence"] == pytest.approx((1 + 1 + 0.952574) / 3, abs=1e-6)


def test_images_without_a_probability_are_counted_and_left_out() -> None:
    logits = logits_of([[0.9, 0.1], [0.7, 0.3], [float("nan"), 0.3]])
    report = describe(read_answers(logits, torch.tensor([1, 0, 1])), NAMES)
    assert report["without_probability"] == 1
    assert report["calibration_error"] == pytest.approx((0.9 + 0.3) / 2)
    assert [entry["image"] for entry in report["uncertain_images"]] == [1, 0]
    wrong = {"image": 0, "class": "b", "predicted": "a", "probability": 0.9}
    assert report["confident_mistakes"] == [wrong]


def test_rankings_have_32_images_and_equal_confidences_are_in_the_order_of_the_images() -> None:
    logits = torch.tensor([[2.0, 0.0], [2.0, 1e-7], [5.0, 0.0], [2.0, 0.0]])
    report = describe(read_answers(logits, torch.ones(4, dtype=torch.int64)), NAMES)
    assert [entry["image"] for entry in report["confident_mistakes"]] == [2, 0, 1, 3]
    assert [entry["image"] for entry in report["uncertain_images"]] == [0, 1, 3, 2]
    many = describe(read_answers(torch.tensor([[1.0, 0.0]] * 50), torch.ones(50, dtype=torch.int64)), NAMES)
    assert [entry["image"] for entry in many["confident_mistakes"]] == list(range(RANKED)) == list(range(32))


def a_point(row: int, column: int) -> Tensor:
    """A black image of 6 × 6 with one white pixel."""
    image = torch.zeros(1, 1, 6, 6)
    image[0, 0, row, column] = 1
    return image


def flattened(images: Tensor) -> Tensor:
    """A network whose logits are the pixels, so that their means show the weight of each view."""
    return images.flatten(1)


@pytest.mark.parametrize(
    ("views", "point", "expected"),
    [
        ("none", (2, 3), {(2, 3): 1}),
        ("flip", (2, 3), {(2, 3): 1 / 2, (2, 2): 1 / 2}),
        (
            "flip-shift",
            (2, 3),
            {(2, 3): 1 / 4, (2, 2): 1 / 4, (1, 2): 1 / 8, (1, 3): 1 / 8, (3, 4): 1 / 8, (3, 1): 1 / 8},
        ),
        (  # shifted down, row 0 is the reflection of row 1
            "flip-shift",
            (1, 3),
            {(1, 3): 1 / 4, (1, 2): 1 / 4, (0, 2): 1 / 8, (0, 3): 1 / 8}
            | {(2, 4): 1 / 8, (2, 1): 1 / 8, (0, 4): 1 / 8, (0, 1): 1 / 8},
        ),
    ],
)
def test_each_view_has_its_place_and_its_weight(
    views: Views, point: tuple[int, int], expected: dict[tuple[int, int], float]
) -> None:
    mean = mean_logits(flattened, a_point(*point), views).view(6, 6)
    found = {(int(row), int(column)): float(mean[row, column]) for row, column in mean.nonzero()}
    assert found == expected


def test_an_image_of_a_sure_class_keeps_the_logits_of_its_first_view_and_the_others_do_not() -> None:
    images = torch.cat([9 * a_point(2, 3), a_point(2, 3)])  # probabilities 0.996 and 0.07
    sure, unsure = mean_logits(flattened, images, "flip", confidence=0.6)
    assert torch.equal(sure, flattened(images)[0])
    assert torch.equal(unsure, (flattened(images) + flattened(images.flip(-1)))[1] / 2)
