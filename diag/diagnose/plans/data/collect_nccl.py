"""Writes `nccl.json`: the environment variables that NCCL's sources read.

Usage: python collect_nccl.py CHECKOUT_OF_NCCL VERSION
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

PARAMETER = re.compile(r'NCCL_PARAM\(\s*\w+\s*,\s*"([A-Z0-9_]+)"')
NAMED = re.compile(r'"(NCCL_[A-Z0-9_]+)"')
OLDER = (
    "NCCL_TREE_THRESHOLD",
    "NCCL_LL_THRESHOLD",
    "NCCL_COLLNET_NODE_THRESHOLD",
    "NCCL_ASYNC_ERROR_HANDLING",
)
"""Names that earlier versions or PyTorch read."""


def collect(checkout: Path) -> list[str]:
    """Every name, sorted."""
    found: set[str] = set(OLDER)
    for folder in ("src", "ext-net", "ext-tuner", "ext-profiler", "plugins"):
        for path in (checkout / folder).rglob("*"):
            if path.suffix in (".cc", ".h", ".cu", ".c", ".cpp"):
                text = path.read_text("utf-8", "replace")
                found |= {f"NCCL_{name}" for name in PARAMETER.findall(text)} | set(NAMED.findall(text))
    return sorted(found)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python collect_nccl.py CHECKOUT VERSION")
    names = collect(Path(sys.argv[1]))
    about = {
        "about": "environment variables that NCCL reads; made by collect_nccl.py",
        "version": sys.argv[2],
    }
    target = Path(__file__).with_name("nccl.json")
    target.write_text(json.dumps({**about, "variables": names}, indent=1) + "\n", "utf-8")
