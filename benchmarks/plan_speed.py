"""Times `diag check` on 300 manifests in one call against merely parsing them with the same YAML library.

Usage: PYTHONPATH=. python benchmarks/plan_speed.py [FOLDER]

Without a folder the fixtures' own Kubernetes and Dynamo manifests are repeated. What is timed is reading and judging, in
one process; the aim is three times the parsing (ruamel.yaml, pure Python, composed as the readers compose it).
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from diag.diagnose.plans import check_plans, parse_gpus
from diag.observe.plans import read_plan
from diag.system import UserError

COUNT = 300
FIXTURES = Path(__file__).parents[1] / "fixtures" / "plans"


def manifests(folder: Path | None) -> list[Path]:
    """300 manifests that hold a plan; fewer files are taken several times."""
    if folder is None:
        found = [
            *FIXTURES.glob("kubernetes/*.yaml"),
            *FIXTURES.glob("dgd/*.yaml"),
            *FIXTURES.glob("dynamo*/*.yaml"),
        ]
    else:
        found = []
        for path in sorted(folder.rglob("*.yaml")):
            try:
                if read_plan(str(path)).services:
                    found.append(path)
            except UserError:
                continue
            if len(found) == COUNT:
                break
    return [found[index % len(found)] for index in range(COUNT)] if found else []


def parse_all(paths: list[Path]) -> float:
    """Seconds to compose every document."""
    begin = time.perf_counter()
    for path in paths:
        try:
            for _ in YAML(typ="safe", pure=True).compose_all(path.read_text("utf-8")):
                pass
        except YAMLError:
            continue
    return time.perf_counter() - begin


def check_all(paths: list[Path]) -> float:
    """Seconds to read and judge every plan."""
    hardware = parse_gpus("8xH200")
    begin = time.perf_counter()
    check_plans([read_plan(str(path)) for path in paths], hardware)
    return time.perf_counter() - begin


def main() -> None:
    """Print both times and their ratio."""
    paths = manifests(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
    check_all(paths[:10])  # tables are loaded once
    parsing = min(parse_all(paths) for _ in range(3))
    checking = min(check_all(paths) for _ in range(3))
    size = sum(path.stat().st_size for path in paths)
    print(
        f"{len(paths)} manifests, {size / 1e6:.2f} MB: parsing {parsing:.2f} s, checking {checking:.2f} s, {checking / parsing:.2f} x"
    )


if __name__ == "__main__":
    main()
