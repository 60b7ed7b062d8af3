"""Where a process finds libcuda and torch, without starting either."""

from __future__ import annotations

import ctypes
import importlib.util
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diag.system import Root, run_command

DEFAULT_FOLDERS = (
    "/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/lib/x86_64-linux-gnu", "/lib/aarch64-linux-gnu",
    "/usr/lib64", "/lib64", "/usr/lib", "/lib",
)  # fmt: skip
"""Where ld.so looks last, Debian's multiarch folders included. Source: ld.so(8)."""

FIND_TORCH = "import importlib.util as u; s = u.find_spec('torch'); print(s.origin if s and s.origin else '')"
"""Finds torch without importing it, in an interpreter that is not ours."""


def find_libcuda(root: Root, env: Mapping[str, str]) -> list[dict[str, Any]]:
    """Every libcuda.so.1 in the loader's order: [{path, folder, version, compat, origin}]."""
    found = []
    seen: set[str] = set()
    for folder, origin in _search_path(root, env):
        real = str(root.join(folder).resolve())
        if real in seen:
            continue
        seen.add(real)
        names = [name for name in root.names(folder) if name.startswith("libcuda.so.")]
        if "libcuda.so.1" not in names:
            continue
        path = f"{folder.rstrip('/')}/libcuda.so.1"
        target = root.link(path)
        version = _version(target or "") or next(filter(None, map(_version, names)), None)
        found.append(
            {"path": path, "folder": folder, "version": version, "compat": is_compat(real), "origin": origin}
        )
    return found


def is_compat(path: str) -> bool:
    """True for NVIDIA's forward-compatibility packages, which live in /usr/local/cuda*/compat."""
    return "compat" in Path(path).parts


def _version(name: str) -> str | None:
    # WSL and Jetson ship libcuda.so.1.1, which is no driver version
    match = re.search(r"libcuda\.so\.(\d{3,}\.\d+(?:\.\d+)*)$", name)
    return match.group(1) if match else None


def _search_path(root: Root, env: Mapping[str, str]) -> list[tuple[str, str]]:
    folders = [(part, "LD_LIBRARY_PATH") for part in env.get("LD_LIBRARY_PATH", "").split(":") if part]
    folders += [(part, "ld.so.conf") for part in _conf_folders(root, "/etc/ld.so.conf", 0)]
    return folders + [(part, "default") for part in DEFAULT_FOLDERS]


def _conf_folders(root: Root, name: str, depth: int) -> list[str]:
    folders: list[str] = []
    for raw in (root.read(name) or "").splitlines():
        line = raw.split("#", 1)[0].strip()
        if line.startswith("include") and depth < 3:
            pattern = line.split(None, 1)[-1]
            parent, _, last = pattern.rpartition("/")
            suffix = last.replace("*", "")
            for entry in root.names(parent or "/etc/ld.so.conf.d"):
                if entry.endswith(suffix):
                    folders += _conf_folders(root, f"{parent}/{entry}", depth + 1)
        elif line.startswith("/"):
            folders.append(line)
    return folders


def loaded_libcuda(root: Root) -> dict[str, Any] | None:
    """Which libcuda this very process gets, its CUDA version asked without touching a GPU; None if none loads.

    Only for the real machine: a recorded tree has no libraries to load.
    """
    if root.path != "/":
        return None
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    match = re.search(r"(/\S*libcuda\.so\S*)", root.read("/proc/self/maps") or "")
    path = match.group(1) if match else "libcuda.so.1"
    number = ctypes.c_int(0)
    # cuDriverGetVersion works without cuInit. Source: CUDA driver API, Version Management
    known = library.cuDriverGetVersion(ctypes.byref(number)) == 0 and number.value > 0
    return {
        "path": path,
        "version": _version(path),
        "compat": is_compat(path),
        "cuda_version": f"{number.value // 1000}.{number.value % 1000 // 10}" if known else None,
    }


def find_torch(python: str | None) -> dict[str, Any] | None:
    """{version, cuda, path} of the patient's torch (or of the one beside diag), read from torch/version.py."""
    if python is None or Path(python).resolve() == Path(sys.executable).resolve():
        spec = importlib.util.find_spec("torch")
        origin = spec.origin if spec is not None else None
    else:
        origin = run_command([python, "-c", FIND_TORCH], timeout_s=3.0).text.strip()
    if not origin:
        return None
    try:
        text = (Path(origin).parent / "version.py").read_text("utf-8", "replace")
    except OSError:
        return None
    version = re.search(r"^__version__\s*(?::[^=]*)?=\s*['\"]([^'\"]+)", text, re.MULTILINE)
    cuda = re.search(r"^cuda\s*(?::[^=]*)?=\s*['\"]([\d.]+)", text, re.MULTILINE)
    return {
        "version": version.group(1) if version else "?",
        "cuda": cuda.group(1) if cuda else None,
        "path": str(Path(origin).parent),
    }
