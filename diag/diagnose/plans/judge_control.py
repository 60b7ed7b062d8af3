"""What the parts of one launch must reach of each other: the control plane, the KV transfer, the data-parallel ranks."""

from __future__ import annotations

import re
from collections.abc import Iterator

from diag.diagnose.plans.case import Case, absent, judged
from diag.diagnose.plans.memory import version_of
from diag.diagnose.plans.settings import engine_of, exclusive, integer, setting_of, text_of
from diag.model import Finding, Status
from diag.model.launch import Service, Setting

CONTROL = {"ETCD_ENDPOINTS": "etcd", "NATS_SERVER": "NATS", "ETCD_ENDPOINT": "etcd"}
_LOOPBACK = re.compile(r"(?:\A|//|,)(?:localhost|127(?:\.\d+){3}|\[::1\])(?=:|/|,|\Z)")
_ADDRESS = re.compile(r"(?:\A|//|,)(?P<host>\d+(?:\.\d+){3}|[a-z][\w-]*(?:\.[\w-]+)+)(?=:|/|,|\Z)")
FOR_GPUS = ("cuda", "rocm", "ze_", "gaudi", "all", "^")
"""Parts of UCX_TLS that let UCX touch GPU memory."""


def judge_control_plane(case: Case) -> Iterator[Finding]:
    """One node looks for etcd or NATS on itself, while another one's file says on which node it runs."""
    for name, program in CONTROL.items():
        mine = [(each, each.env[name]) for each in case.services if name in each.env]
        far = {
            found["host"]: each.path
            for each, setting in mine
            if (found := _ADDRESS.search(str(setting.value))) and not _LOOPBACK.search(str(setting.value))
        }
        told: set[str] = set()
        for service, setting in mine:
            if not _LOOPBACK.search(str(setting.value)) or service.path in told:
                continue
            elsewhere = [host for host, path in far.items() if path != service.path]
            if len(elsewhere) == 1:
                told.add(service.path)
                yield judged(
                    "control-plane-unreachable",
                    service,
                    Status.FAIL,
                    f"{service.name} looks for {program} on its own node ({name}={setting.value}); the launch's {program} runs on {elsewhere[0]}",
                    setting=setting,
                    do=f"Set {name} to the address that the other nodes use ({elsewhere[0]})",
                )


def _hands_over(service: Service) -> bool:
    """True for an engine that sends or receives KV caches through NIXL."""
    config = f"{text_of(service, 'kv-transfer-config') or ''} {text_of(service, 'connector') or ''}"
    backend = text_of(service, "disaggregation-transfer-backend")
    return service.role in ("prefill", "decode") and (
        "nixl" in config.lower() or backend == "nixl" or (service.framework == "vllm" and not config.strip())
    )


def judge_ucx(case: Case) -> Iterator[Finding]:
    """UCX bound to the loopback device between nodes, or kept from GPU memory."""
    for service in case.engines:
        devices, transports = service.env.get("UCX_NET_DEVICES"), service.env.get("UCX_TLS")
        if devices is not None and str(devices.value).strip() == "lo" and _spans(case, service):
            yield judged(
                "ucx-wrong-interface",
                service,
                Status.FAIL,
                f"{service.name}: UCX_NET_DEVICES=lo leaves UCX the loopback device only, which no other node reaches",
                setting=devices,
                do="Name the network card that the nodes share (for example mlx5_0:1 or eth0), or leave the variable out",
            )
        if (
            transports is not None
            and _hands_over(service)
            and "kv_buffer_device" not in str(text_of(service, "kv-transfer-config"))
            and re.fullmatch(r"[\w,:@]+", str(transports.value))
            and not any(word in str(transports.value) for word in FOR_GPUS)
        ):
            yield judged(
                "kv-transport-unsupported",
                service,
                Status.FAIL,
                f"{service.name}: UCX_TLS={transports.value} has no transport for GPU memory (cuda_copy, cuda_ipc), where the KV cache lies",
                setting=transports,
                do=f"Set UCX_TLS={transports.value},cuda_copy,cuda_ipc",
            )


def _spans(case: Case, service: Service) -> bool:
    """True if the launch has parts on other nodes: it says so, or its control plane is elsewhere."""
    if (service.nodes_per_replica or 1) > 1 or (case.hardware is not None and (case.hardware.nodes or 1) > 1):
        return True
    values = [str(each.env[name].value) for each in case.services for name in CONTROL if name in each.env]
    return any(_ADDRESS.search(value) for value in values)


def judge_data_parallel_ranks(case: Case) -> Iterator[Finding]:
    """vLLM: the nodes' data-parallel ranks (first rank and number) must be 0 to size - 1, each once."""
    nodes = [each for each in case.engines if engine_of(each) == "vllm" and not absent(each)]
    for size in {each.data_parallel_size for each in nodes}:
        group = [each for each in nodes if each.data_parallel_size == size]
        spans = {each.name + each.path: _span(each) for each in group}
        if not size or len(group) < 2 or len({each.path for each in group}) < 2 or None in spans.values():
            continue
        if any(exclusive(one, other) for one in group for other in group if one is not other):
            continue
        held = sorted(rank for span in spans.values() if span is not None for rank in span)
        if sum(len(span) for span in spans.values() if span) != size or held == list(range(size)):
            continue
        odd = max(group, key=lambda each: (_span(each) or range(0)).start)
        twice = sorted({rank for rank in held if held.count(rank) > 1})
        right = size - (integer(odd, "data-parallel-size-local") or 0)
        yield judged(
            "launcher-layout",
            odd,
            Status.FAIL,
            f"data-parallel ranks {', '.join(map(str, twice[:8]))} are held by two nodes"
            + (f"; {odd.name} begins at {(_span(odd) or range(0)).start}" if twice else "")
            + f": the {len(group)} nodes must hold 0 to {size - 1}, each rank once",
            setting=setting_of(odd, "data-parallel-start-rank"),
            do=f"Begin at {right} on the last node",
            settings={"data-parallel-start-rank": right} if len(group) == 2 else {},
        )


def _span(service: Service) -> range | None:
    local = integer(service, "data-parallel-size-local")
    start = setting_of(service, "data-parallel-start-rank")
    first = 0 if start is None else integer(service, "data-parallel-start-rank")
    return range(first, first + local) if local and first is not None else None


def judge_slices(case: Case) -> Iterator[Finding]:
    """GPUs named by UUID where the engine makes numbers of the names (vLLM before 0.10)."""
    for service in case.engines:
        setting: Setting | None = service.env.get("CUDA_VISIBLE_DEVICES")
        version = version_of(service)
        if (
            setting is None
            or engine_of(service) != "vllm"
            or not re.match(r"(?:MIG|GPU)-", str(setting.value))
        ):
            continue
        if version is not None and version < (0, 10):
            yield judged(
                "device-uuid-unsupported",
                service,
                Status.FAIL,
                f"{service.name}: vLLM {'.'.join(map(str, version))} takes CUDA_VISIBLE_DEVICES={setting.value} for numbers and stops with a ValueError",
                setting=setting,
                do="Name the device by its index, or use a newer vLLM",
            )


JUDGES = (judge_control_plane, judge_ucx, judge_data_parallel_ranks, judge_slices)
