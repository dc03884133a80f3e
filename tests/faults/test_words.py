"""Wrong words, on the command line and in recipes: one sentence that names them, exit code 2, and nothing is written.

Hypothesis chooses them, from the seed WORDS_SEED in the environment; a failure prints it.
"""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Cli, Result, checkpoint, paint_pictures
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

RECIPES = sorted(Path("configs").resolve().glob("*.yaml"))
TUTORIAL = Path("configs/tutorial.yaml").resolve()
SEED = int(os.environ.get("WORDS_SEED", 0))
FIXTURES = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


def examples(count: int) -> Callable[[Any], Any]:
    """`count` examples, with the seed that a failure prints."""
    phases = (Phase.generate,)  # without making a failure smaller, which takes minutes
    chosen = settings(max_examples=count, deadline=None, database=None, suppress_health_check=FIXTURES, phases=phases)
    return lambda test: seed(SEED)(chosen(test))


class Place:
    """A folder with pictures and a trained network, and the command line of each command that would run there."""

    def __init__(self, cli: Cli, runs: Path, folder: Path) -> None:
        self.cli, self.folder = cli, folder
        best = f"--ckpt_path={checkpoint(runs)}"
        data = ("--data.root=pictures", "--data.val_size=6")
        fit = ("fit", f"--config={TUTORIAL}", *data, "--model.net.num_classes=3", "--trainer.max_epochs=0")
        self.lines: dict[str, tuple[str, ...]] = {
            "fit": fit,
            "validate": ("validate", best, *data),
            "test": ("test", best, *data),
            "predict": ("predict", best, *data),
            "predict PATH": ("predict", "pictures", best),
            "show": ("show", *data),
            "export": ("export", best, "--data.root=pictures"),
            "demo": ("demo", best, "--data.root=pictures", "--port=0"),
            "bench": ("bench", "--runs=1", f"--config={TUTORIAL}"),
        }

    def refuses(self, line: tuple[str, ...], *named: str) -> None:
        """Exit code 2 and one sentence with one of these words, or with the last part of a flag; no file is added."""
        before = sorted(self.folder.rglob("*"))
        result = self.cli(*line)
        assert_one_sentence(result, line)
        assert result.code == 2, (line, result)
        keys = {name.lstrip("-").rpartition(".")[2] for name in named}
        keys |= {"learning rate"} if "lr" in keys else set()  # as torch's optimizers call it
        assert any(key in result.err for key in keys), (line, named, result.err)
        assert sorted(self.folder.rglob("*")) == before, line


def assert_one_sentence(result: Result, line: tuple[str, ...]) -> None:
    assert "Traceback" not in result.err, (line, result.err)
    assert "python -X dev" not in result.err, (line, result.err)  # an error that nobody foresaw
    assert result.err.startswith("lit_cifar: "), (line, result.err)
    assert result.err.count("\n") == 1, (line, result.err)


