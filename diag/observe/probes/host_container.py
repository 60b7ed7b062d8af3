"""A container that lacks a device node, a capability or the driver's files fails far from where it was started.

Told from /proc and /dev alone: which runtime this is, which capabilities are in effect (IPC_LOCK for RDMA, SYS_NICE for
NCCL's host memory, SYS_PTRACE for looking into a hang), and which device nodes are there for hardware the kernel has.
"""

from __future__ import annotations

import re

from diag.model import Finding, Reason, Status
from diag.observe.probes.interface import Facts, Probe, Setup, finding
from diag.observe.probes.wording import listed

ID = "host.container"
CAPABILITIES = {"IPC_LOCK": 14, "SYS_PTRACE": 19, "SYS_ADMIN": 21, "SYS_NICE": 23}
"""Bit numbers: linux/capability.h."""
WHAT_FOR = {
    "SYS_PTRACE": "stacks of a hung rank (py-spy)",
    "SYS_NICE": "NCCL's NUMA-aware host memory",
    "IPC_LOCK": "RDMA memory without a memlock limit",
}


def collect(setup: Setup) -> Facts:
    """Traces of container runtimes, our rights, and the device nodes next to what the kernel says is there."""
    root, env = setup.root, setup.env
    status = root.read("/proc/self/status") or ""
    effective = re.search(r"^CapEff:\s*([0-9a-f]+)", status, re.M)
    seccomp = re.search(r"^Seccomp:\s*(\d)", status, re.M)
    bits = int(effective[1], 16) if effective else None
    text = " ".join(root.read(f"/proc/{pid}/cgroup") or "" for pid in ("self", "1"))
    mounts = root.read("/proc/self/mountinfo") or ""
    own_disk = bool(re.search(r"^\d+ \d+ \S+ \S+ / .* - \S+ /dev/(?!mapper/docker)", mounts, re.M))
    traces = {
        "kubernetes": "KUBERNETES_SERVICE_HOST" in env or "kubepods" in text,
        # A virtual machine made from an image keeps the file; its root is a disk of its own.
        "docker": "/docker" in text or (root.exists("/.dockerenv") and not own_disk),
        "podman": root.exists("/run/.containerenv") or "libpod" in text,
        "enroot": "ENROOT_ROOTFS" in env or root.exists("/etc/enroot/entrypoint"),
        "apptainer": any(name in env for name in ("APPTAINER_CONTAINER", "SINGULARITY_CONTAINER")),
        "containerd": "cri-containerd" in text,
        "lxc": "/lxc/" in text or "lxcfs" in mounts,
    }
    devices = root.names("/dev")
    return {
        "runtimes": [name for name, there in traces.items() if there],
        "overlay_root": bool(re.search(r"^\d+ \d+ \S+ \S+ / .* - overlay ", mounts, re.M)),
        "capabilities": None if bits is None else {name: bool(bits >> bit & 1) for name, bit in CAPABILITIES.items()},
        "seccomp": {"0": "off", "1": "strict", "2": "filter"}.get(seccomp[1]) if seccomp else None,
        "no_new_privileges": bool(re.search(r"^NoNewPrivs:\s*1", status, re.M)),
        "rootless": (root.read("/proc/self/uid_map") or "0 0 4294967295").split()[:3] != ["0", "0", "4294967295"],
        "namespaces": {name: root.link(f"/proc/self/ns/{name}") for name in ("net", "ipc", "pid", "mnt", "user")},
        "driver_loaded": root.exists("/proc/driver/nvidia/version"),
        "gpu_nodes": [name for name in devices if re.fullmatch(r"nvidia\d+", name)],
        "control_nodes": [name for name in ("nvidiactl", "nvidia-uvm") if name in devices],
        "imex_channels": root.names("/dev/nvidia-caps-imex-channels"),
        "hcas": root.names("/sys/class/infiniband"),
        "verbs_nodes": [name for name in root.names("/dev/infiniband") if name.startswith("uverbs")],
    }  # fmt: skip


def judge(facts: Facts) -> list[Finding]:
    """What hardware the kernel has and this container was not given; then the rights that are missing."""
    if facts["capabilities"] is None:
        return [finding(ID, Status.UNKNOWN, "/proc/self/status cannot be read", reason=Reason.PERMISSION)]
    where = listed(facts["runtimes"]) or ("a container" if facts["overlay_root"] else "no container")
    found = _judge_devices(facts)
    missing = [name for name in WHAT_FOR if not facts["capabilities"][name]]
    data = {"runtimes": facts["runtimes"], "missing_capabilities": missing, "seccomp": facts["seccomp"]}
    if facts["hcas"] and "IPC_LOCK" in missing:
        text = f"{where}: RDMA devices but no CAP_IPC_LOCK; registration then depends on the memlock limit (see host.limits)"
        remedy = "docker: --cap-add IPC_LOCK --ulimit memlock=-1; Kubernetes: securityContext.capabilities.add: [IPC_LOCK]"
        found.append(finding(ID, Status.WARN, text, cause="ulimit-memlock", remedy=remedy, **data))
    if found:
        return found
    text = f"{where}; " + (
        "not there: " + listed(f"CAP_{name} ({WHAT_FOR[name]})" for name in missing)
        if missing
        else "no capability is missing"
    )
    return [finding(ID, Status.OK, text, **data)]


def _judge_devices(facts: Facts) -> list[Finding]:
    found = []
    if facts["driver_loaded"] and not facts["gpu_nodes"]:
        inside = bool(facts["runtimes"]) or facts["overlay_root"]
        why = (
            "started without GPUs"
            if inside
            else "nothing has opened a GPU since boot, or udev did not make the node"
        )
        text = f"the kernel has the NVIDIA driver, yet no /dev/nvidia0 is visible: {why}"
        remedy = "docker: --gpus all; Kubernetes: resources.limits nvidia.com/gpu; Slurm: --gres=gpu:N"
        found.append(
            finding(
                ID,
                Status.FAIL if inside else Status.WARN,
                text,
                subject="/dev/nvidia*",
                cause="gpu-not-visible",
                remedy=remedy,
            )
        )
    if facts["gpu_nodes"] and len(facts["control_nodes"]) < 2:
        gone = [name for name in ("nvidiactl", "nvidia-uvm") if name not in facts["control_nodes"]]
        text = f"GPUs are visible but /dev/{listed(gone)} is not: CUDA cannot start (nvidia-modprobe -u -c 0 creates it)"
        found.append(
            finding(ID, Status.FAIL, text, subject="/dev/nvidia*", cause="gpu-not-visible", missing=gone)
        )
    if facts["hcas"] and not facts["verbs_nodes"]:
        text = f"{len(facts['hcas'])} RDMA devices in sysfs, none usable: /dev/infiniband/uverbs* is not there, NCCL falls to TCP"
        remedy = "docker: --device /dev/infiniband; Kubernetes: the RDMA device plug-in's resource"
        found.append(
            finding(
                ID, Status.WARN, text, subject="/dev/infiniband", cause="permission-denied", remedy=remedy
            )
        )
    return found


PROBE = Probe(ID, "Container, capabilities, device nodes", collect, judge, timeout_s=3.0)
