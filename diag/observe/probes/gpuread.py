"""Reading one GPU through NVML: every figure optional, every refusal kept."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

from diag.observe.probes.interface import Facts
from diag.observe.probes.nvml import GONE, Nvml, not_supported

ARCHITECTURES = {
    2: "kepler", 3: "maxwell", 4: "pascal", 5: "volta", 6: "turing", 7: "ampere", 8: "ada", 9: "hopper",
    10: "blackwell", 13: "rubin",
}  # fmt: skip
"""NVML_DEVICE_ARCH_*. Source: nvidia-ml-py 13."""
COMPUTE_MODES = ("default", "exclusive-thread", "prohibited", "exclusive-process")
"""NVML_COMPUTEMODE_*, in order. Source: nvml.h."""
THROTTLE_BITS = {
    0x1: "idle", 0x2: "application-clocks", 0x4: "software-power-cap", 0x8: "hardware-slowdown", 0x10: "sync-boost",
    0x20: "software-thermal", 0x40: "hardware-thermal", 0x80: "power-brake", 0x100: "display",
}  # fmt: skip
"""nvmlClocksEventReasons. Source: nvml.h; cross-read in Azure/azurehpc-health-checks azure_gpu_clock_throttling.nhc."""
RECOVERY_ACTIONS = (
    "none", "gpu-reset", "node-reboot", "drain-p2p", "drain-and-reset", "recover-imex-domain", "bus-reset", "system-reboot",
)  # fmt: skip
"""NVML_GPU_RECOVERY_ACTION_*, in order; driver 570 and later. Source: nvidia-ml-py 13."""
FABRIC_STATES = ("not-supported", "not-started", "in-progress", "completed")
"""NVML_GPU_FABRIC_STATE_*, in order. Source: nvml.h."""
RECOVERY_FIELD = 230
"""NVML_FI_DEV_GET_GPU_RECOVERY_ACTION. Source: nvidia-ml-py 13; older bindings do not name it."""


class _Reader:
    """Asks one GPU, and remembers what it could not say."""

    def __init__(self, nvml: Nvml, handle: Any) -> None:
        self.nvml, self.handle = nvml, handle
        self.not_supported: list[str] = []
        self.errors: dict[str, Any] = {}

    def get(self, name: str, function: str, *args: Any, then: Callable[[Any], Any] | None = None) -> Any:
        """The value of `function`, mapped by `then`; None and a note where there is none."""
        value, error = self.nvml.ask(function, self.handle, *args)
        if error is not None:
            if not_supported(error):
                self.not_supported.append(name)
            else:
                self.errors[name] = error
            return None
        return then(value) if then is not None else value


def read_gpu(nvml: Nvml, index: int) -> Facts:
    """Everything about one GPU; only {index, error} where NVML gives no handle."""
    handle, error = nvml.ask("nvmlDeviceGetHandleByIndex", index)
    if error is None:
        error = nvml.ask("nvmlDeviceGetName", handle)[1]  # a lost GPU may still have a handle
    if error is not None and (handle is None or error["kind"] in GONE):
        return {"index": index, "error": error}
    ask = _Reader(nvml, handle)
    gpu: Facts = {"index": index, "error": None}
    gpu |= _identity(ask)
    gpu |= _memory(ask)
    gpu |= _modes(ask)
    gpu |= _health(ask)
    gpu |= _load(ask)
    gpu |= _links(ask)
    gpu["not_supported"], gpu["errors"] = ask.not_supported, ask.errors
    return gpu


def _identity(ask: _Reader) -> Facts:
    return {
        "name": ask.get("name", "nvmlDeviceGetName"),
        "uuid": ask.get("uuid", "nvmlDeviceGetUUID"),
        "pci_address": ask.get("pci_address", "nvmlDeviceGetPciInfo", then=lambda info: _text(info.busId)),
        "minor_number": ask.get("minor_number", "nvmlDeviceGetMinorNumber"),
        "compute_capability": ask.get(
            "compute_capability", "nvmlDeviceGetCudaComputeCapability", then=lambda cc: f"{cc[0]}.{cc[1]}"
        ),
        "architecture": ask.get(
            "architecture",
            "nvmlDeviceGetArchitecture",
            then=lambda code: ARCHITECTURES.get(code, f"code-{code}"),
        ),
    }


def _memory(ask: _Reader) -> Facts:
    memory = ask.get("memory", "nvmlDeviceGetMemoryInfo")
    return {
        "memory_total_bytes": memory.total if memory else None,
        "memory_free_bytes": memory.free if memory else None,
        "memory_used_bytes": memory.used if memory else None,
    }


def _modes(ask: _Reader) -> Facts:
    mig = ask.get("mig", "nvmlDeviceGetMigMode")
    devices = []
    if mig and mig[0]:
        most = ask.get("mig_devices", "nvmlDeviceGetMaxMigDeviceCount") or 0
        for slot in range(most):
            device = ask.nvml.value("nvmlDeviceGetMigDeviceHandleByIndex", ask.handle, slot)
            if device is not None:
                devices.append(ask.nvml.value("nvmlDeviceGetUUID", device))
    return {
        "compute_mode": ask.get(
            "compute_mode", "nvmlDeviceGetComputeMode", then=lambda code: _nth(COMPUTE_MODES, code)
        ),
        "mig_enabled": bool(mig[0]) if mig else None,
        "mig_pending": bool(mig[1]) if mig else None,
        "mig_devices": devices,
        "persistence": ask.get("persistence", "nvmlDeviceGetPersistenceMode", then=bool),
    }


def _health(ask: _Reader) -> Facts:
    remapped = ask.get("remapped_rows", "nvmlDeviceGetRemappedRows")
    throttle = ask.get("throttle", "nvmlDeviceGetCurrentClocksThrottleReasons")
    recovery = None
    fields = ask.get("recovery_action", "nvmlDeviceGetFieldValues", [RECOVERY_FIELD])
    if fields is not None and fields[0].nvmlReturn == 0:
        recovery = _nth(RECOVERY_ACTIONS, fields[0].value.uiVal)
    elif fields is not None:
        ask.not_supported.append("recovery_action")
    return {
        "ecc_enabled": ask.get("ecc_enabled", "nvmlDeviceGetEccMode", then=lambda modes: bool(modes[0])),
        # error type 0 corrected, 1 uncorrected; counter 0 since the driver was loaded, 1 over the board's life
        "ecc_corrected": ask.get("ecc_corrected", "nvmlDeviceGetTotalEccErrors", 0, 0),
        "ecc_uncorrected": ask.get("ecc_uncorrected", "nvmlDeviceGetTotalEccErrors", 1, 0),
        "ecc_uncorrected_life": ask.get("ecc_uncorrected_life", "nvmlDeviceGetTotalEccErrors", 1, 1),
        "remapped_rows": dict(zip(("corrected", "uncorrected", "pending", "failed"), remapped, strict=True))
        if remapped
        else None,
        "throttle_reasons": [name for bit, name in THROTTLE_BITS.items() if throttle & bit]
        if throttle is not None
        else None,
        "recovery_action": recovery,
    }


def _load(ask: _Reader) -> Facts:
    use = ask.get("utilization", "nvmlDeviceGetUtilizationRates")
    return {
        "temperature_c": ask.get("temperature", "nvmlDeviceGetTemperature", 0),
        "power_w": ask.get("power", "nvmlDeviceGetPowerUsage", then=lambda mw: mw / 1000),
        "power_limit_w": ask.get("power_limit", "nvmlDeviceGetEnforcedPowerLimit", then=lambda mw: mw / 1000),
        "utilization_percent": use.gpu if use else None,
        "memory_utilization_percent": use.memory if use else None,
    }


def _links(ask: _Reader) -> Facts:
    links = read_links(ask.nvml, ask.handle)
    return {
        "nvlinks": len(links),
        "nvlinks_active": sum(links),
        "nvlinks_down": [link for link, active in enumerate(links) if not active],
        "pcie_generation": ask.get("pcie_generation", "nvmlDeviceGetCurrPcieLinkGeneration"),
        "pcie_generation_max": ask.get("pcie_generation_max", "nvmlDeviceGetMaxPcieLinkGeneration"),
        "pcie_width": ask.get("pcie_width", "nvmlDeviceGetCurrPcieLinkWidth"),
        "pcie_width_max": ask.get("pcie_width_max", "nvmlDeviceGetMaxPcieLinkWidth"),
        "fabric": read_fabric(ask.nvml, ask.handle),
    }


def read_links(nvml: Nvml, handle: Any) -> list[bool]:
    """Which NVLinks are active, by number; empty for a GPU without NVLink."""
    links: list[bool] = []
    for link in range(getattr(nvml.module, "NVML_NVLINK_MAX_LINKS", 18)):
        state, error = nvml.ask("nvmlDeviceGetNvLinkState", handle, link)
        if error is not None:
            break  # past the last link, or no NVLink at all
        links.append(bool(state))
    return links


def read_fabric(nvml: Nvml, handle: Any) -> Facts | None:
    """{state, status, clique, cluster_uuid} of the NVLink fabric; None where GPU or driver has none."""
    shape = getattr(nvml.module, "c_nvmlGpuFabricInfoV_t", None) or getattr(
        nvml.module, "c_nvmlGpuFabricInfo_t", None
    )
    if shape is None:
        return None
    info = shape()
    function = "nvmlDeviceGetGpuFabricInfoV" if hasattr(info, "version") else "nvmlDeviceGetGpuFabricInfo"
    # nvidia-ml-py hands its argument on as it is: NVML wants the structure's address
    if nvml.ask(function, handle, ctypes.byref(info))[1] is not None or info.state == 0:
        return None
    return {
        "state": _nth(FABRIC_STATES, info.state),
        "status": info.status,
        "clique": info.cliqueId,
        "cluster_uuid": bytes(info.clusterUuid).hex(),
    }


def _nth(names: tuple[str, ...], code: int) -> str:
    return names[code] if 0 <= code < len(names) else f"code-{code}"


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
