"""Which of the machine's GPUs a process started from here would see.

Between the PCI bus and a rank lie the driver, the container runtime (NVIDIA_VISIBLE_DEVICES), the device files, the
device cgroup and CUDA_VISIBLE_DEVICES. A GPU lost on the way shows as "no CUDA device", "invalid device ordinal" or,
where an engine parses a UUID as a number, as a crash far from the cause.

Facts: {nvml_count, uuids, mig_uuids, error, pci_gpus: [{address, driver}], container, variables: {name: value},
devices: {gpus, others, denied, control_error, imex_channels}, cuda_visible: {form, entries, visible, bad, duplicate}}.
"""

from __future__ import annotations

from typing import Any

from diag.model import Finding, Reason, Status
from diag.observe.probes.interface import Facts, Probe, Setup, finding
from diag.observe.probes.nvhost import device_files, in_container, kernel_module, pci_gpus
from diag.observe.probes.nvml import ABSENT, ask_nvml, explain_error
from diag.observe.probes.visible import list_uuids, parse_visible

ID = "gpu.visibility"

VARIABLES = (
    "CUDA_VISIBLE_DEVICES",
    "NVIDIA_VISIBLE_DEVICES",
    "NVIDIA_DRIVER_CAPABILITIES",
    "CUDA_DEVICE_ORDER",
)


def collect(setup: Setup) -> Facts:
    """Count the GPUs on the bus, in /dev and in NVML, and read what the variables leave of them."""
    none: tuple[list[str | None], list[str]] = ([], [])
    (uuids, migs), error = ask_nvml(list_uuids, none)
    value = setup.env.get("CUDA_VISIBLE_DEVICES")
    return {
        "nvml_count": len(uuids) if error is None else None,
        "uuids": uuids,
        "mig_uuids": migs,
        "error": error,
        "pci_gpus": pci_gpus(setup.root),
        "kernel_module": kernel_module(setup.root),
        "container": in_container(setup.root),
        "variables": {name: setup.env[name] for name in VARIABLES if name in setup.env},
        "devices": device_files(setup.root),
        "cuda_visible": None if value is None or error is not None else parse_visible(value, uuids, migs),
    }


def judge(facts: Facts) -> list[Finding]:
    """From the bus outwards; what stands first hides what comes after."""
    usable = [gpu for gpu in facts["pci_gpus"] if gpu["driver"] != "vfio-pci"]
    if facts["error"] is not None:
        return [_judge_error(facts, usable)]
    count = facts["nvml_count"]
    if count == 0 and not usable:
        text = "The NVIDIA driver runs, but there is no GPU on this node."
        return [finding(ID, Status.SKIP, text, reason=Reason.NOT_APPLICABLE)]
    if count == 0:
        text = f"{len(usable)} NVIDIA GPU(s) on the PCI bus, none of them given to this {_place(facts)}."
        return [finding(ID, Status.FAIL, text, cause="gpu-not-visible", pci_gpus=len(usable), nvml_count=0)]
    findings = _judge_files(facts)
    findings.append(_judge_variable(facts))
    return findings


def _place(facts: Facts) -> str:
    return "container" if facts["container"] else "machine"


