"""`--help`, `--version` and no word at all: what a newcomer reads first, short and complete."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import Cli

import lit_cifar

COMMANDS = ("fit", "validate", "test", "predict", "show", "nets", "runs", "compare", "sweep", "export", "demo")
SECTIONS = ("data", "model", "trainer")


def test_help_is_one_table_of_all_commands_with_a_line_each(cli: Cli) -> None:
    result = cli("--help")
    assert (result.code, result.err) == (0, "")
    lines = result.out.splitlines()
    assert len(lines) <= 40
    assert all(len(line) <= 90 for line in lines)
    for call in (*COMMANDS, "predict PATH ..."):
        (line,) = [line for line in lines if re.match(rf"  {re.escape(call)}  +[A-Z]", line)]
        assert line.endswith(".")
    assert cli("-h") == result


def test_no_word_at_all_is_answered_with_the_commands_and_exit_code_2(cli: Cli) -> None:
    assert cli() == (2, cli("--help").out, "")


def test_the_table_and_the_version_are_printed_without_importing_torch() -> None:
    script = "import sys\nfrom lit_cifar.__main__ import main\nsys.argv[1:] = {!r}\nmain()\n"
    script += "assert 'torch' not in sys.modules"
    for words, printed in ((["--help"], "commands:"), (["--version"], lit_cifar.__version__)):
        result = subprocess.run([sys.executable, "-c", script.format(words)], capture_output=True, text=True)
        assert (result.returncode, result.stderr) == (0, "")
        assert printed in result.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command_is_short_and_leaks_no_types(
    cli: Cli, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    result = cli(command, "--help")
    assert (result.code, result.err) == (0, "")
    lines = result.out.splitlines()
    assert lines[0].startswith(f"usage: python -m lit_cifar {command}")
    assert len(lines) <= 150
    assert all(len(line) <= 80 for line in lines)
    for leak in ("<class '", "known subclasses", "typing.", "Namespace(", "``", ":class:", "%("):
        assert leak not in result.out
    assert not list(tmp_path.iterdir())


def flags_in(text: str) -> list[str]:
    return re.findall(r"^  (?:-\w, )?--([\w.]+)", text, re.MULTILINE)


def test_the_help_of_fit_begins_with_what_people_use_first_in_groups(cli: Cli) -> None:
    text = cli("fit", "--help").out
    titles = re.findall(r"^(\w.*):$", text, re.MULTILINE)
    assert [title.split()[0] for title in titles] == [
        *("recipe", "data", "augmentation", "network", "optimizer", "training", "output", "more")
    ]
    flags = flags_in(text)
    assert flags[0] == "config"
    assert flags[flags.index("trainer.max_epochs") - 1] == "model.lr_scheduler_interval"
    assert {"model.net", "data.root", "trainer.devices", "trainer.default_root_dir"} <= {*flags}
    assert not [flag for flag in set(flags) if flags.count(flag) > 1 and flag != "help"]


def test_help_all_lists_every_flag(cli: Cli) -> None:
    flags = {*flags_in(cli("fit", "--help=all").out)}
    settings = yaml.safe_load(cli("fit", "--print_config").out)
    keys = {name for name, value in settings.items() if name not in SECTIONS and value is not None}
    keys |= {f"{section}.{name}" for section in SECTIONS for name in settings[section]}
    assert len(keys) > 80
    assert keys <= flags
    assert {"help", "config", "ckpt_path", "resume"} <= flags
    assert {name for name in flags_in(cli("fit", "--help").out) if not name.endswith(".help")} <= flags


@pytest.mark.parametrize(("word", "shown"), [("data", "data."), ("trainer", "trainer."), ("clip", "clip")])
def test_help_of_a_word_shows_a_section_or_the_flags_of_that_name(cli: Cli, word: str, shown: str) -> None:
    result = cli("fit", f"--help={word}")
    flags = flags_in(result.out)
    assert len(flags) > 1
    assert all(shown in flag for flag in flags)
    assert cli("fit", "--help", word) == result


def test_help_of_classes_of_ones_own_shows_the_flags_that_there_are(cli: Cli, tmp_path: Path) -> None:
    recipe = tmp_path / "own.yaml"
    recipe.write_text("model: {class_path: pytorch_lightning.demos.boring_classes.BoringModel}\n")
    flags = flags_in(cli("fit", "--config", recipe, "--help").out)
    assert "trainer.max_epochs" in flags
    assert "data.root" not in flags


def test_help_of_a_word_that_no_flag_has_names_the_nearest(cli: Cli) -> None:
    assert cli("fit", "--help=traner").failed(2, "flag-unknown", "traner", "trainer")


def test_every_sentence_of_a_parameter_stands_in_the_help_of_fit(cli: Cli) -> None:
    text = " ".join(cli("fit", "--help=all").out.split())
    for documented in (lit_cifar.CIFAR10DataModule, lit_cifar.LitClassifier):
        arguments = (documented.__doc__ or "").split("Args:\n")[1].split("\n\n")[0]
        for sentence in re.split(r"\n        (?=\w+: )", arguments):
            name, _, description = " ".join(sentence.split()).partition(": ")
            if name != "seed":
                assert description in text, name


def test_a_class_that_is_named_shows_its_own_help(cli: Cli) -> None:
    result = cli("fit", "--model.optimizer.help", "AdamW")
    assert result.code == 0
    assert result.out.startswith("torch.optim.AdamW\n")
    assert "--model.optimizer.weight_decay" in result.out
    assert "usage" not in result.out


def test_predict_help_is_that_of_pictures_of_ones_own_and_names_the_test_images(cli: Cli) -> None:
    result = cli("predict", "--help")
    assert "PATH" in result.out.splitlines()[0]
    assert "test images" in result.out
