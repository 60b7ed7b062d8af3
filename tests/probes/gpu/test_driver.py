"""driver.versions: the two halves, the shadow, and what torch's CUDA asks."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from diag.model import Reason, Status
from diag.observe.probes.cudalib import find_libcuda, find_torch
from diag.observe.probes.driver_versions import judge
from diag.observe.probes.nvhost import kernel_module
from diag.system import Root

Look = Callable[..., Any]

PROPRIETARY = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.90.07  Fri May 31 09:35:42 UTC 2024\nGCC version:  gcc\n"
OPEN = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.124.06  Release Build  (dvs@x)  Wed\nGCC version: gcc\n"
OPEN_ARM = "NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  580.65.06  Release Build\n"


@pytest.mark.parametrize(
    ("text", "version", "flavor"),
    [
        (PROPRIETARY, "550.90.07", "proprietary"),
        (OPEN, "570.124.06", "open"),
        (OPEN_ARM, "580.65.06", "open"),
    ],
)
def test_the_module_tells_version_and_kind(
    tree: Callable[..., str], text: str, version: str, flavor: str
) -> None:
    root = Root(tree({"/proc/driver/nvidia/version": text}))

    assert kernel_module(root) == {"version": version, "flavor": flavor}


def test_the_loaders_order_is_kept_and_compat_recognised(tree: Callable[..., str]) -> None:
    root = tree(
        {
            "/etc/ld.so.conf": "include /etc/ld.so.conf.d/*.conf\n",
            "/etc/ld.so.conf.d/00-compat.conf": "# by the toolkit\n/usr/local/cuda/compat\n",
            "/usr/local/cuda/compat/libcuda.so.560.35.03": "",
            "/usr/lib/x86_64-linux-gnu/libcuda.so.550.90.07": "",
        },
        {
            "/usr/local/cuda/compat/libcuda.so.1": "libcuda.so.560.35.03",
            "/usr/lib/x86_64-linux-gnu/libcuda.so.1": "libcuda.so.550.90.07",
        },
    )
    found = find_libcuda(Root(root), {})
    first = find_libcuda(Root(root), {"LD_LIBRARY_PATH": "/nowhere:/usr/lib/x86_64-linux-gnu"})

    assert [(one["version"], one["compat"], one["origin"]) for one in found] == [
        ("560.35.03", True, "ld.so.conf"),
        ("550.90.07", False, "default"),
    ]
    assert [one["version"] for one in first] == ["550.90.07", "560.35.03"]


def test_a_library_without_a_driver_version_in_its_name_is_not_compared(tree: Callable[..., str]) -> None:
    root = tree({"/usr/lib/wsl/lib/libcuda.so.1": "", "/usr/lib/wsl/lib/libcuda.so.1.1": ""})
    (found,) = find_libcuda(Root(root), {"LD_LIBRARY_PATH": "/usr/lib/wsl/lib"})

    assert found["version"] is None


def test_a_matching_driver_is_fine_and_tells_its_version(look: Look) -> None:
    seen = look("driver.versions", "machine=1xH100;driver=570.124.06")

    assert seen.one().status is Status.OK
    assert seen.facts["driver_version"] == "570.124.06"
    assert seen.facts["loaded_libcuda"]["version"] == "570.124.06"
    assert seen.facts["loaded_libcuda"]["cuda_version"] == "12.8"


def test_halves_of_different_versions_fail(look: Look) -> None:
    seen = look("driver.versions", "machine=1xH100;driver=550.127.05")

    assert (seen.one().status, seen.one().data["cause"]) == (Status.FAIL, "driver-library-mismatch")
    assert "570.124.06" in seen.one().summary


def test_nvml_that_refuses_the_kernel_module_fails(look: Look, tree: Callable[..., str]) -> None:
    root = tree({"/proc/driver/nvidia/version": PROPRIETARY})
    with_module = look("driver.versions", "init=18", root=root)
    without = look("driver.versions", "init=18")

    assert with_module.causes() == without.causes() == ["driver-library-mismatch"]
    assert "550.90.07" in with_module.one().summary


def test_no_driver_is_not_applicable(look: Look, tree: Callable[..., str]) -> None:
    seen = look("driver.versions", None, root=tree({}))

    assert (seen.one().status, seen.one().reason) == (Status.SKIP, Reason.NOT_APPLICABLE)


def test_a_hanging_nvml_does_not_hide_the_modules_version(look: Look, tree: Callable[..., str]) -> None:
    root = tree({"/proc/driver/nvidia/version": OPEN})
    seen = look("driver.versions", "machine=1xH100;hang=nvmlInitWithFlags", root=root)

    assert seen.facts["driver_version"] == "570.124.06"
    assert seen.facts["nvml"]["error"]["kind"] == "timeout"
    assert seen.one().status is not Status.UNKNOWN
    assert seen.duration_s < 9


def test_torch_is_read_without_being_imported(tmp_path: Path) -> None:
    package = tmp_path / "lib" / "torch"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('imported')\n")
    (package / "version.py").write_text(
        "from typing import Optional\n__version__ = '2.7.1+cu128'\ncuda: Optional[str] = '12.8'\nhip: Optional[str] = None\n"
    )
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={tmp_path / "lib"} exec {sys.executable} "$@"\n')
    python.chmod(0o755)

    assert find_torch(str(python)) == {"version": "2.7.1+cu128", "cuda": "12.8", "path": str(package)}
    assert find_torch(str(tmp_path / "absent")) is None


def facts(driver: str, cuda: str | None, compat: str | None = None) -> dict[str, Any]:
    version = compat or driver
    library = {
        "path": "/x/libcuda.so.1",
        "version": version,
        "compat": compat is not None,
        "cuda_version": None,
    }
    return {
        "driver_version": driver,
        "cuda_driver_version": None,
        "kernel_module": {"version": driver, "flavor": "open"},
        "nvml": {"version": None, "driver_version": driver, "error": None},
        "libcuda": [],
        "loaded_libcuda": library,
        "torch": {"version": "2.x", "cuda": cuda, "path": "/t"},
        "pci_gpus": 1,
        "ld_library_path": [],
    }


@pytest.mark.parametrize(
    ("driver", "cuda", "compat", "status", "cause"),
    [
        ("550.90.07", "12.8", None, Status.WARN, None),  # loads; run-time compilation may not
        ("570.124.06", "12.8", None, Status.OK, None),
        ("570.26", "12.8", None, Status.OK, None),
        ("515.65.01", "12.1", None, Status.FAIL, "driver-too-old"),
        ("570.124.06", "13.0", None, Status.FAIL, "driver-too-old"),
        ("525.60.13", "12.9", None, Status.WARN, None),
        ("535.104.05", "12.8", "570.124.06", Status.OK, None),  # forward compatibility carries it
        ("550.90.07", None, None, Status.WARN, None),
        ("550.90.07", "14.0", None, Status.UNKNOWN, None),
    ],
)
def test_the_load_floor_is_told_from_the_need_of_run_time_compilation(
    driver: str, cuda: str | None, compat: str | None, status: Status, cause: str | None
) -> None:
    (found,) = [one for one in judge(facts(driver, cuda, compat)) if one.subject.startswith("torch")]

    assert found.status is status
    assert found.data.get("cause") == cause


def test_a_compat_library_older_than_the_host_is_a_shadow() -> None:
    older = [
        one for one in judge(facts("570.124.06", "12.4", "550.54.15")) if one.subject == "compat libcuda"
    ]
    newer = [
        one for one in judge(facts("535.104.05", "12.4", "550.54.15")) if one.subject == "compat libcuda"
    ]

    assert (older[0].status, older[0].data["cause"]) == (Status.FAIL, "cuda-compat-shadow")
    assert newer[0].status is Status.WARN
    assert "cause" not in newer[0].data