def _judge_error(facts: Facts, usable: list[dict[str, Any]]) -> Finding:
    error, devices = facts["error"], facts["devices"]
    why = explain_error(error)
    if error["kind"] == "binding-missing":
        text = f"Which GPUs are visible could not be asked: {why}."
        return finding(ID, Status.UNKNOWN, text, reason=Reason.TOOL_MISSING)
    if error["kind"] == "timeout":
        text = f"Which GPUs are visible could not be asked: {why}."
        return finding(ID, Status.UNKNOWN, text, reason=Reason.TIMEOUT, error=error)
    if error["kind"] in ABSENT and not usable and not facts["kernel_module"]:
        passed = len(facts["pci_gpus"])
        text = "No NVIDIA GPU seen on the PCI bus, and no driver: there is nothing to show."
        if passed:
            text = f"{passed} NVIDIA GPU(s) on the bus belong to virtual machines (driver vfio-pci), none to this node."
        return finding(ID, Status.SKIP, text, reason=Reason.NOT_APPLICABLE)
    data: dict[str, Any] = {"pci_gpus": len(usable), "error": error, "container": facts["container"]}
    if devices["control_error"] == "device-cgroup":
        text = (
            "/dev/nvidiactl is there, but the device cgroup refuses it: the container lost its GPUs (as after a "
            "daemon-reload on the host) or never had the permission."
        )
        return finding(ID, Status.FAIL, text, cause="gpu-lost-cgroup", **data)
    if devices["control_error"] == "file-permission":
        text = "This user may not open /dev/nvidiactl: no CUDA program can start."
        return finding(ID, Status.FAIL, text, cause="permission-denied", **data)
    if error["kind"] in ABSENT and facts["container"]:
        text = (
            f"The machine has {len(usable)} NVIDIA GPU(s), this container none ({why}): start it with them (docker "
            "--gpus all, a Kubernetes nvidia.com/gpu limit, the nvidia runtime)."
        )
        return finding(ID, Status.FAIL, text, cause="gpu-not-visible", **data)
    drivers = sorted({gpu["driver"] or "none" for gpu in usable})
    if not usable:
        data["cause"] = "driver-library-mismatch" if error["kind"] == "library-mismatch" else None
        data = {name: value for name, value in data.items() if value is not None}
        return finding(ID, Status.FAIL, f"No GPU can be used from here: {why}.", **data)
    text = f"{len(usable)} NVIDIA GPU(s) on the PCI bus cannot be used: {why} (bound driver: {', '.join(drivers)})."
    if error["kind"] in ABSENT:
        data["cause"] = "gpu-not-visible"
    elif error["kind"] == "library-mismatch":
        data["cause"] = "driver-library-mismatch"
    return finding(ID, Status.FAIL, text, **data)


def _judge_files(facts: Facts) -> list[Finding]:
    devices, found = facts["devices"], []
    if devices["denied"]:
        text = f"This user may not open {', '.join('/dev/' + name for name in devices['denied'])}."
        found.append(
            finding(
                ID,
                Status.FAIL,
                text,
                subject="device files",
                cause="permission-denied",
                denied=devices["denied"],
            )
        )
    # a tree without any device file is not /dev of a machine whose NVML answers: nothing to compare with
    if devices["gpus"] and "nvidia-uvm" not in devices["others"]:
        text = "/dev/nvidia-uvm is missing: CUDA cannot start here unless nvidia-modprobe may create it."
        found.append(finding(ID, Status.WARN, text, subject="device files", cause="gpu-not-visible"))
    return found


def _judge_variable(facts: Facts) -> Finding:
    count, visible = facts["nvml_count"], facts["cuda_visible"]
    subject = "CUDA_VISIBLE_DEVICES"
    if visible is None:
        return finding(ID, Status.OK, f"All {count} GPU(s) that NVML counts are visible.", nvml_count=count)
    value = facts["variables"][subject]
    shown = visible["visible"]
    data: dict[str, Any] = {"value": value, "nvml_count": count, "visible": shown}
    if not shown and visible["bad"] in (None, "-1", "NoDevFiles", "void", "none"):
        text = f"{subject}={value!r} hides all {count} GPU(s): torch finds none."
        return finding(ID, Status.FAIL, text, subject=subject, cause="gpu-not-visible", **data)
    if visible["bad"] is not None and visible["bad"].isdigit():
        text = f"{subject}={value} names GPU {visible['bad']}, but there are only 0 to {count - 1}: CUDA shows {len(shown)}."
        return finding(ID, Status.FAIL, text, subject=subject, cause="gpu-count-exceeded", **data)
    if visible["bad"] is not None:
        text = f"{subject}={value} names {visible['bad']}, which is no device of this node: CUDA shows {len(shown)}."
        return finding(ID, Status.FAIL, text, subject=subject, cause="gpu-not-visible", **data)
    if visible["duplicate"]:
        text = f"{subject}={value} names a GPU twice: CUDA then shows none."
        return finding(ID, Status.FAIL, text, subject=subject, cause="gpu-not-visible", **data)
    if visible["form"] != "index":
        text = f"{subject} names {len(shown)} of {count} GPU(s) by UUID: CUDA takes that, but some engines expect numbers."
        return finding(ID, Status.WARN, text, subject=subject, cause="device-uuid-unsupported", **data)
    text = f"{subject}={value} shows {len(shown)} of {count} GPU(s)."
    return finding(ID, Status.OK, text, subject=subject, **data)


PROBE = Probe(ID, "Visible GPUs", collect, judge, timeout_s=8.0, section="hardware")