@pytest.fixture
def place(cli: Cli, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    paint_pictures(tmp_path / "pictures")
    cli("show", f"--data.root={tmp_path / 'pictures'}", "--data.val_size=6", f"--output={tmp_path / 'show.png'}")
    monkeypatch.chdir(tmp_path)  # the pictures are in their cache now
    monkeypatch.setattr("uvicorn.Server.run", lambda *_, **__: pytest.fail("demo serves"))
    print(f"WORDS_SEED={SEED}")
    return Place(cli, runs, tmp_path)


MODEL_AND_DATA = ("fit", "validate", "test", "predict")
LETTERS = st.text(st.characters(categories=("L", "Nd"), exclude_characters="\\"), min_size=1, max_size=8)
NO_NUMBER = st.one_of(
    st.sampled_from(
        ["abc", "nan", "NaN", "1.5", "[1]", "[]", "{}", "{a: 1}", "yes", "true", "1,000", "\uff11e", "--", "'4'x"]
    ),
    LETTERS.filter(lambda text: not re.fullmatch(r"\d+|null|Null|NULL", text)),
)
NOT_FINITE = st.sampled_from([".nan", ".inf", "-.inf", "1e400", "-1.0e+999"])
HUGE = st.integers(2**63, 10**30)
BELOW = st.integers(-(10**30), -2)
UP_TO_0 = st.integers(-(10**30), 0)

NUMBERS: dict[str, st.SearchStrategy[Any]] = {
    "--data.batch_size": st.one_of(NO_NUMBER, UP_TO_0, HUGE),
    "--data.eval_batch_size": st.one_of(NO_NUMBER, UP_TO_0, HUGE),
    "--data.crop": st.one_of(NO_NUMBER, BELOW, st.integers(32)),
    "--data.cutout": st.one_of(NO_NUMBER, BELOW, st.integers(65)),
    "--data.jitter": st.one_of(NO_NUMBER, BELOW, NOT_FINITE, st.sampled_from(["1", "1.5"])),
    "--data.val_size": st.one_of(NO_NUMBER, BELOW, HUGE),
    "--data.mean": st.sampled_from(
        ["0.5", "[0.5]", "[.nan,0,0]", "[0,.inf,0]", "[1e30,0,0]", "[a,b,c]", "[[0],0,0]", "{}"]
    ),
    "--data.std": st.sampled_from(
        ["0", "[0,1,1]", "[-1,1,1]", "[1,1,.nan]", "[1e-300,1,1]", "[1,1]", "[1,1,1,1]", "x"]
    ),
    "--data.flip": st.sampled_from(["2", "sometimes", "[true]", ".nan", "Alternate"]),
    "--data.dataset": LETTERS.filter(lambda text: text not in ("auto", "real", "drawn")),
    "--seed_everything": st.one_of(
        st.sampled_from(["false", "abc", ".nan", "1.5", "null"]), BELOW, HUGE, st.integers(2**32)
    ),
    "--model.slice_size": st.one_of(NO_NUMBER, BELOW, HUGE),
    "--model.sides": st.sampled_from(
        ["5", "[5]", "[[0,7]]", "[[.nan,20]]", "[[-1,20]]", "[[0,20,3]]", "[[0,1e9]]", "abc"]
    ),
    "--model.test_time_augmentation": LETTERS.filter(lambda text: text not in ("none", "flip")),
    "--model.confidence_threshold": st.one_of(NO_NUMBER, BELOW, st.sampled_from(["0", "1.1", "sure"])),
    "--model.compile": st.sampled_from(["2", "maybe", "[]"]),
    "--model.optimizer.lr": st.one_of(NOT_FINITE, st.sampled_from(["fast", "-1", "[0.1]", "nan"])),
    "--model.optimizer.momentum": st.one_of(NOT_FINITE, st.sampled_from(["x", "-0.5", "{}"])),
    "--model.optimizer.weight_decay": st.one_of(NOT_FINITE, st.sampled_from(["x", "-0.5"])),
    "--model.net.num_classes": st.one_of(NO_NUMBER, BELOW, HUGE, st.just(0), st.just(4)),
    "--model.lr_scheduler_interval": LETTERS.filter(lambda text: text not in ("epoch", "step")),
    "--trainer.max_epochs": st.one_of(NO_NUMBER, BELOW, HUGE),
    "--trainer.max_steps": st.one_of(NO_NUMBER, BELOW, HUGE),
    "--trainer.min_epochs": st.one_of(NO_NUMBER, BELOW, HUGE),
    "--trainer.devices": st.sampled_from(["0", "-1", "-5", "nan", "1.5", "abc", "99999", "[]", "[-1]", "1e9"]),
    "--trainer.val_check_interval": st.sampled_from(["0", "0.0", "-1", "1.5", ".nan", ".inf", "x"]),
    "--trainer.check_val_every_n_epoch": st.one_of(NO_NUMBER, UP_TO_0, HUGE),
    "--trainer.limit_train_batches": st.sampled_from(["-1", "-0.5", "1.5", ".nan", ".inf", "x"]),
    "--trainer.limit_val_batches": st.sampled_from(["-1", "-0.5", "1.5", ".nan", ".inf", "x"]),
    "--trainer.limit_test_batches": st.sampled_from(["-1", "-0.5", "1.5", ".nan", ".inf", "x"]),
    "--trainer.overfit_batches": st.sampled_from(["-1", "-0.5", "1.5", ".nan", ".inf", "x"]),
    "--trainer.accumulate_grad_batches": st.one_of(NO_NUMBER, UP_TO_0, HUGE),
    "--trainer.log_every_n_steps": st.one_of(NO_NUMBER, BELOW, HUGE),
    "--trainer.gradient_clip_val": st.sampled_from(["-1", ".nan", "abc"]),
    "--trainer.precision": st.sampled_from(["33", "64", "64-true", "16-true", "bf16-true", "float", "[]"]),
    "--trainer.accelerator": LETTERS.filter(
        lambda text: text not in ("auto", "cpu", "gpu", "cuda", "mps", "tpu", "hpu")
    ),
    "--trainer.strategy": st.sampled_from(["dpp", "fsdp", "deepspeed", "5"]),
    "--trainer.max_time": st.sampled_from(["abc", "-1", "{secondss: 1}"]),
    "--trainer.fast_dev_run": st.sampled_from(["-1", "maybe"]),
    "--trainer.enable_progress_bar": st.sampled_from(["maybe", "2", "[]"]),
    "--checkpoint_seconds": st.sampled_from(["-1", ".nan", "soon", "[1]", "null"]),
    "--fast_precision": st.sampled_from(["maybe", "2"]),
    "--resume": LETTERS.filter(lambda text: text not in ("never", "auto")),
    "--recipe": st.sampled_from(["a/b", "..", ".x", "a b", "CON", "nul", "lpt1.x", "x.", "../x", "", "a:b"]),
}
"""Flags of fit, with values that can't be meant."""

CLASSES: dict[str, st.SearchStrategy[str]] = {
    "--model.net": st.sampled_from(
        ["os.system", "torch.nn.Linear", "torch.optim.SGD", "lit_cifar.nets.nothing.Net", "5"]
    ),
    "--model.optimizer": st.sampled_from(
        ["SGDD", "Linear", "os.system", "torch.nn.Linear", "torch.nothing", "SparseAdam", "[]"]
    ),
    "--model.lr_scheduler": st.sampled_from(["SGD", "StepLR", "nothing", "os.getcwd", "torch.nn.Linear", "5"]),
    "--model.loss": st.sampled_from(
        ["torch.nn.MSELoss", "os.system", "torch.nn.functional.nothing", "torch.optim.SGD", "5"]
    ),
    "--data.transform": st.sampled_from(
        ["os.system", "torch.optim.SGD", "5", "nothing.Here", "torchvision.transforms.v2.Nix"]
    ),
    "--trainer.callbacks": st.sampled_from(
        [
            "abc",
            "5",
            "torch.optim.SGD",
            "EarlyStopping",
            "{class_path: EarlyStopping, init_args: {monitor: x, mode: up}}",
            "{class_path: EarlyStopping, init_args: {monitr: val/loss}}",
            "{class_pth: EarlyStopping}",
            "{class_path: EarlyStopping, init_args: 5}",
            "[{class_path: EMAWeightAveraging, init_args: {decay: 5}}]",
            "[[]]",
        ]
    ),
    "--trainer.logger": st.sampled_from(
        ["abc", "5", "torch.optim.SGD", "{class_path: CSVLogger, init_args: {foo: 1}}"]
    ),
    "--trainer.plugins": st.sampled_from(["abc", "[5]"]),
    "--trainer.profiler": st.sampled_from(["abc", "[]"]),
}

OWN: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "predict PATH": {
        "--model.test_time_augmentation": LETTERS.filter(lambda text: text not in ("none", "flip")),
        "--model.net": st.sampled_from(["os.system", "nothing.Here", "x", "torch.nothing", "os"]),
        "--ckpt_path": st.sampled_from(["nowhere", "pictures", "show.png"]),
        "--output": st.sampled_from(["show.png", "show.png/x", "/dev/null/x"]),
    },
    "show": {
        "--count": st.one_of(NO_NUMBER, UP_TO_0, st.integers(65)),
        "--config": st.sampled_from(["nowhere", "pictures", "show.png", "/dev/null"]),
        "--data.crop": NUMBERS["--data.crop"],
        "--data.std": NUMBERS["--data.std"],
        "--data.val_size": NUMBERS["--data.val_size"],
        "--data.root": st.sampled_from(["show.png", ""]),
    },
    "export": {
        "--format": LETTERS.filter(lambda text: text not in ("onnx", "torch", "safetensors")),
        "--ckpt_path": st.sampled_from(["nowhere", "pictures", "show.png"]),
        "--output": st.sampled_from(["pictures", "x.txt", "nowhere/x.onnx"]),
        "--model.net": st.sampled_from(["os.system", "nothing.Here", "x"]),
    },
    "demo": {
        "--port": st.one_of(NO_NUMBER, st.integers(65536), BELOW),
        "--host": st.sampled_from(["nowhere.invalid", "256.256.256.256"]),
        "--ckpt_path": st.sampled_from(["nowhere", "pictures", "show.png"]),
        "--model.net": st.sampled_from(["os.system", "nothing.Here", "x"]),
    },
    "bench": {
        "--runs": st.one_of(NO_NUMBER, UP_TO_0),
        "--rounds": st.one_of(NO_NUMBER, UP_TO_0),
        "--steps": st.one_of(NO_NUMBER, UP_TO_0),
        "--epochs": st.sampled_from(["x", "", "1,x", "-1", "1.5"]),
        "--against": LETTERS,
        "--output": st.sampled_from(["nowhere/x.json"]),
    },
}
"""Flags of our own commands, with values that can't be meant."""


