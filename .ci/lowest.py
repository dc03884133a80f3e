"""Prints the lowest version of each dependency that pyproject.toml allows, as constraints for pip."""

import re
from pathlib import Path


def lowest(pyproject: str) -> list[str]:
    """Returns `name==version` for each `name>=version`. Uses no tomllib, which Python 3.10 lacks."""
    return [f"{name}=={version}" for name, version in re.findall(r'"([\w-]+)(?:\[\w+\])?>=([\d.]+),<\d', pyproject)]


if __name__ == "__main__":
    print("\n".join(lowest(Path(__file__).parents[1].joinpath("pyproject.toml").read_text())))
