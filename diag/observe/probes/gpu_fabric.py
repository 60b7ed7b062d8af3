"""What joins the GPUs to each other and to the network cards: NVSwitch fabric, IMEX, GPUDirect.

On NVSwitch machines CUDA answers 802 ("system not ready") until the fabric manager has trained the fabric, and a
fabric manager of another version than the driver never does. Across NVLink domains, IMEX channels must be there.
RDMA straight from GPU memory needs nvidia-peermem or DMA-BUF; with neither, registrations fail or copies go through
the host. Machines without NVSwitch (PCIe boards, and compute trays whose switches are managed elsewhere) need no
fabric manager.

Facts: {driver_version, module_flavor, kernel_release, container, gpus: [{index, name, nvlinks_active, fabric}], error,
nvswitches, fabric_manager: {pids, version, version_error}, imex: {pids, channels}, peermem, hcas}.
"""

from __future__ import annotations

import re
from typing import Any

from diag.model import Finding, Reason, Status
from diag.observe.probes.gpuread import read_fabric, read_links
from diag.observe.probes.interface import Facts, Probe, Setup, finding
from diag.observe.probes.nvhost import (
    BRIDGE_CLASS,
    device_files,
    in_container,
    kernel_module,
    pci_functions,
    processes_named,
)
from diag.observe.probes.nvml import ABSENT, Nvml, ask_nvml, explain_error
from diag.observe.probes.tables import version_key
from diag.system import Root, run_command

ID = "gpu.fabric"

FABRIC_MANAGER = "/usr/bin/nv-fabricmanager"
DMABUF_KERNEL = "5.12"
"""First Linux that DMA-BUF registration of GPU memory works with, with the open kernel module. Source:
https://docs.nvidia.com/datacenter/cloud-native/gpu-operator/latest/gpu-operator-rdma.html"""
NO_CLUSTER = "0" * 32


def collect(setup: Setup) -> Facts:
    """Look for switches, their manager, the fabric's state and the two doors of GPUDirect."""
    root = setup.root
    module = kernel_module(root) or {}
    none: tuple[list[Facts], str | None] = ([], None)
    (gpus, driver), error = ask_nvml(_ask, none)
    nodes = [name for name in root.names("/dev") if re.fullmatch(r"nvidia-nvswitch\d+", name)]
    switches = max(len(nodes), len(pci_functions(root, BRIDGE_CLASS)))
    return {
        "driver_version": module.get("version") or driver,
        "module_flavor": module.get("flavor"),
        "kernel_release": (root.read("/proc/sys/kernel/osrelease") or "").strip(),
        "container": in_container(root),
        "gpus": gpus,
        "error": error,
        "nvswitches": switches,
        "fabric_manager": _fabric_manager(root),
        "imex": {
            "pids": processes_named(root, "nvidia-imex"),
            "channels": device_files(root)["imex_channels"],
        },
        "peermem": next(
            (n for n in ("nvidia_peermem", "nv_peer_mem") if root.exists(f"/sys/module/{n}")), None
        ),
        "hcas": root.names("/sys/class/infiniband"),
    }


def _ask(nvml: Nvml) -> tuple[list[Facts], str | None]:
    """Links and fabric of each GPU that answers, and the driver's version."""
    gpus = []
    for index in range(nvml.count()):
        handle = nvml.value("nvmlDeviceGetHandleByIndex", index)
        if handle is not None:
            links = sum(read_links(nvml, handle))
            name = nvml.value("nvmlDeviceGetName", handle)
            fabric = read_fabric(nvml, handle)
            gpus.append({"index": index, "name": name, "nvlinks_active": links, "fabric": fabric})
    return gpus, nvml.value("nvmlSystemGetDriverVersion")


def _fabric_manager(root: Root) -> Facts:
    """Running pids, and the version its binary tells (or the package list, where the binary cannot be run)."""
    pids = processes_named(root, "nv-fabricmanager")
    version = None
    if root.path == "/" and root.exists(FABRIC_MANAGER):
        said = run_command([FABRIC_MANAGER, "--version"], timeout_s=2.0)
        match = re.search(r"(\d+\.\d+(?:\.\d+)*)", said.text)
        version = match.group(1) if match else None
    if version is None:
        version = _packaged(root.read("/var/lib/dpkg/status") or "")
    return {"pids": pids, "version": version}


def _packaged(status: str) -> str | None:
    """The version of nvidia-fabricmanager-* in dpkg's status file."""
    match = re.search(
        r"^Package: nvidia-fabricmanager\S*\n(?:(?!\n).+\n)*?Version: (?:\d+:)?([\d.]+)", status, re.MULTILINE
    )
    return match.group(1) if match else None


def judge(facts: Facts) -> list[Finding]:
    """Fabric, IMEX and GPUDirect, each only where it applies."""
    absent = facts["error"] is not None and facts["error"]["kind"] in ABSENT
    if absent and facts["driver_version"] is None:
        text = "No NVIDIA GPU answers here, so there is no NVLink fabric to look at."
        return [finding(ID, Status.SKIP, text, reason=Reason.NOT_APPLICABLE)]
    found = [*_judge_state(facts), *_judge_manager(facts), *_judge_imex(facts), *_judge_gpudirect(facts)]
    if found:
        return found
    if facts["error"] is not None:
        text = f"The NVLink fabric could not be asked about: {explain_error(facts['error'])}."
        reason = Reason.TIMEOUT if facts["error"]["kind"] == "timeout" else Reason.CRASHED
        return [finding(ID, Status.UNKNOWN, text, reason=reason, error=facts["error"])]
    text = "No NVSwitch, no NVLink fabric and no RDMA card: nothing here needs a fabric manager or GPUDirect."
    return [finding(ID, Status.OK, text)]


