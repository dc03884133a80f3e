"""Wrong words on the command line: one sentence that names them, exit code 2, and nothing is written."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from words import (
    CLASSES,
    LETTERS,
    MODEL_AND_DATA,
    NUMBERS,
    OWN,
    TUTORIAL,
    Place,
    assert_one_sentence,
    examples,
    mistyped,
    place,
)

__all__ = ["place"]  # a fixture


@st.composite
def wrong_words(draw: Callable[[Any], Any]) -> tuple[str, list[str], list[str]]:
    """A command, words that make its valid line wrong, and the names of which its answer must hold one."""
    flags = NUMBERS | CLASSES
    kind = draw(
        st.sampled_from(["number", "number", "number", "class", "own", "own", "typo", "value missing", "too many"])
    )
    if kind == "own":
        command = draw(st.sampled_from(sorted(OWN)))
        flag = draw(st.sampled_from(sorted(OWN[command])))
        value = str(draw(OWN[command][flag]))
        return command, [f"{flag}={value}"], [flag, *([value] if value else [])]
    if kind == "typo":
        command = draw(
            st.sampled_from(["fit", "validate", "test", "predict", "predict PATH", "show", "export", "demo"])
        )
        known = sorted(OWN.get(command, flags))
        word = mistyped(draw, draw(st.sampled_from(known)))
        if word in known or word in ("--trainer.min_steps", "--model.net.num_classes"):
            word = "--nothing"
        return command, [f"{word}=1"], [word]
    if kind == "value missing":
        command = draw(st.sampled_from(["fit", "test", "show", "export", "demo"]))
        flag = draw(st.sampled_from(sorted(OWN.get(command, {"--seed_everything": 0, "--trainer.devices": 0}))))
        return command, [flag], [flag]
    if kind == "too many":
        command = draw(st.sampled_from(["fit", "validate", "test", "show", "export", "demo"]))
        word = draw(LETTERS)
        return command, [word], [word]
    command = "fit" if kind == "class" else draw(st.sampled_from(["fit", "fit", "fit", *MODEL_AND_DATA]))
    chosen = NUMBERS if kind == "number" else CLASSES
    if command != "fit":
        few = ("--data.eval_batch_size", "--data.crop", "--trainer.devices", "--data.normalize")
        chosen = {flag: NUMBERS[flag] for flag in few}
    flag = draw(st.sampled_from(sorted(chosen)))
    value = str(draw(chosen[flag]))
    last = flag.rpartition(".")[2].lstrip("-")
    parts = re.findall(r"\w{4,}", value) if kind == "class" else [value] if len(value) > 2 else []
    return command, [f"{flag}={value}"], [flag, last, *parts]


@pytest.mark.slow
@examples(260)
@given(wrong=wrong_words())
def test_a_wrong_word_on_any_command_line_is_named_and_nothing_is_written(
    place: Place, wrong: tuple[str, list[str], list[str]]
) -> None:
    command, words, named = wrong
    place.refuses((*place.lines[command], *words), *named)


MAYBE: dict[str, tuple[str, ...]] = {
    "--data.batch_size": ("data", "batch_size"),
    "--data.val_size": ("data", "val_size"),
    "--data.flip": ("data", "flip"),
    "--data.root": ("data", "root"),
    "--model.compile": ("model", "compile"),
    "--model.slice_size": ("model", "slice_size"),
    "--model.optimizer.lr": ("model", "optimizer", "init_args", "lr"),
    "--model.optimizer.nesterov": ("model", "optimizer", "init_args", "nesterov"),
    "--trainer.max_epochs": ("trainer", "max_epochs"),
    "--trainer.limit_train_batches": ("trainer", "limit_train_batches"),
    "--trainer.default_root_dir": ("trainer", "default_root_dir"),
    "--checkpoint_seconds": ("checkpoint_seconds",),
}
ANYTHING = st.one_of(
    st.integers(-(10**6), 10**6).map(str),
    st.floats(0, 1e6).map(repr),
    st.sampled_from(
        ["yes", "no", "true", "False", "on", "null", "~", "0x10", "1_000", "1e3", "'5'", '"yes"', "", " ", "=", "a=b"]
    ),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=6),
)


@pytest.mark.slow
@examples(60)
@given(flag=st.sampled_from(sorted(MAYBE)), value=ANYTHING)
def test_a_value_is_refused_or_arrives(place: Place, flag: str, value: str) -> None:
    result = place.cli("fit", f"--config={TUTORIAL}", f"{flag}={value}", "--print_config")
    if result.code:
        assert result.code == 2
        assert_one_sentence(result, (flag, value))
        return
    arrived: Any = yaml.safe_load(result.out)
    for key in MAYBE[flag]:
        arrived = arrived[key]
    if isinstance(arrived, str):
        assert arrived == value or float(arrived) == float(value)  # YAML 1.1 takes 1e-05 for a word
    else:
        loaded = yaml.safe_load(value) if value.strip() else None
        assert arrived == (float(value) if isinstance(loaded, str) and not isinstance(arrived, bool) else loaded)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--trainer.val_check_interval=100"], "val_check_interval"),
        (["--trainer.limit_train_batches=0.1"], "limit_train_batches"),
        (["--model.sides=[[0,20]]"], "--model.sides"),
        (["--model.loss=torch.nn.MSELoss"], "--model.loss"),
        (["--model.net=torch.nn.Identity"], "--model.net"),
        (["--model.optimizer=SparseAdam"], "--model.optimizer"),
        (["--trainer.callbacks={class_path: EarlyStopping, init_args: {monitor: nothing}}"], "nothing"),
        (["--data.transform=torch.nn.Flatten"], "--data.transform"),
    ],
)
def test_what_only_training_can_find_wrong_is_named(place: Place, words: list[str], named: str) -> None:
    line = [word for word in place.lines["fit"] if not word.startswith("--trainer.max_epochs")]
    if words[0].startswith("--model.net="):
        line.remove("--model.net.num_classes=3")
    result = place.cli(*line, "--data.batch_size=54", "--trainer.max_epochs=1", "--trainer.logger=false", *words)
    assert result.code == 2, result
    assert_one_sentence(result, tuple(words))
    assert named in result.err


@pytest.mark.slow
def test_degrees_of_a_transform_may_be_a_number(place: Place) -> None:
    rotation = "{class_path: torchvision.transforms.v2.RandomRotation, init_args: {degrees: 10}}"
    result = place.cli(*place.lines["fit"], f"--data.transform={rotation}")
    assert result.code == 0, result.err
    config = Path("lightning_logs/tutorial/version_0/config.yaml")
    assert yaml.safe_load(config.read_text(encoding="utf-8"))["data"]["transform"]["init_args"]["degrees"] == 10
    words = (
        "--data.transform=torchvision.transforms.v2.RandomRotation",
        "--data.transform.degrees=10",
        "--print_config",
    )
    assert "degrees: 10" in place.cli("fit", *words).out
