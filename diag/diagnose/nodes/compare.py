"""How nodes differ: the majority and the odd ones, in the fewest words. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from diag.diagnose.nodes.view import found
from diag.model import Finding, Status
from diag.observe.probes.process_arguments import common
from diag.observe.probes.software_model_files import fingerprint

Traits = dict[str, str]
"""What is compared of one node: trait -> value; the trait's name is what a reader sees."""

OF_RANKS, RUNNING = " of running ranks", "running ranks"
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
_BY_START = (
    ("MTU of", "mtu-mismatch"), ("RDMA", "ib-roce-failure"), ("GIDs of", "ib-roce-failure"), ("files of", "weights-corrupt"),
    ("revision of", "version-skew"), ("argument ", "launcher-layout"), (RUNNING, "launcher-layout"),
)  # fmt: skip
"""Beginnings of traits' names, and the cause a difference would support."""
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
_OWN_ARGUMENT = re.compile(
    r"--?(node-rank|machine-rank|rank|local-rank|host|ip|addr|address|bind|port|[\w-]*-(ip|host|addr|address|port|rank|start-rank|id)|r|m|c)$"
)
"""Arguments that rightly differ between nodes, and an interpreter's own."""
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
    _add_variables(add, probes.get("env.variables", {}))
    _add_rdma(add, probes.get("net.rdma", {}))
    _add_launch(add, probes)
    return traits


def _add_variables(add: Any, seen: Mapping[str, Any]) -> None:
    """Variables of the shell, of configuration files, and those that all ranks of this node have in common."""
    ranks: dict[str, set[str]] = {}
    for source in seen.get("sources", []):
        steering = {
            name: value
            for name, value in source["variables"].items()
            if _STEERING.match(name) and not _OWN_PER_NODE.match(name)
        }
        for name, value in steering.items():
            if source.get("kind") == "shell":
                add(name, value)
            elif source.get("kind") == "file":
                add(f"{name} in nccl.conf", value)
            elif source.get("kind") == "process":
                ranks.setdefault(name, set()).add(value)
    for name, values in ranks.items():
        if len(values) == 1:  # ranks of one node that disagree are that node's own finding
            add(f"{name}{OF_RANKS}", next(iter(values)))


def _add_rdma(add: Any, seen: Mapping[str, Any]) -> None:
    """Ports, and what stands in their GID tables: index and kind, whatever the addresses."""
    hcas = seen.get("hcas", [])
    add("RDMA devices", ", ".join(str(hca["name"]) for hca in hcas))
    for hca in hcas:
        add(f"firmware of {hca['name']}", hca.get("firmware"))
        for port in hca["ports"]:
            name = f"{hca['name']}:{port['port']}"
            rate = f"{port['rate_gbps']:g} Gb/s" if port.get("rate_gbps") else "no rate"
            add(f"RDMA port {name}", f"{port['state']}, {port['link_layer']}, {rate}")
            add(f"GIDs of {name}", ", ".join(f"{gid['index']} {gid['type'] or '?'}" for gid in port["gids"]))


def _add_launch(add: Any, probes: Mapping[str, Any]) -> None:
    """Arguments of running processes, plug-ins, model files."""
    seen = probes.get("process.arguments", {})
    processes = seen.get("processes", [])
    if processes:
        ranks = [one for one in processes if one["role"] in ("rank", "worker")]
        add(RUNNING, len(ranks) or None)
        for name, value in common(processes).items():
            if not _OWN_ARGUMENT.search(name):
                add(f"argument {name}", value or "given")
    if "plugins" in seen:
        add(
            "NCCL plug-ins",
            ", ".join(sorted({str(one).rpartition("/")[2] for one in seen["plugins"]})) or "none",
        )
    for one in probes.get("software.model-files", {}).get("models", []):
        if one["files"]:
            add(f"files of {one['model']}", fingerprint(one["files"]))
        add(f"revision of {one['model']}", (one["revision"] or "")[:12])


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
        told = {
            label: value
            for label, value in values.items()
            if value is not None or _may_be_absent(name, nodes[label])
        }
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


def _may_be_absent(name: str, traits: Traits) -> bool:
    """A variable or an argument that is not set differs; what a probe could not see does not."""
    if name.endswith(OF_RANKS) or name.startswith("argument "):
        return RUNNING in traits  # without running ranks there is nothing to be missed
    word = name.removesuffix(" in nccl.conf")
    return "_" in word and word.isupper()


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
    for start, cause in _BY_START:
        if name.startswith(start):
            return Status.WARN, cause
    return Status.WARN, CAUSES.get(name)
