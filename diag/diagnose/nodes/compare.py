"""How nodes differ: the majority and the odd ones, in the fewest words. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from diag.diagnose.nodes.view import found
from diag.model import Finding, Status

Traits = dict[str, str]
"""What is compared of one node: trait -> value; the trait's name is what a reader sees."""

FATAL = {
    "NCCL": "nccl-version-mismatch", "torch": "version-skew", "vllm": "version-skew", "sglang": "version-skew", "ray": "version-skew",
    "tensorrt-llm": "version-skew", "deepspeed": "version-skew", "nixl": "version-skew", "ai-dynamo": "version-skew",
}  # fmt: skip
"""Traits that a job does not survive if they differ: NCCL compares versions when it meets (init.cc), Ray refuses others,
engines send each other their own objects."""
CAUSES = {
    "driver": "version-skew", "CUDA of the driver": "version-skew", "Python": "version-skew", "MTU": "mtu-mismatch",
    "GPUs": "launcher-layout", "torch's CUDA": "version-skew", "kernel": "version-skew",
}  # fmt: skip
"""Traits that may well differ; the cause they would support."""
_PACKAGES = (
    "torch",
    "vllm",
    "sglang",
    "ray",
    "tensorrt-llm",
    "deepspeed",
    "nixl",
    "ai-dynamo",
    "transformers",
    "flashinfer-python",
    "triton",
    "numpy",
)
_OWN_PER_NODE = re.compile(
    r"NCCL_(HOSTID|DEBUG_FILE|.*DUMP.*)$|(.*_)?(RANK|HOST_IP|SIDE_CHANNEL_HOST)$|MASTER_PORT$|CUDA_VISIBLE_DEVICES$|NVIDIA_VISIBLE_DEVICES$|RAY_.*|TORCHELASTIC.*"
)
"""Variables that rightly differ between nodes."""
_STEERING = re.compile(
    r"(TORCH_)?NCCL_|GLOO_|TP_SOCKET|UCX_|VLLM_|SGLANG_|NVSHMEM_|PYTORCH_CUDA|MASTER_ADDR$|WORLD_SIZE$|NNODES$|CUDA_(LAUNCH|DEVICE)"
)
MOST_TRAITS = 8


def traits_of(facts: Mapping[str, Any]) -> Traits:
    """What can be compared of one node's facts (sections of `run_probes`, or of a report)."""
    probes: dict[str, Any] = {}
    for section in facts.values():
        if isinstance(section, Mapping):
            probes.update({name: seen for name, seen in section.items() if isinstance(seen, Mapping)})
    traits: Traits = {}

    def add(name: str, value: object) -> None:
        if value not in (None, "", [], {}):
            traits[name] = str(value)

    driver, gpus = probes.get("driver.versions", {}), probes.get("gpu.inventory", {})
    add("driver", driver.get("driver_version") or gpus.get("driver_version"))
    add("CUDA of the driver", driver.get("cuda_driver_version"))
    add("GPUs", _gpus(gpus))
    _add_software(add, probes.get("software.versions", {}))
    _add_limits(add, probes)
    for one in probes.get("net.interfaces", {}).get("interfaces", []):
        if (
            one.get("running")
            and one.get("addresses")
            and one.get("kind") in ("ethernet", "bond", "infiniband")
        ):
            add(f"MTU of {one['name']}", one.get("mtu_bytes"))
    for source in probes.get("env.variables", {}).get("sources", []):
        if source.get("kind") == "shell":
            for name, value in source["variables"].items():
                if _STEERING.match(name) and not _OWN_PER_NODE.match(name):
                    add(name, value)
    return traits


def _gpus(inventory: Mapping[str, Any]) -> str:
    names = Counter(str(gpu.get("name")) for gpu in inventory.get("gpus", []) if isinstance(gpu, Mapping))
    return ", ".join(f"{count}×{name}" for name, count in sorted(names.items()))


