"""Which NVIDIA driver runs, and whether its two halves and the patient's CUDA fit each other.

The driver has a kernel half (the module) and a user half (libcuda, NVML). After an upgrade without reload they
differ and nothing starts; an image's compat libcuda can shadow the host's; a torch built for a newer CUDA does not
load at all (below the family's floor), or loads and fails later in code compiled at run time (below the toolkit's
own driver: PTX from Triton, FlashInfer or NVRTC is newer than the driver understands).

Facts: {driver_version, cuda_driver_version, kernel_module: {version, flavor} | null, nvml: {version, error},
libcuda: [{path, folder, version, compat, origin}] in search order, loaded_libcuda: {path, version, compat,
cuda_version} | null, torch: {version, cuda, path} | null, pci_gpus, ld_library_path}. `driver_version` is the
kernel module's where it is known; which versions are known bad is the playbooks' business.
"""

from __future__ import annotations

from typing import Any

from diag.model import Finding, Reason, Status
from diag.observe.probes.cudalib import find_libcuda, find_torch, loaded_libcuda
from diag.observe.probes.interface import Facts, Probe, Setup, finding
from diag.observe.probes.nvhost import kernel_module, pci_gpus
from diag.observe.probes.nvml import ABSENT, Nvml, ask_nvml, explain_error
from diag.observe.probes.tables import table, version_key

ID = "driver.versions"


def collect(setup: Setup) -> Facts:
    """Read the module's version, ask NVML, and look where the loader would find libcuda."""
    module = kernel_module(setup.root)
    loaded = loaded_libcuda(setup.root)
    facts: Facts = {
        "kernel_module": module,
        "libcuda": find_libcuda(setup.root, setup.env),
        "loaded_libcuda": loaded,
        "torch": find_torch(setup.python),
        "pci_gpus": len(pci_gpus(setup.root)),
        "ld_library_path": [part for part in setup.env.get("LD_LIBRARY_PATH", "").split(":") if part],
    }
    none: tuple[Any, Any, Any] = (None, None, None)
    (version, nvml_driver, cuda), error = ask_nvml(_ask, none)
    facts["nvml"] = {"version": version, "driver_version": nvml_driver, "error": error}
    facts["cuda_driver_version"] = f"{cuda // 1000}.{cuda % 1000 // 10}" if cuda else None
    facts["driver_version"] = (module or {}).get("version") or nvml_driver
    return facts


def _ask(nvml: Nvml) -> tuple[Any, Any, Any]:
    """NVML's own version, the driver's, and the CUDA number it stands for."""
    return (
        nvml.value("nvmlSystemGetNVMLVersion"),
        nvml.value("nvmlSystemGetDriverVersion"),
        nvml.value("nvmlSystemGetCudaDriverVersion_v2"),
    )


def judge(facts: Facts) -> list[Finding]:
    """The driver itself, what shadows it, and what the patient's CUDA asks of it."""
    if facts["driver_version"] is None:
        return [_judge_absent(facts)]
    findings = [_judge_halves(facts)]
    compat = _judge_compat(facts)
    if compat is not None:
        findings.append(compat)
    torch = _judge_torch(facts)
    if torch is not None:
        findings.append(torch)
    return findings


def _judge_absent(facts: Facts) -> Finding:
    libraries, error = facts["libcuda"], facts["nvml"]["error"]
    if error is not None and error["kind"] not in ABSENT:
        text = f"An NVIDIA driver is there, but does not tell its version: {explain_error(error)}."
        data: dict[str, Any] = {"error": error}
        if error["kind"] == "timeout":
            return finding(ID, Status.UNKNOWN, text, reason=Reason.TIMEOUT, **data)
        if error["kind"] == "library-mismatch":
            data["cause"] = "driver-library-mismatch"
        return finding(ID, Status.FAIL, text, **data)
    if facts["pci_gpus"]:
        return finding(
            ID,
            Status.FAIL,
            f"{facts['pci_gpus']} NVIDIA GPU(s) on the PCI bus, but no driver answers: no /proc/driver/nvidia/version, "
            f"and {explain_error(facts['nvml']['error'])}.",
            cause="gpu-not-visible",
            pci_gpus=facts["pci_gpus"],
        )
    if libraries:
        text = f"No NVIDIA kernel module here; {libraries[0]['path']} alone (as images ship it) runs nothing."
        return finding(ID, Status.SKIP, text, reason=Reason.NOT_APPLICABLE)
    text = "No NVIDIA driver here: no kernel module, no libcuda.so.1, no NVIDIA GPU on the PCI bus."
    return finding(ID, Status.SKIP, text, reason=Reason.NOT_APPLICABLE)


def _effective(facts: Facts) -> dict[str, Any] | None:
    """The libcuda a process gets: the one really loaded, else the first in search order."""
    first = facts["libcuda"][0] if facts["libcuda"] else None
    effective: dict[str, Any] | None = facts["loaded_libcuda"] or first
    return effective