def mistyped(draw: Callable[[Any], Any], word: str) -> str:
    """The word with a letter lost, doubled, changed or exchanged with the next."""
    at = draw(st.integers(3, len(word) - 2))
    kind = draw(st.sampled_from(["lost", "doubled", "changed", "exchanged"]))
    letters = {
        "lost": word[at + 1],
        "doubled": word[at] * 2 + word[at + 1],
        "changed": draw(st.sampled_from("xqü")) + word[at + 1],
        "exchanged": word[at + 1] + word[at],
    }[kind]
    return word[:at] + letters + word[at + 2 :]


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
        chosen = {
            flag: NUMBERS[flag] for flag in ("--data.eval_batch_size", "--data.crop", "--trainer.devices", "--data.std")
        }
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


LAUGHS = "a0: &a0 [ha, ha]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))
NO_RECIPE: dict[str, bytes] = {
    "empty": b"",
    "comment": b"# nothing\n",
    "number": b"5",
    "list": b"[trainer, model]",
    "binary": bytes(range(256)) * 8,
    "utf-16": TUTORIAL.read_text(encoding="utf-8").encode("utf-16"),
    "picture": b"\x89PNG\r\n\x1a\n" + bytes(100),
    "NUL": b"trainer:\x00",
    "deep": b"model: " + b"[" * 5000 + b"]" * 5000,
    "deep mappings": b"".join(b" " * i + b"a:\n" for i in range(2000)),
    "billion laughs": LAUGHS.encode(),
    "itself": b"&a\nmodel: *a\n",
    "tag": b"model: !!python/object/apply:os.system [touch owned]\n",
    "object": b"model: !!python/name:os.system\n",
    "two documents": b"data:\n  crop: 1\n---\ndata:\n  crop: 2\n",
    "unclosed": b"data: {crop: 1\n",
    "tab": b"data:\n\tcrop: 1\n",
    "long number": b"data:\n  crop: " + b"9" * 5000 + b"\n",
    "number as key": b"data:\n  1: 2\n",
    "list as key": b"data:\n  ? [a]\n  : 2\n",
    "yes as key": b"data:\n  yes: 2\n",
    "too large": b"# " + b"x" * 2_000_000,
    "twice": b"data:\n  crop: 1\n  crop: 2\n",
    "twice, quoted": b"data:\n  crop: 1\n  'crop': 2\n",
    "twice, deep": b"model:\n  net: {class_path: a, class_path: b}\n",
    "section is a number": b"trainer: 5\n",
    "section is a list": b"data: [crop]\n",
}


