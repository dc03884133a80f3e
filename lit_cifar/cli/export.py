"""`python -m lit_cifar export`: writes a trained network to a file that runs elsewhere."""

import sys
from pathlib import Path

from rich.console import Console

from lit_cifar.cli.parser import Parser, add_checkpoint_arguments
from lit_cifar.cli.start import load
from lit_cifar.deploy.export import FORMATS, FormatName, check_images, check_output, export
from lit_cifar.nets import net_name
from lit_cifar.report.tables import plural


def main(argv: list[str]) -> None:
    """Writes the file, checks it, and prints its size and the largest difference of its probabilities."""
    parser = Parser(prog="python -m lit_cifar export", description="Write a network to a file for other programs.")
    add_checkpoint_arguments(parser)
    parser.add_argument("--format", type=FormatName, default="onnx", help="Kind of file.")
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="File to write. By default, model with the format's suffix."
    )
    folder = "Folder of test images for the check."
    parser.add_argument("--data.root", type=Path, default=Path("data"), metavar="FOLDER", help=folder)
    config = parser.parse_args(argv)
    output = config.output or Path(f"model{FORMATS[config.format].suffix}")
    check_output(output, config.format)
    checkpoint, classifier = load(config, "none")
    path = checkpoint.path
    images, what = check_images(classifier, config.data.root)
    with Console(file=sys.stderr).status(f"Exporting {path}"):  # this stream: torch's output is redirected meanwhile
        written, difference = export(classifier, config.format, output, images)
    print(f"Checkpoint: {path}, {net_name(classifier.described['net'])}, {plural(len(classifier.classes), 'class')}")
    same = f"same predictions as LitClassifier.predict, probabilities within {difference:.1g}"
    print(f"Checked on {what}: {same}")
    for file in written:
        print(f"Written: {file}, {plural(file.stat().st_size, 'byte')}")
