"""Compile the stand-ins: `python tests/standin/build.py FOLDER [DRIVER]`.

FOLDER gets libnvidia-ml.so.1 and, with a driver version, libcuda.so.DRIVER with its link libcuda.so.1. A process
started with LD_LIBRARY_PATH=FOLDER and STANDIN_NVML=... then meets the machine described there; nvml.c lists the
settings.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
FLAGS = ("-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-std=gnu11")


def build(folder: Path, driver: str | None = None) -> Path:
    """The folder, filled; raises CalledProcessError if the compiler refuses."""
    _compile(folder / "libnvidia-ml.so.1", "nvml.c")
    if driver is not None:
        _compile(folder / f"libcuda.so.{driver}", "libcuda.c")
        (folder / "libcuda.so.1").symlink_to(f"libcuda.so.{driver}")
    return folder


def _compile(library: Path, source: str) -> None:
    command = ["cc", *FLAGS, "-o", str(library), str(HERE / source)]
    subprocess.run(command, check=True, timeout=60)


if __name__ == "__main__":
    print(build(Path(sys.argv[1]), *sys.argv[2:3]))
