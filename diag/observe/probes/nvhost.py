"""What a node shows of its NVIDIA GPUs without any NVIDIA library: the PCI bus, device files, processes."""

from __future__ import annotations

import os
import re
from typing import Any

from diag.system import Root
from diag.system.processes import list_processes, read_descriptors

NVIDIA_VENDOR = "0x10de"
GPU_CLASSES = ("0x0300", "0x0302")
"""VGA and 3D controllers. Source: PCI class codes, pci.ids."""
BRIDGE_CLASS = "0x0680"
"""NVSwitches are `other bridge` devices of NVIDIA."""

INIT_PID_NAMESPACE = 0xEFFFFFFC
"""Inode of the machine's first PID namespace. Source: linux, include/linux/proc_ns.h (PROC_PID_INIT_INO)."""


def pci_functions(root: Root, *classes: str) -> list[dict[str, Any]]:
    """NVIDIA's PCI functions of these classes: [{address, driver}]; sysfs shows them inside containers too."""
    found = []
    for address in root.names("/sys/bus/pci/devices"):
        folder = f"/sys/bus/pci/devices/{address}"
        if (root.read(f"{folder}/vendor") or "").strip() != NVIDIA_VENDOR:
            continue
        if (root.read(f"{folder}/class") or "").strip()[:6] in classes:
            driver = root.link(f"{folder}/driver")
            found.append({"address": address, "driver": driver.rsplit("/", 1)[-1] if driver else None})
    return found


def pci_gpus(root: Root) -> list[dict[str, Any]]:
    """GPUs of NVIDIA on the bus."""
    return pci_functions(root, *GPU_CLASSES)


def kernel_module(root: Root) -> dict[str, Any] | None:
    """{version, flavor} of the loaded module, flavor `open` or `proprietary`; None if there is none."""
    text = root.read("/proc/driver/nvidia/version")
    if not text:
        return None
    match = re.search(
        r"Kernel Module\D*?\s(\d+\.\d+(?:\.\d+)*)", text.replace("x86_64", "").replace("aarch64", "")
    )
    version = match.group(1) if match else None
    return {"version": version, "flavor": "open" if "Open Kernel Module" in text else "proprietary"}


def device_files(root: Root) -> dict[str, Any]:
    """What lies at /dev/nvidia*: {gpus: [minor numbers], others, denied, control_error, imex_channels: [names]}.

    Opens nothing but nvidiactl, which touches no GPU.
    """
    names = [name for name in root.names("/dev") if name.startswith("nvidia")]
    minors = sorted(int(name[6:]) for name in names if name[6:].isdigit())
    denied = [name for name in names if name[6:].isdigit() or name in ("nvidiactl", "nvidia-uvm")]
    denied = [name for name in denied if not os.access(root.join(f"/dev/{name}"), os.R_OK | os.W_OK)]
    return {
        "gpus": minors,
        "others": [name for name in names if not name[6:].isdigit()],
        "denied": denied,
        "control_error": _open_error(root) if "nvidiactl" in names else None,
        "imex_channels": [n for n in root.names("/dev/nvidia-caps-imex-channels") if n.startswith("channel")],
    }


def _open_error(root: Root) -> str | None:
    """EPERM where the file's mode allows it means that the device cgroup refuses."""
    try:
        os.close(os.open(root.join("/dev/nvidiactl"), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK))
    except PermissionError as error:
        return "device-cgroup" if error.errno == 1 else "file-permission"
    except OSError as error:
        return error.strerror
    return None


def in_container(root: Root) -> bool:
    """True if this looks like a container: the usual marker files, or a PID namespace of its own."""
    marked = root.exists("/.dockerenv") or root.exists("/run/.containerenv")
    return marked or not in_first_pid_namespace(root)


def in_first_pid_namespace(root: Root) -> bool:
    """True if every process of the machine can be seen (their pids, not their memory)."""
    return root.link("/proc/self/ns/pid") in (None, f"pid:[{INIT_PID_NAMESPACE}]")


def processes_named(root: Root, name: str) -> list[int]:
    """Pids whose command name is `name` (the kernel cuts names at 15 characters)."""
    return [one.pid for one in list_processes(root) if one.name == name[:15]]


def cuda_users(root: Root, minor: int) -> list[int]:
    """Pids of this PID namespace that have GPU `minor` and unified memory open, as every CUDA process does.

    Without root only the caller's own processes can be read.
    """
    wanted = {f"/dev/nvidia{minor}", "/dev/nvidia-uvm"}
    pids = [int(name) for name in root.names("/proc") if name.isdigit()]
    return [pid for pid in pids if wanted <= set(read_descriptors(root, pid) or ())]


def boot_time(root: Root) -> float | None:
    """Epoch seconds of the boot, from /proc/stat."""
    match = re.search(r"^btime (\d+)", root.read("/proc/stat") or "", re.MULTILINE)
    return float(match.group(1)) if match else None
