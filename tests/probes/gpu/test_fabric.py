"""gpu.fabric: manager, state, IMEX and GPUDirect, each only where it applies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from diag.model import Reason, Status

Look = Callable[..., Any]

DRIVER = "NVRM version: NVIDIA UNIX {kind}Kernel Module for x86_64  570.124.06  Release Build\n"
OPEN = {
    "/proc/driver/nvidia/version": DRIVER.format(kind="Open "),
    "/proc/sys/kernel/osrelease": "6.8.0-45-generic\n",
}
CLOSED = {
    "/proc/driver/nvidia/version": DRIVER.format(kind=""),
    "/proc/sys/kernel/osrelease": "6.8.0-45-generic\n",
}
SWITCHES = {f"/dev/nvidia-nvswitch{n}": "" for n in range(4)}
HCA = {"/sys/class/infiniband/mlx5_0/ports/1/state": "4: ACTIVE\n"}
MANAGER = {
    "/proc/900/stat": "900 (nv-fabricmanage) S 1 1 1 " + "0 " * 40,
    "/proc/900/cmdline": "/usr/bin/nv-fabricmanager\0",
}


def package(version: str) -> dict[str, str]:
    text = f"Package: nvidia-fabricmanager-570\nStatus: install ok installed\nVersion: {version}-1\n\nPackage: zlib1g\nVersion: 1:1.3\n"
    return {"/var/lib/dpkg/status": text}


def test_pcie_boards_need_no_fabric_manager(look: Look, tree: Callable[..., str]) -> None:
    seen = look("gpu.fabric", "machine=4xT4", root=tree(CLOSED))

    assert seen.statuses() == {Status.OK}


def test_an_unfinished_fabric_fails(look: Look, tree: Callable[..., str]) -> None:
    seen = look("gpu.fabric", "machine=8xH200;fabric=2:0", root=tree({**OPEN, **SWITCHES}))

    assert (seen.one("NVLink fabric").status, seen.one("NVLink fabric").data["cause"]) == (
        Status.FAIL,
        "fabric-manager",
    )
    assert seen.one("fabric manager").status is Status.FAIL


def test_a_running_manager_of_the_drivers_version_is_fine(look: Look, tree: Callable[..., str]) -> None:
    root = tree({**OPEN, **SWITCHES, **MANAGER, **package("570.124.06")})
    seen = look("gpu.fabric", "machine=8xH200", root=root)

    assert seen.statuses() == {Status.OK}
    assert seen.facts["fabric_manager"] == {"pids": [900], "version": "570.124.06"}


def test_a_manager_of_another_version_than_the_driver_breaks_the_next_start(
    look: Look, tree: Callable[..., str]
) -> None:
    root = tree({**OPEN, **SWITCHES, **MANAGER, **package("570.86.15")})
    up = look("gpu.fabric", "machine=8xH200", root=root).one("fabric manager")
    down = look("gpu.fabric", "machine=8xA100-80", root=root).one("fabric manager")

    assert (up.status, up.data["cause"]) == (Status.WARN, "fabric-manager")
    assert (down.status, down.data["cause"]) == (Status.FAIL, "fabric-manager")


def test_in_a_container_the_manager_may_run_outside(look: Look, tree: Callable[..., str]) -> None:
    root = tree({**OPEN, **SWITCHES, "/.dockerenv": ""})
    hopper = look("gpu.fabric", "machine=8xH200", root=root).one("fabric manager")
    ampere = look("gpu.fabric", "machine=8xA100-80", root=root).one("fabric manager")

    assert hopper.status is Status.OK
    assert (ampere.status, ampere.reason) == (Status.UNKNOWN, Reason.PERMISSION)


def test_gpudirect_needs_peermem_or_dmabuf_where_there_are_cards(
    look: Look, tree: Callable[..., str]
) -> None:
    neither = look("gpu.fabric", "machine=1xT4", root=tree({**CLOSED, **HCA})).one("GPUDirect RDMA")
    peermem = look("gpu.fabric", "machine=1xT4", root=tree({"/sys/module/nvidia_peermem/refcnt": "0"}))

    assert (neither.status, neither.data["cause"]) == (Status.WARN, "gpudirect-rdma-failure")
    assert "nvidia_peermem" in peermem.one("GPUDirect RDMA").summary


def test_dmabuf_is_possible_with_the_open_module_on_a_recent_kernel(
    look: Look, tree: Callable[..., str]
) -> None:
    recent = look("gpu.fabric", "machine=1xT4", root=tree({**OPEN, **HCA})).one("GPUDirect RDMA")
    old = look("gpu.fabric", "machine=1xT4", root=tree({"/proc/sys/kernel/osrelease": "5.4.0-200\n"}))

    assert recent.status is Status.OK
    assert old.one("GPUDirect RDMA").status is Status.WARN


def test_imex_matters_only_in_a_domain_of_several_nodes(look: Look, tree: Callable[..., str]) -> None:
    domain = "machine=4xH200;fabric=3:0:1:0xab"
    without = look("gpu.fabric", domain, root=tree(OPEN)).one("IMEX")
    alone = look("gpu.fabric", "machine=4xH200", root=tree({})).about("IMEX")
    there = look("gpu.fabric", domain, root=tree({"/dev/nvidia-caps-imex-channels/channel0": ""})).one("IMEX")

    assert (without.status, without.data["cause"]) == (Status.WARN, "nccl-nvls-cumem")
    assert alone == []
    assert there.status is Status.OK


def test_an_nvml_that_does_not_start_is_unknown_not_fine(look: Look, tree: Callable[..., str]) -> None:
    seen = look("gpu.fabric", "init=18", root=tree(OPEN))

    assert seen.one().status is Status.UNKNOWN