def _add_software(add: Any, software: Mapping[str, Any]) -> None:
    answer = software.get("answer") or {}
    packages = answer.get("packages") or {}
    add("Python", ".".join(str(answer.get("python") or "").split(".")[:2]))
    for name in _PACKAGES:
        add(name, packages.get(name))
    nccl = next((value for name, value in sorted(packages.items()) if name.startswith("nvidia-nccl")), None)
    add("NCCL", nccl)
    add("torch's CUDA", (answer.get("torch") or {}).get("cuda"))


def _add_limits(add: Any, probes: Mapping[str, Any]) -> None:
    shell = probes.get("host.limits", {}).get("shell", {})
    for name in ("memlock", "nofile", "stack"):
        if isinstance(shell.get(name), (list, tuple)) and shell[name]:
            add(f"limit {name}", "unlimited" if shell[name][0] is None else shell[name][0])
    shm = probes.get("host.shm", {}).get("size_bytes")
    add("/dev/shm", f"{shm / (1 << 30):.1f} GiB" if shm else None)


def compare_traits(nodes: Mapping[str, Traits], *, hosts: Mapping[str, str] | None = None) -> list[Finding]:
    """Findings about the odd nodes. `nodes`: label -> traits; `hosts`: label -> host name for the culprit."""
    hosts = hosts or {}
    odd: dict[str, dict[str, tuple[str, str]]] = {}
    split: dict[str, dict[str, list[str]]] = {}
    for name in sorted({name for traits in nodes.values() for name in traits}):
        values = {label: traits.get(name) for label, traits in nodes.items()}
        sure = not (
            "_" in name and name.isupper()
        )  # a variable that is not set differs, a probe that failed does not
        told = {label: value for label, value in values.items() if value is not None or not sure}
        counts = Counter(told.values())
        if len(counts) < 2:
            continue
        usual, votes = counts.most_common(1)[0]
        if votes * 2 <= len(told):
            groups = split.setdefault(name, {})
            for label, value in told.items():
                groups.setdefault(str(value) if value is not None else "not set", []).append(label)
            continue
        for label, value in told.items():
            if value != usual:
                odd.setdefault(label, {})[name] = (value or "not set", usual or "not set")
    result = []
    for label, differences in odd.items():
        result += _odd_node(label, differences, len(nodes) - 1, hosts.get(label))
    for name, groups in split.items():
        sides = "; ".join(f"{value} on {', '.join(labels[:6])}" for value, labels in groups.items())
        status, cause = _weight(name)
        result.append(found("nodes", status, f"the nodes differ: {name} {sides}", subject=name, cause=cause))
    if not result and len(nodes) > 1:
        result.append(
            found(
                "nodes",
                Status.OK,
                f"{len(nodes)} nodes agree in all {max(map(len, nodes.values()))} things compared",
            )
        )
    return result


def _odd_node(
    label: str, differences: Mapping[str, tuple[str, str]], others: int, host: str | None
) -> list[Finding]:
    """One finding for what explains a failure, one for the rest."""
    result = []
    for fatal in (True, False):
        mine = {
            name: pair for name, pair in differences.items() if (_weight(name)[0] is Status.FAIL) is fatal
        }
        if not mine:
            continue
        causes = [cause for name in mine if (cause := _weight(name)[1])]
        what = ", ".join(
            f"{name} {value} (others {usual})" for name, (value, usual) in list(mine.items())[:MOST_TRAITS]
        )
        more = f" and {len(mine) - MOST_TRAITS} more" if len(mine) > MOST_TRAITS else ""
        whom = f"{others} others" if others > 1 else "the other"
        data: dict[str, Any] = {"host": host} if host else {"component": label}
        cause = "version-skew" if "version-skew" in causes else causes[0] if causes else None
        result.append(found(
            "nodes", Status.FAIL if fatal else Status.WARN, f"{label} differs from {whom}: {what}{more}", subject=label, cause=cause,
            differences={name: list(pair) for name, pair in mine.items()}, certain=False, **data,
        ))  # fmt: skip
    return result


def _weight(name: str) -> tuple[Status, str | None]:
    if name in FATAL:
        return Status.FAIL, FATAL[name]
    if name.startswith("MTU of"):
        return Status.WARN, "mtu-mismatch"
    return Status.WARN, CAUSES.get(name)
