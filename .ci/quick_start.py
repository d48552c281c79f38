"""Runs the first Python example of a README, made smaller, with the jaxdistill that is installed: `... README.md`."""

import importlib.util
import re
import sys
import time
from pathlib import Path

SMALLER = {
    "num_iterations=2000": "num_iterations=200",
    "sample_mdps(key, 64)": "sample_mdps(key, 8, num_rows=8, num_cols=8)",
}

if __name__ == "__main__":
    readme = Path(sys.argv[1]).resolve()
    example = re.search(r"```python\n(.*?)```", readme.read_text(encoding="utf-8"), re.DOTALL)[1]
    for size, small in SMALLER.items():
        if size not in example:
            sys.exit(f"The README's example has no {size!r} any more: change SMALLER in {__file__}.")
        example = example.replace(size, small)
    started, names = time.perf_counter(), {}
    exec(compile(example, readme.name, "exec"), names)
    package = Path(names["jd"].__file__).resolve()
    if readme.parent in package.parents:
        sys.exit(f"jaxdistill came from the clone ({package}), not from the wheel.")
    if importlib.util.find_spec("experiments") is not None:
        sys.exit("The experiments are importable outside the clone: the wheel must not hold them.")
    if not Path("distill.png").stat().st_size > 10_000:
        sys.exit("The example drew no picture.")
    print(f"\n{time.perf_counter() - started:.0f} s. The experiments are no part of the wheel: they need a clone.")