@pytest.mark.parametrize("kind", NO_RECIPE)
@pytest.mark.parametrize("command", ["fit", "show"])
def test_a_file_that_is_no_recipe_is_named(cli: Cli, tmp_path: Path, command: str, kind: str) -> None:
    file = tmp_path / f"{kind}.yaml"
    file.write_bytes(NO_RECIPE[kind])
    result = cli(command, f"--config={file}")
    assert result.code == 2, result
    assert_one_sentence(result, (kind,))
    assert str(file) in result.err
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


@pytest.mark.parametrize("name", ["nowhere.yaml", ".", "/dev/null", "a\0b", "x" * 5000])
def test_a_recipe_that_is_no_file_is_named(cli: Cli, name: str) -> None:
    result = cli("fit", f"--config={name}")
    assert result.code == 2
    assert_one_sentence(result, (name,))
    assert "--config" in result.err


@pytest.mark.parametrize("change", ["byte order mark", "CRLF", "anchor", "quoted number"])
def test_a_recipe_written_in_another_way_means_the_same(cli: Cli, tmp_path: Path, change: str) -> None:
    text = TUTORIAL.read_text(encoding="utf-8").replace("crop: 0", "crop: 3")
    changed = {
        "byte order mark": "\ufeff" + text,
        "CRLF": text.replace("\n", "\r\n"),
        "anchor": text.replace("crop: 3", "crop: &three 3").replace("cutout: 0", "cutout: *three"),
        "quoted number": text.replace("crop: 3", "'crop': 0x3"),
    }[change]
    file = tmp_path / "tutorial.yaml"
    file.write_bytes(changed.encode())
    result = cli("fit", f"--config={file}", "--print_config")
    assert result.code == 0, result.err
    assert yaml.safe_load(result.out)["data"]["crop"] == 3


