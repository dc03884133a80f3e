"""Prints the lowest version that pyproject.toml allows of each dependency, as constraints for pip."""

import re
from pathlib import Path


def lowest(pyproject: str) -> list[str]:
    """`name==version` of each `name>=version`; tomllib is not in Python 3.10."""
    return [f"{name}=={version}" for name, version in re.findall(r'"([\w-]+)(?:\[\w+\])?>=([\d.]+),<\d', pyproject)]


if __name__ == "__main__":
    print("\n".join(lowest(Path(__file__).parents[1].joinpath("pyproject.toml").read_text())))
