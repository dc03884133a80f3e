"""Wrong recipes: one sentence that names what is wrong, exit code 2, and nothing is written."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Cli
from hypothesis import given
from hypothesis import strategies as st
from words import NUMBERS, RECIPES, TUTORIAL, Place, assert_one_sentence, examples, mistyped, place

from lit_cifar.cli.recipes import Given, read_recipe

__all__ = ["place"]  # a fixture

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
    words = () if b"class_path: lit_cifar.training.data_parallel" in content else data
    place.refuses(("fit", "--config=recipe.yaml", *words), *named)


def test_a_date_in_a_recipe_is_text(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("recipe: 2026-11-28\nseed_everything: 1e2\n")
    assert read_recipe(str(path)) == {"recipe": "2026-11-28", "seed_everything": 100.0}


def test_of_several_recipes_the_last_one_wins_and_a_flag_wins_over_both(tmp_path: Path) -> None:
    words = []
    for name in ("32-true", "bf16-mixed"):
        path = tmp_path / f"{name}.yaml"
        path.write_text(f"trainer: {{precision: {name}}}\n")
        words += ["--config", str(path)]
    assert Given(words).get("trainer.precision") == "bf16-mixed"
    assert Given([*words, "--trainer.precision=16-mixed"]).get("trainer.precision") == "16-mixed"