@st.composite
def wrong_recipes(draw: Callable[[Any], Any]) -> tuple[bytes, list[str]]:
    """A recipe of ours in which one thing is wrong, and the words of which the answer must hold one."""
    lines = draw(st.sampled_from(RECIPES)).read_text(encoding="utf-8").splitlines()
    keys = [i for i, line in enumerate(lines) if re.match(r"\s*\w+:", line)]
    at = draw(st.sampled_from(keys))
    indent, key, value = re.fullmatch(r"(\s*)(\w+):\s*(.*)", lines[at]).groups()  # type: ignore[union-attr]
    kind = draw(st.sampled_from(["twice", "typo", "value", "value", "unknown", "section", "bytes"]))
    named = ["--config", key]
    if kind == "twice":
        lines.insert(at, lines[at])
        named = [f"the key {key} is there twice"]
    elif kind == "typo":
        wrong = mistyped(draw, f"---{key}-")[3:-1] if len(key) > 3 else f"{key}x"
        lines[at] = f"{indent}{wrong or 'x'}q: {value}"
        named = [f"{wrong or 'x'}q", key]
    elif kind == "value":
        wrong_for = {f"--{name.rpartition('.')[2].lstrip('-')}": values for name, values in NUMBERS.items()}
        typed = [i for i in keys if f"--{lines[i].split(':')[0].strip()}" in wrong_for and not lines[i].endswith(":")]
        typed = [i for i in typed if "val_size" not in lines[i]]  # the command line tells it
        at = draw(st.sampled_from(typed))
        indent, key = re.match(r"(\s*)(\w+)", lines[at]).groups()  # type: ignore[union-attr]
        lines[at] = f"{indent}{key}: {draw(wrong_for[f'--{key}'])}"
        named = ["--config", key, "--seed_everything"]
    elif kind == "unknown":
        word = draw(st.text("abcdefgh", min_size=3, max_size=8))
        lines.insert(at, f"{indent}{word}q: 1")
        named = [f"{word}q"]
    elif kind == "section":
        section = draw(st.sampled_from(["trainer", "model", "data"]))
        start = lines.index(f"{section}:")
        del lines[start:]
        lines.append(f"{section}: {draw(st.sampled_from(['5', 'abc', '[]', '[1, 2]', 'true', '.nan']))}")
        named = [section]
    else:
        text = "\n".join(lines).encode()
        cut = draw(st.integers(0, len(text)))
        return text[:cut] + draw(st.sampled_from([b"\xff\xfe", b"\x00", b"\x80abc", b"\x07"])) + text[cut:], [
            "--config"
        ]
    return "\n".join(lines).encode(), named


@pytest.mark.slow
@examples(200)
@given(wrong=wrong_recipes())
def test_what_is_wrong_in_a_recipe_is_named_and_nothing_is_written(
    place: Place, wrong: tuple[bytes, list[str]]
) -> None:
    content, named = wrong
    Path("recipe.yaml").write_bytes(content)
    data = ("--data.root=pictures", "--data.val_size=6", "--model.net.num_classes=3")
    words = () if b"class_path: lit_cifar.parallel" in content else data
    place.refuses(("fit", "--config=recipe.yaml", *words), *named)


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


def test_no_word_at_all_is_answered_with_the_commands(cli: Cli) -> None:
    result = cli()
    assert result.code == 2
    assert "which command? Choose one of fit," in result.err