def _judge_halves(facts: Facts) -> Finding:
    module, nvml, library = facts["kernel_module"], facts["nvml"], _effective(facts)
    version = facts["driver_version"]
    remedy = "stop whatever uses the GPUs and reload the module, or reboot"
    others = {}
    if library and library["version"] and not library["compat"] and library["version"] != version:
        others["libcuda"] = library["version"]
    if nvml["driver_version"] and nvml["driver_version"] != version:
        others["nvml"] = nvml["driver_version"]
    mismatch = nvml["error"] is not None and nvml["error"]["kind"] == "library-mismatch"
    if others or mismatch:
        seen = (
            " and ".join(f"{name} {number}" for name, number in others.items())
            or "NVML of another version (error 18)"
        )
        text = f"The {'kernel module' if module else 'driver'} is {version}, but processes get {seen}: no CUDA program starts; {remedy}."
        cause = "driver-library-mismatch"
        return finding(ID, Status.FAIL, text, cause=cause, kernel_module=version, remedy=remedy, **others)
    flavor = f" ({module['flavor']} kernel module)" if module else ""
    text = f"Driver {version}{flavor}"
    if facts["cuda_driver_version"]:
        text += f", for CUDA up to {facts['cuda_driver_version']}"
    if library is None:
        return finding(
            ID,
            Status.FAIL,
            f"{text}, but there is no libcuda.so.1 here: torch finds no GPU "
            "(a container needs the driver capability `compute`).",
            cause="gpu-not-visible",
            driver_version=version,
        )
    return finding(ID, Status.OK, f"{text}.", driver_version=version, flavor=(module or {}).get("flavor"))


def _judge_compat(facts: Facts) -> Finding | None:
    """A compat libcuda in front of the host's: meant for older drivers, harmful on newer ones."""
    library, version = _effective(facts), facts["driver_version"]
    if library is None or not library["compat"] or not library["version"]:
        return None
    data = {"compat": library["version"], "driver_version": version, "path": library["path"]}
    if version_key(library["version"]) < version_key(version):
        text = (
            f"{library['path']} ({library['version']}) comes before the host's newer driver {version}: CUDA answers "
            "with error 803; take its folder out of LD_LIBRARY_PATH or of the loader's configuration."
        )
        return finding(ID, Status.FAIL, text, subject="compat libcuda", cause="cuda-compat-shadow", **data)
    text = (
        f"Forward compatibility is in use: {library['path']} ({library['version']}) over driver {version}; "
        "supported on data-centre GPUs only."
    )
    return finding(ID, Status.WARN, text, subject="compat libcuda", **data)


def _judge_torch(facts: Facts) -> Finding | None:
    """The family's floor gates loading; the toolkit's own driver gates code compiled at run time."""
    torch, library = facts["torch"], _effective(facts)
    if torch is None:
        return None
    subject = f"torch {torch['version']}"
    cuda = torch["cuda"]
    if not cuda:
        text = f"{subject} is built without CUDA: it cannot use the GPUs of this node."
        return finding(ID, Status.WARN, text, subject=subject, torch=torch["path"])
    # with forward compatibility the user half decides, and it is newer than the module
    compat = library["version"] if library and library["compat"] else None
    driver = compat or facts["driver_version"]
    rules = table("cuda_driver")
    family, own = cuda.split(".")[0], ".".join(cuda.split(".")[:2])
    floor, shipped = rules["family_floor"].get(family), rules["toolkit_driver"].get(own)
    data = {"torch_cuda": cuda, "driver_version": driver, "floor": floor, "toolkit_driver": shipped}
    if floor is None:
        text = f"{subject} is built for CUDA {cuda}, whose driver floor is not in diag's table."
        return finding(ID, Status.UNKNOWN, text, subject=subject, reason=Reason.UNPARSABLE, **data)
    if version_key(driver) < version_key(floor):
        text = f"{subject} is built for CUDA {cuda}, which needs driver {floor} or newer; here is {driver}: it cannot load."
        return finding(ID, Status.FAIL, text, subject=subject, cause="driver-too-old", **data)
    if shipped is not None and version_key(driver) < version_key(shipped):
        text = (
            f"{subject} (CUDA {cuda}) loads on driver {driver}, but CUDA {own} came with {shipped}: kernels compiled at run "
            "time (PTX of Triton, FlashInfer, NVRTC) may be refused."
        )
        return finding(ID, Status.WARN, text, subject=subject, risk="ptx-jit", **data)
    return finding(ID, Status.OK, f"{subject} (CUDA {cuda}) fits driver {driver}.", subject=subject, **data)


PROBE = Probe(ID, "NVIDIA driver", collect, judge, timeout_s=8.0, touches_gpu=False, section="hardware")