def _judge_state(facts: Facts) -> list[Finding]:
    fabrics = [gpu for gpu in facts["gpus"] if gpu["fabric"] is not None]
    if not fabrics:
        return []
    unready = [g for g in fabrics if g["fabric"]["state"] != "completed" or g["fabric"]["status"] != 0]
    if unready:
        first = unready[0]["fabric"]
        names = ", ".join(f"GPU {gpu['index']}" for gpu in unready)
        text = (
            f"The NVLink fabric is not ready on {names} (state {first['state']}, status {first['status']}): CUDA "
            "answers 802 until the fabric manager has finished."
        )
        data = {
            "state": first["state"],
            "fabric_status": first["status"],
            "gpus": [g["index"] for g in unready],
        }
        return [finding(ID, Status.FAIL, text, subject="NVLink fabric", cause="fabric-manager", **data)]
    cliques = sorted({(gpu["fabric"]["cluster_uuid"], gpu["fabric"]["clique"]) for gpu in fabrics})
    if len(cliques) > 1:
        text = f"The GPUs of this node belong to {len(cliques)} different NVLink cliques."
        return [
            finding(ID, Status.WARN, text, subject="NVLink fabric", cliques=[list(one) for one in cliques])
        ]
    text = f"The NVLink fabric is up on all {len(fabrics)} GPU(s)."
    return [finding(ID, Status.OK, text, subject="NVLink fabric", clique=list(cliques[0]))]


def _judge_manager(facts: Facts) -> list[Finding]:
    manager, driver, switches = facts["fabric_manager"], facts["driver_version"], facts["nvswitches"]
    if not switches:
        return []
    subject = "fabric manager"
    ready = any(g["fabric"] and g["fabric"]["state"] == "completed" for g in facts["gpus"])
    data: dict[str, Any] = {"version": manager["version"], "driver_version": driver, "nvswitches": switches}
    if manager["version"] and driver and manager["version"] != driver:
        text = (
            f"The fabric manager is {manager['version']}, the driver {driver}: they must be equal, or the fabric of the "
            f"{switches} NVSwitches does not come up."
        )
        # a fabric that is up was trained before the package changed; it breaks at the next start
        status = Status.WARN if ready else Status.FAIL
        return [finding(ID, status, text, subject=subject, cause="fabric-manager", **data)]
    if manager["pids"]:
        text = f"The fabric manager runs (version {manager['version'] or 'not known'}) for {switches} NVSwitch(es)."
        return [finding(ID, Status.OK, text, subject=subject, **data)]
    if ready:
        text = "The fabric is up; its manager is not visible from here."
        return [finding(ID, Status.OK, text, subject=subject, **data)]
    if facts["container"]:
        text = "The fabric manager runs outside this container, if at all: look on the node itself."
        remedy = "on the node: systemctl status nvidia-fabricmanager"
        return [
            finding(
                ID, Status.UNKNOWN, text, subject=subject, reason=Reason.PERMISSION, remedy=remedy, **data
            )
        ]
    text = f"{switches} NVSwitch(es), but no fabric manager runs: CUDA answers 802; start nvidia-fabricmanager {driver}."
    return [finding(ID, Status.FAIL, text, subject=subject, cause="fabric-manager", **data)]


def _judge_imex(facts: Facts) -> list[Finding]:
    """IMEX matters only where GPUs belong to an NVLink domain of several nodes."""
    clusters = {gpu["fabric"]["cluster_uuid"] for gpu in facts["gpus"] if gpu["fabric"]}
    if clusters <= {NO_CLUSTER}:
        return []
    channels = facts["imex"]["channels"]
    if channels:
        text = f"IMEX: {len(channels)} channel(s) for the NVLink domain of several nodes."
        return [finding(ID, Status.OK, text, subject="IMEX", channels=channels)]
    text = (
        "These GPUs belong to an NVLink domain of several nodes, but there is no /dev/nvidia-caps-imex-channels here: "
        "memory cannot be shared between the nodes (CUDA error 800)."
    )
    return [finding(ID, Status.WARN, text, subject="IMEX", cause="nccl-nvls-cumem", channels=[])]


def _judge_gpudirect(facts: Facts) -> list[Finding]:
    if not facts["hcas"] or not facts["gpus"]:
        return []
    release = re.match(r"\d+\.\d+", facts["kernel_release"])
    recent = release is not None and version_key(release.group()) >= version_key(DMABUF_KERNEL)
    dmabuf = facts["module_flavor"] == "open" and recent
    ways = [way for way, there in ((facts["peermem"], facts["peermem"]), ("DMA-BUF", dmabuf)) if there]
    data = {"peermem": facts["peermem"], "dmabuf_possible": dmabuf, "hcas": facts["hcas"]}
    if ways:
        text = f"GPUDirect RDMA is possible through {' and '.join(ways)}."
        return [finding(ID, Status.OK, text, subject="GPUDirect RDMA", **data)]
    if facts["module_flavor"] is None:
        text = "Whether GPUDirect RDMA is possible cannot be told: the kernel module's kind is not visible from here."
        return [finding(ID, Status.UNKNOWN, text, subject="GPUDirect RDMA", reason=Reason.PERMISSION, **data)]
    text = (
        f"{len(facts['hcas'])} RDMA device(s), but neither nvidia-peermem is loaded nor DMA-BUF possible "
        f"({facts['module_flavor']} module, Linux {facts['kernel_release']}): transfers go through host memory, and "
        "registering GPU memory fails; load it with modprobe nvidia-peermem."
    )
    return [finding(ID, Status.WARN, text, subject="GPUDirect RDMA", cause="gpudirect-rdma-failure", **data)]


PROBE = Probe(ID, "NVLink fabric and GPUDirect", collect, judge, timeout_s=10.0, section="hardware")
