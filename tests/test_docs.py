"""Commands, Python blocks, links and names in the README and on the pages of docs/ are right.

Every block of Python runs as it stands. Every command of ours is parsed, and the slow test runs those that end by
themselves.
"""

import ast
import re
import shlex
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import yaml
from conftest import Cli, paint_pictures
from PIL import Image
from published import cifar100_files, publish, write_batches

ROOT = Path(__file__).parent.parent
CONTRIBUTING = ROOT / ".github" / "CONTRIBUTING.md"
PAGES = [ROOT / "README.md", CONTRIBUTING, *sorted((ROOT / "docs").glob("*.md"))]
TOPICS = "data recipes networks python lightning reports comparing export demo exactness reliability speed design"
CLASSES = ("plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
OTHER_TOOLS = {"", "pip", "pytest", "ruff", "mypy", "git", "cd", "python", ".", "torchrun", "srun", ".ci/gpu"}
"""Commands of other programs, which are not run here. Those that start lit_cifar are parsed from there on."""
HELD_OUT = "--data.val_size=20"
ELSEWHERE = {"--config", "--trainer.devices", "--print_config", "--measure"}
"""Flags of commands that other tests run."""
HOW_MANY_RUN = {"data.md": 17, "recipes.md": 15, "networks.md": 4, "lightning.md": 6, "export.md": 3, "exactness.md": 3}
"""How many commands of each page the slow test runs, so that none escapes it."""


def blocks(page: Path, *languages: str) -> list[str]:
    fence = rf"^```(?:{'|'.join(languages)})\n(.*?)^```"
    return re.findall(fence, page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def prose(page: Path) -> str:
    return re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def commands(page: Path) -> Iterator[list[str]]:
    """The words after `lit_cifar` of every command in a block or between backticks."""
    lines = "\n".join(blocks(page, "bash")).replace("\\\n", " ").splitlines()
    lines += [line for line in re.findall(r"`(python -m lit_cifar [^`…]+)`", prose(page)) if "\n" not in line]
    for line in lines:
        for command in shlex.join(shlex.split(line, comments=True)).split(" '&&' "):
            words = shlex.split(command) or [""]
            if words[:3] == ["python", "-m", "lit_cifar"] or words[0] in ("torchrun", "srun"):
                words = words[words.index("lit_cifar") + 1 :]
                yield words[: words.index(">")] if ">" in words else words
            else:
                assert words[0] in OTHER_TOOLS, f"{page.name}: nothing checks the command {line}"


class Block(NamedTuple):
    """What a block of Python needs beforehand in the folder it runs in, and what it prints."""

    prepare: Callable[[Path], object] = lambda folder: None
    prints: str = ""


def a_picture(folder: Path) -> None:
    Image.fromarray(np.full((48, 64, 3), 120, np.uint8)).save(folder / "picture.jpg")


BLOCKS = {  # by a phrase that stands in this block alone
    "trainer.save_checkpoint(": Block(prints="accuracy/test"),
    'Image.open("picture.jpg"))[0]': Block(a_picture, rf"^({'|'.join(CLASSES)}) \d+%$"),
    "the hardest 60 %": Block(prints=r"^all images: \d+\.\d %\nthe hardest 60 %: \d+\.\d %\na random 60 %: \d+\.\d %$"),
}


def small(script: str) -> str:
    """The script with a validation split that the small data set allows."""
    return script.replace('CIFAR10DataModule("data")', 'CIFAR10DataModule("data", val_size=20)')


def test_the_python_of_the_readme_runs_in_a_process_of_its_own(tmp_path: Path) -> None:
    paint_pictures(tmp_path / "data", CLASSES)
    (script,) = blocks(ROOT / "README.md", "python")
    assert len(script.splitlines()) <= 12
    words = [sys.executable, "-c", small(script)]
    finished = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert finished.returncode == 0, finished.stderr
    assert "Warning" not in finished.stderr
    assert finished.stdout.splitlines()[-1] in CLASSES


def test_the_python_of_the_docs_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    paint_pictures(tmp_path / "data", CLASSES)
    monkeypatch.chdir(tmp_path)
    elsewhere = (ROOT / "README.md", ROOT / "docs" / "export.md")  # above, and in test_export.py
    scripts = [script for page in PAGES if page not in elsewhere for script in blocks(page, "python")]
    for phrase in BLOCKS:
        assert sum(phrase in script for script in scripts) == 1, f"one block must hold {phrase!r}"
    for script in scripts:
        block = next((block for phrase, block in BLOCKS.items() if phrase in script), Block())
        block.prepare(tmp_path)
        with warnings.catch_warnings(record=True) as caught:
            warnings.filterwarnings("ignore", "The number of training batches .* is smaller than the logging interval")
            exec(compile(small(script), "docs", "exec"), {"__name__": "__main__"})
        assert not caught, [str(warning.message) for warning in caught]
        printed = capfd.readouterr().out
        assert re.search(block.prints, printed, re.MULTILINE), printed


def test_every_command_in_readme_and_docs_is_one_that_the_command_line_takes(
    cli: Cli, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(runs)
    shutil.copytree(ROOT / "configs", runs / "configs", dirs_exist_ok=True)
    checked = 0
    for page in PAGES:
        for words in commands(page):
            checked += 1
            if {"--help", "--version"} & {word.partition("=")[0] for word in words}:
                assert cli(*words).code == 0, (page.name, words)
                continue
            # a flag that does not exist is named if all the others exist and have values of the right type
            result = cli(*words, "--no-such-flag")
            assert result.code == 2, (page.name, words, result)
            assert "--no-such-flag" in result.err, (page.name, words, result.err)
    assert checked >= 35


def test_every_flag_of_data_model_and_trainer_in_readme_and_docs_exists(cli: Cli) -> None:
    printed = cli("fit", "--print_config").out
    keys = yaml.safe_load(printed)
    for page in PAGES:
        for section, name in re.findall(r"--(data|model|trainer)\.(\w+)", page.read_text(encoding="utf-8")):
            assert name in keys[section], (page.name, section, name)


@pytest.mark.slow
@pytest.mark.parametrize("name", HOW_MANY_RUN)
def test_the_commands_run(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    paint_pictures(tmp_path / "data", CLASSES)
    paint_pictures(tmp_path / "my-pictures", ("apple", "pear"))
    files = cifar100_files()
    publish(monkeypatch, files, b"", "cifar100")
    write_batches(tmp_path / "data", files, "cifar-100-python")
    for picture in ("photos/a.png", "shots/b.jpg", "frog.png"):
        (tmp_path / picture).parent.mkdir(exist_ok=True)
        Image.new("RGB", (40, 30), "green").save(tmp_path / picture)
    assert cli("fit", HELD_OUT, "--trainer.max_epochs=1").code == 0  # a run for the commands that need one
    run = 0
    for words in commands(ROOT / "docs" / name):
        if words[0] in ("demo", "compare", "sweep") or ELSEWHERE & set(words):
            continue  # has a test of its own
        flags = [*{"fit": (HELD_OUT, "--trainer.max_epochs=2"), "show": (HELD_OUT,)}.get(words[0], ())]
        if {"--model.net", "--model.loss"} & set(words):
            flags.append("--trainer.default_root_dir=others")  # so that `best` stays a checkpoint of the tutorial's
        result = cli(*words, *flags)
        assert result.code == 0, (words, result.err)
        if words[0] == "fit":
            assert "Finished training: 2 epochs" in result.out
        run += 1
    assert run == HOW_MANY_RUN[name]


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=lambda page: page.name)
def test_links_and_pictures_exist(page: Path) -> None:
    targets = re.findall(r"\]\(([^)\s]+)\)", prose(page))
    for target in targets:
        if target.startswith(("https://", "http://")):
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), f"{page.name}: {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in [slug(heading) for heading in headings], f"{page.name}: {target}"


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def test_every_picture_is_shown_and_every_topic_is_linked_from_the_readme() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    for picture in (ROOT / "docs" / "images").iterdir():
        assert f"images/{picture.name})" in text, picture.name
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for topic in TOPICS.split():
        assert f"](docs/{topic}.md)" in readme


def test_the_readme_is_short() -> None:
    assert (ROOT / "README.md").stat().st_size <= 9216


def test_every_accuracy_measured_on_jpeg_images_says_so() -> None:
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        text = page.read_text(encoding="utf-8")
        if re.search(r"\b(54\.3|90\.6|92\.7|53\.7|74\.7|78\.4|44\.8|66\.0|83\.8|62\.8|86\.9) %", text):
            assert "JPEG q75" in text, page.name


WALK = re.compile(r"^\| \d+ \| `([\w./]+)` \|", re.MULTILINE)


def test_the_walk_has_at_most_15_stops_and_visits_none_twice() -> None:
    stops = WALK.findall((ROOT / "docs" / "design.md").read_text(encoding="utf-8"))
    assert stops[0] == "__main__.py"
    assert 10 <= len(stops) == len(set(stops)) <= 15


def drawn_paths(tree: str) -> Iterator[Path]:
    """The files and folders of a tree that is drawn by indentation, several names in one line allowed."""
    folders: list[str] = []
    for line in tree.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        column = re.split(r" {2,}", line.strip())[0]
        del folders[depth:]
        for name in column.split():
            if not re.fullmatch(r"[\w.]+(/|\.\w+)", name):
                break
            yield Path(*folders, name)
            if name.endswith("/"):
                folders.append(name)


def test_every_file_that_the_design_names_exists() -> None:
    page = ROOT / "docs" / "design.md"
    (tree,) = blocks(page, "")
    named = [*map(str, drawn_paths(tree)), *re.findall(r"`([\w./]+(?:/|\.(?:py|jinja|toml|yaml)))[`:]", prose(page))]
    assert len(named) > 60
    missing = [name for name in named if not (ROOT / name).exists() and not (ROOT / "lit_cifar" / name).exists()]
    assert not missing


def test_every_error_code_is_in_the_table_and_the_table_has_no_other() -> None:
    table = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8").partition("| code |")[2].partition("\n\n")[0]
    listed = {code for row in table.splitlines() for code in re.findall(r"`([a-z-]+)`", row.split("|")[1])}
    raised, words = set(), set()
    for module in (ROOT / "lit_cifar").rglob("*.py"):
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                words.add(node.value)
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("Error") and len(node.args) > 1:
                raised |= {arg.value for arg in node.args[:1] if isinstance(arg, ast.Constant)}
    assert len(raised) > 20
    assert {code for code in raised if re.fullmatch(r"[a-z]+(-[a-z]+)*", str(code))} <= listed
    assert listed <= words


def test_every_script_that_a_page_starts_exists() -> None:
    for page in PAGES:
        for script in re.findall(r"python (\S+\.py)", page.read_text(encoding="utf-8")):
            assert (ROOT / script).is_file(), (page.name, script)


def test_every_file_of_the_package_is_in_the_tree_of_the_design() -> None:
    (tree,) = blocks(ROOT / "docs" / "design.md", "")
    drawn = set(drawn_paths(tree))
    files = [path.relative_to(ROOT) for path in (ROOT / "lit_cifar").rglob("*.py")]
    assert not [path for path in files if path not in drawn and path.name != "__init__.py"]
