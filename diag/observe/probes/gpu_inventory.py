"""Which GPUs this node has and in what state NVML says they are.

A launch hangs or dies on one GPU of many: one that fell off the bus, waits for a reset, runs in exclusive or MIG
mode, or throttles while seven others wait for it in a collective. Every figure is optional: a GPU or driver that
does not support one is recorded in `not_supported`, one that failed to give it in `errors`; neither counts as fine.
A call that never returns costs this probe its deadline, which is itself the finding.

Facts: {gpus: [...], count, driver_version, cuda_driver_version, nvml_version, nvml_init_s, error, pci_gpus}; a GPU
whose handle NVML refuses has only `index` and `error`.
"""

from __future__ import annotations

from typing import Any

from diag.model import Finding, Reason, Status
from diag.observe.probes.gpuread import read_gpu
from diag.observe.probes.interface import Facts, Probe, Setup, finding
from diag.observe.probes.nvhost import pci_gpus
from diag.observe.probes.nvml import ABSENT, GONE, explain_error, open_nvml

ID = "gpu.inventory"

HARMFUL_THROTTLES = ("hardware-slowdown", "hardware-thermal", "power-brake")
"""Source: the same check of azurehpc-health-checks."""
SRAM_RMA_UNCORRECTED = 4
"""More aggregate uncorrectable ECC errors than this make a board a candidate for exchange. Source: stas00/ml-engineering,
compute/accelerator/nvidia/debug.md."""
SLOW_INIT_S = 1.0
"""A vendor call that takes longer is worth a warning. Source: AMD-AGI/Primus node checks (> 1 s warn, > 5 s fail)."""


def collect(setup: Setup) -> Facts:
    """Ask NVML about every GPU."""
    with open_nvml() as nvml:
        facts: Facts = {
            "gpus": [],
            "count": None,
            "driver_version": None,
            "cuda_driver_version": None,
            "nvml_version": None,
            "nvml_init_s": round(nvml.init_s, 3),
            "error": nvml.error,
            "pci_gpus": len(pci_gpus(setup.root)),
        }
        if nvml.error is not None:
            return facts
        facts["driver_version"] = nvml.value("nvmlSystemGetDriverVersion")
        cuda = nvml.value("nvmlSystemGetCudaDriverVersion_v2")
        facts["cuda_driver_version"] = f"{cuda // 1000}.{cuda % 1000 // 10}" if cuda else None
        facts["nvml_version"] = nvml.value("nvmlSystemGetNVMLVersion")
        count, facts["error"] = nvml.ask("nvmlDeviceGetCount")
        facts["count"] = count
        facts["gpus"] = [read_gpu(nvml, index) for index in range(count or 0)]
        return facts


def judge(facts: Facts) -> list[Finding]:
    """One finding for the node, and one for each GPU that is not in order."""
    error = facts["error"]
    if error is not None:
        return [_judge_error(error, facts)]
    gpus = facts["gpus"]
    if not gpus:
        return [
            finding(
                ID, Status.SKIP, "NVML works, but counts no GPU on this node.", reason=Reason.NOT_APPLICABLE
            )
        ]
    usable = [gpu for gpu in gpus if gpu["error"] is None]
    links = {
        gpu["name"]: max(g["nvlinks_active"] for g in usable if g["name"] == gpu["name"]) for gpu in usable
    }
    found = [one for gpu in gpus for one in _judge_gpu(gpu, links.get(gpu.get("name"), 0))]
    names = sorted({f"{sum(g['name'] == gpu['name'] for g in usable)} × {gpu['name']}" for gpu in usable})
    summary = f"{' and '.join(names) or 'no usable GPU'}, driver {facts['driver_version']}."
    if len(usable) < len(gpus):
        summary = f"NVML counts {len(gpus)} GPUs, {len(usable)} of them answer: {summary}"
    if len(names) > 1:
        summary += " Ranks on different GPU models wait for the slowest, and plans are made for the smallest."
    status = Status.WARN if len(names) > 1 or len(usable) < len(gpus) else Status.OK
    found.insert(0, finding(ID, status, summary, count=len(gpus), driver_version=facts["driver_version"]))
    if facts["nvml_init_s"] > SLOW_INIT_S:
        found.append(_slow_init(facts))
    return found


def _judge_error(error: Facts, facts: Facts) -> Finding:
    why = explain_error(error)
    kind = error["kind"]
    if kind == "binding-missing":
        return finding(
            ID, Status.UNKNOWN, f"GPUs could not be read: {why}.", reason=Reason.TOOL_MISSING, error=error
        )
    if kind in ABSENT and not facts["pci_gpus"]:
        return finding(
            ID,
            Status.SKIP,
            f"No NVIDIA GPU here: none seen on the PCI bus, and {why}.",
            reason=Reason.NOT_APPLICABLE,
        )
    if kind == "no-permission":
        return finding(
            ID, Status.UNKNOWN, f"GPUs could not be read: {why}.", reason=Reason.PERMISSION, error=error
        )
    causes = {
        "library-mismatch": "driver-library-mismatch",
        "gpu-lost": "gpu-xid-hardware",
        "driver-not-loaded": "gpu-not-visible",
        "library-not-found": "gpu-not-visible",
    }
    summary = f"NVML does not start: {why}."
    if kind in ABSENT:
        summary = f"{facts['pci_gpus']} NVIDIA GPU(s) on the PCI bus cannot be used from here: {why}."
    data: dict[str, Any] = {"cause": causes[kind]} if kind in causes else {}
    return finding(ID, Status.FAIL, summary, error=error, pci_gpus=facts["pci_gpus"], **data)


