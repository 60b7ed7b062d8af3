"""Variables steer NCCL, torch and the engines, and most dumps show those of the wrong process.

Looked at: this shell, /etc/nccl.conf, ~/.nccl.conf (or NCCL_CONF_FILE), and every running rank through /proc/PID/environ.
Known names come from NCCL's sources (data/nccl_names.json); traps from NCCL's environment guide and DCGM's list of harmful
variables (its `software` plug-in).
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from diag.model import Finding, Reason, Status
from diag.observe.probes.interface import Facts, Probe, Setup, finding
from diag.observe.probes.wording import count, listed
from diag.system import Root
from diag.system.jobs import find_job
from diag.system.processes import is_gone, read_environment

ID = "env.variables"
KEPT = re.compile(
    r"(TORCH_)?(NCCL|RCCL)_|TORCH|PYTORCH|VLLM_|SGLANG_|SGL_|UCX_|NIXL_|CUDA_|NVIDIA_|NVSHMEM_|GLOO_|TP_SOCKET_IFNAME|DYN_|"
    r"RAY_|TRITON_|FLASHINFER_|OMP_NUM_THREADS$|MASTER_|(LOCAL_|GROUP_)?(RANK|WORLD_SIZE)$|NNODES$|HF_(HOME|HUB_)|"
    r"TRANSFORMERS_OFFLINE|(http|https|no|all)_proxy$|LD_PRELOAD|NSIGHT_CUDA_DEBUGGER|COMPUTE_PROFILE|ETCD_ENDPOINTS|NATS_SERVER",
    re.IGNORECASE,
)
SECRET = re.compile(r"TOKEN|SECRET|PASSW|API_?KEY|CREDENTIAL", re.IGNORECASE)
FILES = ("NCCL_TOPO_FILE", "NCCL_GRAPH_FILE", "NCCL_CONF_FILE")
OWN_PER_RANK = re.compile(r"NCCL_(HOSTID|DEBUG_FILE|SOCKET_IFNAME|IB_HCA|CROSS_NIC|.*DUMP.*)$")
"""May rightly differ between ranks; every other NCCL variable must be the same on all of them."""


def collect(setup: Setup) -> Facts:
    """The interesting variables of every source; values are cut at 400 characters, secrets are not taken."""
    root, env = setup.root, setup.env
    sources: list[dict[str, Any]] = [{"who": "this shell", "kind": "shell", "variables": _kept(env)}]
    sources += _files(root, env, "", "")
    own_files = root.link("/proc/self/ns/mnt")
    missing = [path for path in _named(env) if not root.exists(path)]
    unreadable = []
    for member in find_job(root):
        if member.role not in ("worker", "rank", "engine", "server", "frontend"):
            continue
        pid = member.process.pid
        environment = read_environment(root, pid)
        if environment is None:
            unreadable += [] if is_gone(root, pid) else [member.label]
            continue
        variables = _kept(environment)
        sources.append(
            {"who": member.label, "kind": "process", "launch": member.launch, "variables": variables}
        )
        inside = root.link(f"/proc/{pid}/ns/mnt") != own_files  # a container has files of its own
        below = f"/proc/{pid}/root" if inside else ""
        known = {one["who"] for one in sources}
        sources += [
            one
            for one in _files(root, environment, below, f" of {member.label}" if inside else "")
            if one["who"] not in known
        ]
        if root.exists(f"{below}/etc"):  # else we may not look into the container
            missing += [path for path in _named(environment) if not root.exists(f"{below}{path}")]
    return {
        "sources": sources[:80], "unreadable": unreadable, "peermem": root.exists("/sys/module/nvidia_peermem"),
        "missing_files": sorted(set(missing)),
    }  # fmt: skip


def _files(root: Root, env: Mapping[str, str], below: str, whose: str) -> list[dict[str, Any]]:
    """The configuration files NCCL reads for a process, in its order (src/misc/param.cc): what is set first stays."""
    user = env.get("NCCL_CONF_FILE") or (f"{env['HOME']}/.nccl.conf" if env.get("HOME") else "")
    texts = {path: root.read(f"{below}{path}") for path in (user, "/etc/nccl.conf") if path.startswith("/")}
    return [
        {"who": f"{path}{whose}", "kind": "file", "variables": _kept(parse_conf(text))}
        for path, text in texts.items()
        if text is not None
    ]


def _named(env: Mapping[str, str]) -> list[str]:
    return [env[name] for name in FILES if env.get(name, "").startswith("/")]


def parse_conf(text: str) -> dict[str, str]:
    """NAME=value lines as NCCL reads them: `#` only counts in the first column, blanks are part of name and value."""
    rows = (
        line.rstrip("\r").partition("=")
        for line in text.split("\n")
        if not line.startswith("#") and "=" in line
    )
    return {name: value for name, _, value in rows}


def _kept(env: Mapping[str, str]) -> dict[str, str]:
    return {
        name: env[name][:400] for name in sorted(env) if KEPT.match(name.strip()) and not SECRET.search(name)
    }


@lru_cache(maxsize=1)
def known_names() -> dict[str, Any]:
    """The NCCL name table. Pure data that ships with diag."""
    data: dict[str, Any] = json.loads(
        Path(__file__).with_name("data").joinpath("nccl_names.json").read_text("utf-8")
    )
    return data


def judge(facts: Facts) -> list[Finding]:
    """Problems of each source (equal ones merged), then what differs between sources."""
    problems: dict[tuple[str, str], tuple[Finding, list[str]]] = {}
    for source in facts["sources"]:
        variables = dict(source["variables"])
        if source["kind"] == "process" and not variables.get("CUDA_VISIBLE_DEVICES", "x").strip():
            del variables[
                "CUDA_VISIBLE_DEVICES"
            ]  # Ray and the engines hide the GPUs from processes that need none
        for one in (*_names(variables), *_values(variables, facts)):
            problems.setdefault((one.subject, one.summary), (one, []))[1].append(source["who"])
    found = [
        finding(ID, one.status, f"{one.summary} (set in {listed(who, 3)})", subject=one.subject, **one.data)
        for one, who in problems.values()
    ]
    found += _differences(facts["sources"])
    if facts["unreadable"]:
        text = f"the variables of {listed(facts['unreadable'])} may not be read by this user"
        remedy = "run diag as root or as the owner of those processes"
        found.append(
            finding(ID, Status.UNKNOWN, text, subject="processes", reason=Reason.PERMISSION, remedy=remedy)
        )
    if all(one.status is Status.UNKNOWN for one in found):
        files = [one["who"] for one in facts["sources"] if one["kind"] == "file"]
        ranks = sum(one["kind"] == "process" for one in facts["sources"])
        text = f"no harmful variable in this shell, {listed(files) or 'no NCCL configuration file'}, {count(ranks, 'job process')}"
        found.append(finding(ID, Status.OK, text))
    return found


def _names(variables: Mapping[str, str]) -> Iterable[Finding]:
    """NCCL_ names that NCCL does not read: misspelt, renamed, retired, never existed."""
    data = known_names()
    for name in variables:
        bare = name.strip()
        if not bare.startswith("NCCL_") or bare in data["build"]:
            continue
        if bare != name:
            yield _warn(name, f"blanks around the name {bare}: NCCL reads it as another name and ignores it")
            continue
        if name in data["torch_renamed"]:
            new = data["torch_renamed"][name]
            yield _warn(name, f"old name of a torch switch; torch now reads {new}", suggested=new)
            continue
        if name == "NCCL_TIMEOUT":
            yield _warn(
                name,
                "no such variable in NCCL; the time limit is the process group's (init_process_group(timeout=...))",
            )
            continue
        span = data["names"].get(name)
        if span is not None:
            if _version(span[1]) < (2, 18):
                yield _warn(
                    name, f"NCCL reads it no more since after {span[1]}; it has no effect on a current one"
                )
            continue
        if any(name.startswith(prefix) for prefix in data["plugin_prefixes"]):
            continue
        near = difflib.get_close_matches(name, data["names"], n=1, cutoff=0.86)
        advice = f"; did you mean {near[0]}?" if near else ""
        text = f"no NCCL release up to {data['newest']} reads this name{advice}"
        yield _warn(name, text, suggested=near[0] if near else None)


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))


def _warn(name: str, text: str, **data: Any) -> Finding:
    return finding(ID, Status.WARN, f"{name}: {text}", subject=name, **data)


def _on(value: str) -> bool:
    return value.strip().lower() not in ("", "0", "false", "no", "off")


Check = tuple[str, Callable[[str], bool], str, str | None]
TRAPS: tuple[Check, ...] = (
    # name, which values, what they do, the cause they can lead to
    ("NCCL_IB_DISABLE", _on, "NCCL uses TCP sockets although RDMA may be there; slow enough to look hung", "slow-link"),
    ("NCCL_P2P_DISABLE", _on, "GPUs of this node no longer talk directly; meant for tests", "slow-link"),
    ("NCCL_SHM_DISABLE", _on, "ranks of this node talk over the network; meant for tests", "slow-link"),
    ("NCCL_DEBUG", lambda v: v.upper() == "TRACE", "TRACE writes huge logs and slows every call", None),
    ("NCCL_ALGO", bool, "a forced algorithm; must be the same on all ranks and can end in errors for some collectives", None),
    ("NCCL_PROTO", lambda v: "LL128" in v.upper() and not v.startswith("^"), "LL128 corrupts data where the links do not support it", None),
    ("NCCL_RAS_ENABLE", lambda v: v.strip() == "0", "switches off what could tell the state of a hang (port 28028)", None),
    ("NCCL_IB_TIMEOUT", lambda v: v.strip().isdigit() and not 0 < int(v) < 32, "0 or 32 and more: a lost peer is waited for for ever", "ib-roce-failure"),
    ("NCCL_P2P_LEVEL", lambda v: v.strip().isdigit(), "a number is the old form; write LOC, NVL, PIX, PXB, PHB or SYS", None),
    ("NCCL_GRAPH_MIXING_SUPPORT", lambda v: v.strip() == "0", "captured and uncaptured collectives on one communicator then deadlock", "cudagraph-capture-hang"),
    ("NCCL_COMM_ID", bool, "meant for programs without a launcher; torch and the engines make their own id", None),
    ("CUDA_LAUNCH_BLOCKING", _on, "every kernel is waited for: slow, and CUDA graphs cannot be captured", "cudagraph-capture-hang"),
    ("CUDA_DEVICE_WAITS_ON_EXCEPTION", _on, "a GPU exception stops the process for a debugger: it looks hung", None),
    ("CUDA_ENABLE_COREDUMP_ON_EXCEPTION", _on, "a GPU exception first writes a core file of the GPU's memory: it looks hung", None),
    ("CUDA_INJECTION64_PATH", bool, "a profiler is loaded into every CUDA process", None),
    ("TORCH_DISTRIBUTED_DEBUG", lambda v: v.upper() == "DETAIL", "each collective is checked over an extra group: slow starts, own time-outs", None),
    ("PYTORCH_NO_CUDA_MEMORY_CACHING", _on, "every allocation goes to the driver; CUDA graphs cannot be captured", "cudagraph-capture-hang"),
    ("VLLM_TRACE_FUNCTION", _on, "logs every Python call: very slow", None),
    ("LD_PRELOAD", lambda v: "vgpu" in v.lower(), "a vGPU library stands in front of CUDA; it can deadlock NCCL", "gpu-virtualization-hook"),
    ("CUDA_VISIBLE_DEVICES", lambda v: v.strip() in ("", "-1", "NoDevFiles"), "hides every GPU", "gpu-not-visible"),
    ("CUDA_VISIBLE_DEVICES", lambda v: v.startswith(("GPU-", "MIG-")), "UUIDs instead of numbers; some engines parse it as numbers", "device-uuid-unsupported"),
    ("CUDA_VISIBLE_DEVICES", lambda v: len(set(v.split(","))) < len(v.split(",")), "names a GPU twice; CUDA stops at the second", "rank-device-misplaced"),
)  # fmt: skip


def _values(variables: Mapping[str, str], facts: Facts) -> Iterable[Finding]:
    """Values left over from tests and combinations that hurt."""
    for name, matches, text, cause in TRAPS:
        if name in variables and matches(variables[name]):
            yield _trap(f"{name}={variables[name]}", name, text, cause)
    if all(_on(variables.get(name, "")) for name in ("NCCL_P2P_DISABLE", "NCCL_SHM_DISABLE")):
        text = "together: all traffic between the GPUs of one node goes over the network"
        yield _trap(
            "NCCL_P2P_DISABLE and NCCL_SHM_DISABLE", "NCCL_P2P_DISABLE, NCCL_SHM_DISABLE", text, "slow-link"
        )
    if variables.get("NCCL_CUMEM_ENABLE") == "0" and variables.get("NCCL_MNNVL_ENABLE") == "1":
        text = "multi-node NVLink needs cuMem: NCCL fails to start"
        yield _trap(
            "NCCL_CUMEM_ENABLE=0 and NCCL_MNNVL_ENABLE=1", "NCCL_MNNVL_ENABLE", text, "nccl-nvls-cumem"
        )
    if variables.get("NCCL_DMABUF_ENABLE") == "0" and not facts["peermem"]:
        text = "and nvidia-peermem is not loaded: no GPUDirect RDMA by either way"
        yield _trap("NCCL_DMABUF_ENABLE=0", "NCCL_DMABUF_ENABLE", text, "gpudirect-rdma-failure")
    for name in FILES:
        if variables.get(name) in facts["missing_files"]:
            yield _trap(f"{name}={variables[name]}", name, "there is no such file on this node", None)
    proxy = next((variables[name] for name in ("http_proxy", "HTTP_PROXY") if variables.get(name)), "")
    exempt = variables.get("no_proxy") or variables.get("NO_PROXY") or ""
    if proxy and not {"localhost", "127.0.0.1", "*"} & set(re.split(r"[,\s]+", exempt)):
        text = "health checks and control traffic of this node go to the proxy: no_proxy has neither localhost nor 127.0.0.1"
        yield _trap("http_proxy", "http_proxy", text, "control-plane-unreachable")


def _trap(said: str, subject: str, text: str, cause: str | None) -> Finding:
    extra: dict[str, Any] = {"cause": cause} if cause else {}
    return finding(ID, Status.WARN, f"{said}: {text}", subject=subject, **extra)


def _differences(sources: list[dict[str, Any]]) -> list[Finding]:
    """Ranks that disagree with each other, and exports of this shell that never reached the ranks."""
    ranks = [one for one in sources if one["kind"] == "process"]
    if not ranks:
        return []
    found = []
    names = sorted(
        {name for one in sources for name in one["variables"] if name.startswith(("NCCL_", "UCX_", "GLOO_"))}
    )
    for name in names:
        for launch in sorted({rank["launch"] for rank in ranks}):
            values: dict[str | None, list[str]] = {}
            for rank in ranks:
                if rank["launch"] == launch:
                    values.setdefault(rank["variables"].get(name), []).append(rank["who"])
            if len(values) > 1 and not OWN_PER_RANK.match(name):
                text = "; ".join(
                    f"{'unset' if value is None else value} in {listed(who, 2)}"
                    for value, who in values.items()
                )
                found.append(
                    finding(
                        ID,
                        Status.WARN,
                        f"{name} differs between processes of one launch: {text}",
                        subject=name,
                    )
                )
        shell = sources[0]["variables"].get(name)
        if shell is not None and all(name not in rank["variables"] for rank in ranks):
            text = f"{name}={shell} is set in this shell, but no running process of the launch has it"
            found.append(finding(ID, Status.WARN, text, subject=name))
    return found


PROBE = Probe(ID, "Variables of NCCL, torch and the engines", collect, judge, section="software")
