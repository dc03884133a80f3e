"""`--help`, `--version` and no word at all: what a newcomer reads first, short and complete."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Cli

import lit_cifar

COMMANDS = ("fit", "validate", "test", "predict", "show", "nets", "runs", "compare", "sweep", "export", "demo")


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
    assert len(lines) <= 400
    assert all(len(line) <= 80 for line in lines)
    for leak in ("<class '", "known subclasses", "typing.", "Namespace(", "``", ":class:", "%("):
        assert leak not in result.out
    assert not list(tmp_path.iterdir())


def test_the_help_of_fit_begins_with_what_people_use_first_and_lists_every_flag(cli: Cli) -> None:
    text = cli("fit", "--help").out
    titles = re.findall(r"^(\w.*):$", text, re.MULTILINE)
    assert [title.split()[0] for title in titles] == ["options", "data", "model", "optimizer", "trainer"]
    flags = re.findall(r"^  (?:-\w, )?--([\w.]+)", text, re.MULTILINE)
    assert flags[:4] == ["help", "config", "print_config", "ckpt_path"]
    assert flags[flags.index("trainer.max_epochs") - 1] == "model.lr_scheduler_interval"
    config = cli("fit", "--print_config").out
    names = re.findall(r"^(\w+):", config, re.MULTILINE)
    for section in ("data", "model", "trainer"):
        keys = re.findall(r"^  (\w+):", config.split(f"\n{section}:\n")[1].split("\n\n")[0], re.MULTILINE)
        names += [f"{section}.{key}" for key in keys]
    assert {"data.batch_size", "model.optimizer", "trainer.precision"} <= {*names} - {*names}.difference(flags)
    assert {"data", "model", "trainer"} <= {*names}


def test_every_sentence_of_a_parameter_stands_in_the_help_of_fit(cli: Cli) -> None:
    text = " ".join(cli("fit", "--help").out.split())
    for documented in (lit_cifar.CIFAR10DataModule, lit_cifar.LitClassifier):
        arguments = (documented.__doc__ or "").split("Args:\n")[1].split("\n\n")[0]
        for sentence in re.split(r"\n        (?=\w+: )", arguments):
            name, _, description = " ".join(sentence.split()).partition(": ")
            if name != "seed":
                assert description in text, name


def test_a_class_that_is_named_shows_its_own_help(cli: Cli) -> None:
    result = cli("fit", "--model.optimizer.help", "AdamW")
    assert result.code == 0
    assert "weight_decay" in result.out


def test_predict_help_is_that_of_pictures_of_ones_own_and_names_the_test_images(cli: Cli) -> None:
    result = cli("predict", "--help")
    assert "PATH" in result.out.splitlines()[0]
    assert "test images" in result.out