def _slow_init(facts: Facts) -> Finding:
    off = [gpu["index"] for gpu in facts["gpus"] if gpu.get("persistence") is False]
    hint = (
        "turn persistence on (nvidia-persistenced)"
        if off
        else "persistence is on, so look at the driver and its log"
    )
    return finding(
        ID,
        Status.WARN,
        f"NVML took {facts['nvml_init_s']:.1f} s to start, which every process of a launch pays again: {hint}.",
        subject="NVML start",
        nvml_init_s=facts["nvml_init_s"],
        persistence_off=off,
    )


def _judge_gpu(gpu: Facts, peer_links: int) -> list[Finding]:
    subject = f"GPU {gpu['index']}"
    if gpu["error"] is not None:
        kind = gpu["error"]["kind"]
        lost = kind in GONE
        data: dict[str, Any] = {"cause": "gpu-xid-hardware"} if lost else {}
        return [
            finding(
                ID,
                Status.FAIL,
                f"{subject} does not answer: {explain_error(gpu['error'])}.",
                subject=subject,
                error=gpu["error"],
                gpu=gpu["index"],
                **data,
            )
        ]
    verdicts = [*_faults(gpu), *_obstacles(gpu, peer_links)]
    return [
        finding(ID, status, f"{subject} ({gpu['name']}): {text}.", subject=subject, gpu=gpu["index"], **data)
        for status, text, data in verdicts
    ]


_Verdict = tuple[Status, str, dict[str, Any]]


def _faults(gpu: Facts) -> list[_Verdict]:
    """Signs of failing hardware."""
    found: list[_Verdict] = []
    hardware = {"cause": "gpu-xid-hardware"}
    lost = [name for name, error in gpu["errors"].items() if error["kind"] in GONE]
    if lost:
        found.append(
            (
                Status.FAIL,
                f"it has left the bus or waits for a reset (NVML failed on {', '.join(lost[:3])})",
                hardware,
            )
        )
    rows = gpu["remapped_rows"] or {}
    if rows.get("failed"):
        found.append(
            (
                Status.FAIL,
                "remapping a bad memory row failed; the board needs exchange",
                {**hardware, "rows": rows},
            )
        )
    elif rows.get("pending"):
        found.append(
            (
                Status.WARN,
                "a bad memory row waits to be remapped at the next GPU reset",
                {**hardware, "rows": rows},
            )
        )
    if gpu["ecc_uncorrected"]:
        count = gpu["ecc_uncorrected"]
        found.append(
            (
                Status.WARN,
                f"{count} uncorrectable memory error(s) since the driver was loaded",
                {**hardware, "count": count},
            )
        )
    elif (gpu["ecc_uncorrected_life"] or 0) > SRAM_RMA_UNCORRECTED:
        life = gpu["ecc_uncorrected_life"]
        found.append(
            (
                Status.WARN,
                f"{life} uncorrectable memory errors over its life; ask for an exchange",
                {"count": life},
            )
        )
    if gpu["recovery_action"] not in (None, "none"):
        action = gpu["recovery_action"]
        found.append(
            (
                Status.FAIL,
                f"the driver asks for a recovery: {action}",
                {**hardware, "recovery_action": action},
            )
        )
    return found


def _obstacles(gpu: Facts, peer_links: int) -> list[_Verdict]:
    """Settings and states that keep a healthy GPU from working as planned.

    NVLinks are compared with the same model in this node: how many are wired differs between boards.
    """
    found: list[_Verdict] = []
    busy = {"cause": "gpu-busy-exclusive"}
    mode = gpu["compute_mode"]
    if mode == "prohibited":
        found.append(
            (
                Status.FAIL,
                "compute mode is Prohibited: no CUDA process can start on it",
                {**busy, "compute_mode": mode},
            )
        )
    elif mode in ("exclusive-process", "exclusive-thread"):
        text = "compute mode is exclusive: a second process on it (an engine's helper, a monitor) gets 'device busy'"
        found.append((Status.WARN, text, {"compute_mode": mode}))
    if gpu["mig_enabled"] and not gpu["mig_devices"]:
        found.append((Status.FAIL, "MIG is on and no MIG device exists: CUDA finds nothing to run on", busy))
    elif gpu["mig_enabled"]:
        text = f"MIG is on with {len(gpu['mig_devices'])} device(s): one process uses one of them, NCCL does not join them"
        found.append((Status.WARN, text, {"mig_devices": len(gpu["mig_devices"])}))
    if gpu["mig_pending"] is not None and gpu["mig_pending"] != gpu["mig_enabled"]:
        found.append((Status.WARN, "a change of MIG mode waits for a GPU reset", {}))
    bad = [name for name in gpu["throttle_reasons"] or [] if name in HARMFUL_THROTTLES]
    if bad:
        found.append(
            (
                Status.WARN,
                f"it is slowed down: {', '.join(bad)}; all other ranks wait for it",
                {"throttle": bad},
            )
        )
    active = gpu["nvlinks_active"]
    if active < peer_links:
        text = f"{active} NVLinks are up, {peer_links} on other GPUs of this model here"
        found.append(
            (
                Status.WARN,
                text,
                {"nvlinks_active": active, "nvlinks_peers": peer_links, "down": gpu["nvlinks_down"]},
            )
        )
    width, most = gpu["pcie_width"], gpu["pcie_width_max"]
    if width and most and width < most:
        found.append(
            (
                Status.WARN,
                f"PCIe runs {width} of {most} lanes wide",
                {"pcie_width": width, "pcie_width_max": most},
            )
        )
    return found


PROBE = Probe(ID, "GPUs", collect, judge, timeout_s=10.0, touches_gpu=False, section="hardware")
