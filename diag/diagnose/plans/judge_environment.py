"""NCCL and CUDA variables that contradict each other, do not exist, or were left over from debugging."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator
from functools import cache
from importlib.resources import files

from diag.diagnose.plans.case import Case, judged, notes_of
from diag.diagnose.plans.judge_network import nodes_of, spans_nodes
from diag.diagnose.plans.settings import as_int, engine_of
from diag.model import Finding, Status
from diag.model.launch import Service

LEFTOVERS = {
    # set for a test once, and slow or blind ever since; a note, never a failure
    "CUDA_LAUNCH_BLOCKING": "1",
    "NCCL_DEBUG": "TRACE",
    "VLLM_TRACE_FUNCTION": "1",
    "TORCH_SHOW_CPP_STACKTRACES": "",
    "NCCL_P2P_DISABLE": "1",
    "NCCL_IB_DISABLE": "1",
    "NCCL_SHM_DISABLE": "1",
}
NO_SUCH = {
    "NCCL_TIMEOUT": "no such variable exists; the process group's timeout is the framework's setting",
    "NCCL_SOCKET_INTERFACE": "the name is NCCL_SOCKET_IFNAME",
    "NCCL_IFNAME": "the name is NCCL_SOCKET_IFNAME",
}


def judge_nccl(case: Case) -> Iterator[Finding]:
    """Interfaces that no peer reaches, and settings that exclude each other."""
    for service in case.services:
        many = spans_nodes(case, service)
        for name in ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME", "TP_SOCKET_IFNAME"):
            setting = service.env.get(name)
            if (
                setting is not None
                and many
                and re.fullmatch(r"=?(lo|docker0|virbr0|cni0|flannel\.1)", str(setting.value))
            ):
                yield judged(
                    "nccl-wrong-interface",
                    service,
                    Status.FAIL,
                    f"{service.name} spans several nodes, but {name} is {setting.value}, which no other node reaches",
                    setting=setting,
                    do=f"Set {name} to the interface between the nodes",
                )
        value = {name: str(setting.value) for name, setting in service.env.items()}
        if value.get("NCCL_MNNVL_ENABLE") == "1" and value.get("NCCL_CUMEM_ENABLE") == "0":
            yield judged(
                "nccl-nvls-cumem",
                service,
                Status.FAIL,
                f"{service.name}: NCCL_MNNVL_ENABLE=1 needs cuMem, and NCCL_CUMEM_ENABLE=0 switches it off",
                setting=service.env["NCCL_CUMEM_ENABLE"],
                do="Take one of the two out",
            )
        yield from _contradictions(service, value)
        yield from _unknown(service)
        for name, why in NO_SUCH.items():
            if name in service.env:
                yield judged(
                    "invalid-launch-argument",
                    service,
                    Status.OK,
                    f"{service.name}: {name}: {why}",
                    setting=service.env[name],
                    note=True,
                    certain=False,
                )


CONTRADICTIONS = (
    # (variable, value) that switches something off, and what is set for it all the same
    ("NCCL_IB_DISABLE", "1", ("NCCL_IB_HCA", "NCCL_IB_GID_INDEX", "NCCL_NET_GDR_LEVEL")),
    ("NCCL_P2P_DISABLE", "1", ("NCCL_P2P_LEVEL",)),
    ("NCCL_NVLS_ENABLE", "0", ("NCCL_NVLS_NCHANNELS",)),
    ("NCCL_NET", "Socket", ("NCCL_IB_HCA",)),
)


def _contradictions(service: Service, value: dict[str, str]) -> Iterator[Finding]:
    for name, off, others in CONTRADICTIONS:
        vain = [other for other in others if other in value and value[other] not in ("", "0")]
        if value.get(name) == off and vain:
            yield judged(
                "invalid-launch-argument",
                service,
                Status.WARN,
                f"{service.name}: {name}={off} switches off what {' and '.join(vain)} {'set' if len(vain) > 1 else 'sets'}",
                setting=service.env[name],
                certain=False,
                do=f"Take {name} out, or the other{'s' if len(vain) > 1 else ''}",
            )


@cache
def _nccl_names() -> frozenset[str]:
    text = files("diag.diagnose.plans").joinpath("data/nccl.json").read_text("utf-8")
    return frozenset(json.loads(text)["variables"])


def _unknown(service: Service) -> Iterator[Finding]:
    """NCCL_ names that NCCL does not read, where one that it does read is meant."""
    for name, setting in service.env.items():
        if not name.startswith("NCCL_") or name in _nccl_names() or name in NO_SUCH:
            continue
        close = _nearest(name, _nccl_names())
        if close:
            yield judged(
                "invalid-launch-argument",
                service,
                Status.WARN,
                f"{service.name}: NCCL reads no variable {name}; did you mean {close[0]}?",
                setting=setting,
                certain=False,
                do=f"Write {close[0]}",
                rename_variable=(name, close[0]),
            )


def _nearest(name: str, known: frozenset[str]) -> list[str]:
    """One letter in a short name weighs more."""
    return difflib.get_close_matches(name, known, 1, 0.92 if len(name) > 14 else 0.9)


OTHER_NAMES = frozenset(
    # variables of gloo, torch and UCX that launches set (their documentations)
    (
        *("GLOO_SOCKET_IFNAME", "TP_SOCKET_IFNAME", "GLOO_DEVICE_TRANSPORT", "MASTER_ADDR", "MASTER_PORT"),
        *(
            "CUDA_VISIBLE_DEVICES",
            "CUDA_DEVICE_ORDER",
            "CUDA_DEVICE_MAX_CONNECTIONS",
            "NVIDIA_VISIBLE_DEVICES",
        ),
        *(
            "UCX_NET_DEVICES",
            "UCX_TLS",
            "UCX_IB_GID_INDEX",
            "UCX_RNDV_SCHEME",
            "UCX_MEMTYPE_CACHE",
            "UCX_LOG_LEVEL",
        ),
        *("TORCH_NCCL_ASYNC_ERROR_HANDLING", "TORCH_NCCL_BLOCKING_WAIT", "TORCH_NCCL_TRACE_BUFFER_SIZE"),
        *(
            "TORCH_NCCL_DUMP_ON_TIMEOUT",
            "TORCH_NCCL_AVOID_RECORD_STREAMS",
            "TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC",
        ),
    )
)


def judge_other_names(case: Case) -> Iterator[Finding]:
    """A letter too few or too many in the name of another well-known variable."""
    for service in case.services:
        for name, setting in service.env.items():
            if name in OTHER_NAMES or not name.startswith(
                ("GLOO_", "MASTER_", "CUDA_", "UCX_", "TORCH_NCCL_", "TP_S")
            ):
                continue
            close = difflib.get_close_matches(name, OTHER_NAMES, 1, 0.9)
            if close and abs(len(close[0]) - len(name)) < 2 and sorted(close[0]) != sorted(name + "S"):
                yield judged(
                    "invalid-launch-argument",
                    service,
                    Status.WARN,
                    f"{service.name}: nothing reads a variable {name}; did you mean {close[0]}?",
                    setting=setting,
                    certain=False,
                    do=f"Write {close[0]}",
                    rename_variable=(name, close[0]),
                )


def judge_leftovers(case: Case) -> Iterator[Finding]:
    """Notes on what was left from a search for another fault."""
    for service in case.services:
        for name, value in LEFTOVERS.items():
            setting = service.env.get(name)
            if setting is not None and str(setting.value) == value and value:
                yield judged(
                    "environment-leftover",
                    service,
                    Status.OK,
                    f"{service.name}: {name}={value} looks left over from debugging; it slows down or hides",
                    setting=setting,
                    note=True,
                    certain=False,
                )


def judge_visible(case: Case) -> Iterator[Finding]:
    """CUDA_VISIBLE_DEVICES against the ranks and the GPUs there."""
    there = case.hardware.gpus_per_node if case.hardware is not None else None
    for service in case.engines:
        setting = service.env.get("CUDA_VISIBLE_DEVICES")
        devices = visible(service)
        if setting is None or devices is None:
            continue
        twice = sorted({each for each in devices if devices.count(each) > 1})
        if twice:
            kept = _first_devices(service, there, max(len(devices), _local(case, service)))
            yield judged(
                "duplicate-gpu",
                service,
                Status.FAIL,
                f"{service.name}: CUDA_VISIBLE_DEVICES names GPU {', '.join(twice)} twice; a rank a GPU is the rule, and CUDA shows none behind the repeated one",
                setting=setting,
                do=f"Name every GPU once ({kept})",
                variables={"CUDA_VISIBLE_DEVICES": kept},
            )
        beyond = [
            each
            for each in devices
            if there is not None and as_int(each) is not None and (as_int(each) or 0) >= there
        ]
        if beyond:
            yield judged(
                "gpu-count-exceeded",
                service,
                Status.FAIL,
                f"{service.name}: CUDA_VISIBLE_DEVICES names GPU {', '.join(beyond)} on a node that has {there} (0 to {(there or 1) - 1})",
                setting=setting,
                there=there,
                do="Name GPUs that exist",
                variables={"CUDA_VISIBLE_DEVICES": _first_devices(service, there, len(devices))},
            )
        local = _local(case, service)
        if devices and local > len(devices) and engine_of(service):
            yield judged(
                "gpu-count-exceeded",
                service,
                Status.FAIL,
                f"{service.name} starts {local} ranks but CUDA_VISIBLE_DEVICES shows it {len(devices)} GPU{'s' if len(devices) > 1 else ''}",
                setting=setting,
                wanted=local,
                there=len(devices),
                do="Show it as many GPUs as it has ranks",
                variables={"CUDA_VISIBLE_DEVICES": _first_devices(service, there, local)}
                if there is None or local <= there
                else None,
            )


def _local(case: Case, service: Service) -> int:
    """Ranks of a service on one node."""
    ranks = (service.tensor_parallel_size or 1) * (service.pipeline_parallel_size or 1)
    return ranks // max(1, nodes_of(case, service))


def _first_devices(service: Service, there: int | None, count: int) -> str:
    """As many devices, those named already first."""
    named = [
        each for each in dict.fromkeys(visible(service) or []) if there is None or (as_int(each) or 0) < there
    ]
    free = (str(index) for index in range(there or 64) if str(index) not in named)
    return ",".join([*named, *(each for each, _ in zip(free, range(count), strict=False))][:count])


def visible(service: Service) -> list[str] | None:
    """The devices a service is shown, or None where nothing (or a variable) says."""
    setting = service.env.get("CUDA_VISIBLE_DEVICES")
    text = str(setting.value).strip("'\" ") if setting is not None else ""
    return (
        [each.strip() for each in text.split(",") if each.strip()]
        if setting is not None and "$" not in text and text not in ("", "all", "-1")
        else None
    )


def host_devices(service: Service) -> list[str] | None:
    """The node's devices a service is shown: compose's device_ids, else CUDA_VISIBLE_DEVICES; None where nothing says."""
    ids = notes_of(service).get("devices")
    return ids.split(",") if ids else visible(service)


def judge_shared_gpus(case: Case) -> Iterator[Finding]:
    """Several services on one GPU: their shares add up."""
    by_device: dict[str, list[Service]] = {}
    for service in case.engines:
        notes = getattr(service, "notes", {})
        if (
            engine_of(service) != "vllm"
            or ("open" in notes and "gpu-memory-utilization" not in service.options)
            or notes.get("kubernetes")
            or not (notes.get("background") or case.plan.kind in ("compose",))
        ):
            continue
        for device in host_devices(service) or []:
            by_device.setdefault(device, []).append(service)
    said = set()
    for device, services in by_device.items():
        names = tuple(dict.fromkeys(service.name for service in services))
        shares = [_share(service) for service in services]
        if len(names) > 1 and sum(shares) > 1.0 and names not in said:
            said.add(names)
            together = " + ".join(f"{share:g}" for share in shares)
            yield judged(
                "gpu-memory-in-use",
                services[-1],
                Status.FAIL,
                f"{' and '.join(names)} share GPU {device} and take {together} = {sum(shares):g} of its memory",
                setting=services[-1].options.get("gpu-memory-utilization"),
                do="Lower gpu-memory-utilization so that the shares add up to less than 1, or give each service GPUs of its own",
                variables=_free_devices(case, services[-1]),
                device=device,
            )


def _free_devices(case: Case, service: Service) -> dict[str, object]:
    """As many GPUs as the service has now, of those that nothing else uses; nothing where there are too few."""
    there = case.hardware.gpus_per_node if case.hardware is not None else None
    used = {each for other in case.engines for each in host_devices(other) or []}
    free = [str(index) for index in range(there or 0) if str(index) not in used]
    count = len(visible(service) or [])
    return {"CUDA_VISIBLE_DEVICES": ",".join(free[:count])} if count and len(free) >= count else {}


def _share(service: Service) -> float:
    setting = service.options.get("gpu-memory-utilization")
    try:
        return float(setting.value) if setting is not None else 0.9
    except (TypeError, ValueError):
        return 0.9


JUDGES = (judge_nccl, judge_other_names, judge_leftovers, judge_visible, judge_shared_gpus)
