"""Looks at what the archives of a release hold: `python check_archives.py FOLDER`; exit code 1 if something is wrong.

The wheel is the package and nothing else. The experiments are no part of it: they are run from a clone, and the sdist
is one.
"""

import sys
import tarfile
import zipfile
from pathlib import Path

IN_SDIST = (
    "CHANGELOG.md", "CITATION.cff", "LICENSE", "README.md", "docs/conf.py", "experiments/fig8.py", "pyproject.toml",
    "tests/conftest.py",
)  # fmt: skip


def problems(folder: Path) -> list[str]:
    """Everything that is wrong, in words."""
    wheels, sdists = sorted(folder.glob("*.whl")), sorted(folder.glob("*.tar.gz"))
    if len(wheels) != 1 or len(sdists) != 1:
        return [f"expected one wheel and one sdist in {folder}, found {[path.name for path in wheels + sdists]}"]
    with zipfile.ZipFile(wheels[0]) as archive:
        in_wheel = archive.namelist()
    with tarfile.open(sdists[0]) as archive:
        in_sdist = {name.partition("/")[2] for name in archive.getnames()}
    strays = [name for name in in_wheel if not name.startswith("jaxdistill/") and ".dist-info/" not in name]
    found = [f"the wheel holds {name}" for name in strays]
    wanted = ("jaxdistill/py.typed", "jaxdistill/training/train.py")
    found += [f"the wheel lacks {name}" for name in wanted if name not in in_wheel]
    found += [] if any(name.endswith("/licenses/LICENSE") for name in in_wheel) else ["the wheel lacks the license"]
    found += [f"the sdist lacks {name}" for name in IN_SDIST if name not in in_sdist]
    found += [f"the sdist holds {name}" for name in in_sdist if name.startswith(("results/", "outputs/", ".git/"))]
    if not found:
        for path, what in ((wheels[0], "the package"), (sdists[0], "the clone")):
            print(f"{path.name}: {path.stat().st_size / 1e6:.1f} MB, {what}")
    return found


if __name__ == "__main__":
    wrong = problems(Path(sys.argv[1]))
    print("\n".join(wrong), file=sys.stderr)
    sys.exit(bool(wrong))
