"""One look at one process: what /proc tells without stopping it. Every read that can block has a deadline.

Nothing here sends a signal, attaches with ptrace, or writes.
"""

from __future__ import annotations

import os
import re
import time
from typing import Any

from diag.observe.stacks.ras import address_of
from diag.system import Root
from diag.system.jobs import JobProcess
from diag.system.processes import (
    Process,
    read_descriptors,
    read_environment,
    read_limits,
    read_process,
    read_tcp_sockets,
    within,
)

READ_S = 0.3
MOST_NAMES = 16
_VARIABLES = re.compile(
    r"(RANK|LOCAL_RANK|GROUP_RANK|WORLD_SIZE|LOCAL_WORLD_SIZE|GROUP_WORLD_SIZE|NNODES|NODE_RANK|MASTER_ADDR|MASTER_PORT"
    r"|(TORCH_)?NCCL_\w+|TORCH_FR_\w+|TORCHELASTIC_R\w+|GLOO_\w+|TP_SOCKET_IFNAME|UCX_\w+|VLLM_HOST_IP|SGLANG_HOST_IP|HOST_IP"
    r"|CUDA_VISIBLE_DEVICES|OMP_NUM_THREADS|HF_HUB_OFFLINE|RAY_ADDRESS"
    r"|SLURM_(PROCID|LOCALID|NODEID|NNODES|NTASKS)|OMPI_COMM_WORLD_(RANK|SIZE|LOCAL_RANK|LOCAL_SIZE)|PMI_(RANK|SIZE)|PMIX_RANK)\Z"
)
"""Variables that say who a process is in its job and how it talks; others are not read out."""
_COMPILERS = re.compile(
    r"(nvcc|cicc|ptxas|cudafe\+\+|fatbinary|ninja|gcc|g\+\+|cc1plus|cc1|ld|clang|tileiras|hipcc)\Z"
)


def describe(root: Root, member: JobProcess) -> dict[str, Any]:
    """Who a process is and whom it talks to; asked once."""
    process = member.process
    pid = process.pid
    environment = read_environment(root, pid, READ_S)
    links = read_descriptors(root, pid)
    inodes = {int(link[8:-1]) for link in links or () if link.startswith("socket:[")}
    sockets = [one for one in read_tcp_sockets(root, pid) if one.inode in inodes] if inodes else []
    chosen = {name: value for name, value in (environment or {}).items() if _VARIABLES.match(name)}
    status = root.read(f"/proc/{pid}/status") or ""
    ras_host, ras_port = address_of(chosen.get("NCCL_RAS_ADDR"))
    return {
        "pid": pid, "parent": process.ppid, "who": member.label, "framework": member.framework, "role": member.role,
        "rank": member.rank, "launch": member.launch, "age_s": round(max(0.0, time.time() - process.start_s), 1),
        "title": process.title[:300], "environment_readable": environment is not None, "environment": chosen,
        "descriptors_readable": links is not None,
        "connecting": [{"to": f"{s.remote}:{s.remote_port}", "retransmits": s.retransmits} for s in sockets if s.state == "SYN_SENT"],
        "peers": sorted({f"{s.remote}:{s.remote_port}" for s in sockets if s.state == "ESTABLISHED"})[:MOST_NAMES],
        "half_closed": sorted({f"{s.remote}:{s.remote_port}" for s in sockets if s.state == "CLOSE_WAIT"})[:MOST_NAMES],
        "listening": sorted({s.local_port for s in sockets if s.state == "LISTEN"})[:MOST_NAMES],
        "ras": [ras_host, ras_port] if any(s.state == "LISTEN" and s.local_port == ras_port for s in sockets) else None,
        "here": root.link(f"/proc/{pid}/ns/net") == root.link("/proc/self/ns/net"),
        "pids": sorted({pid, *map(int, re.findall(r"\d+", (re.search(r"^NSpid:.*", status, re.M) or [""])[0]))}),
        "limits": _limits(root, pid), "cpus_allowed": _field(status, "Cpus_allowed_list"), "cpus": os.cpu_count(), "cgroup": _cgroup(root, pid),
        "samples": [],
    }  # fmt: skip


def _field(status: str, name: str) -> str | None:
    match = re.search(rf"^{name}:\s+(\S+)", status, re.M)
    return match[1] if match else None


def _limits(root: Root, pid: int) -> dict[str, int | None]:
    limits = read_limits(root, pid) or {}
    wanted = {"Max open files": "nofile", "Max locked memory": "memlock", "Max processes": "nproc"}
    return {short: limits[name][0] for name, short in wanted.items() if name in limits}


def _cgroup(root: Root, pid: int) -> dict[str, Any]:
    """The limits of the control group (version 2) that bear on a launch that stands still."""
    line = next(
        (line for line in (root.read(f"/proc/{pid}/cgroup") or "").splitlines() if line.startswith("0::")), ""
    )
    place = line[3:].rstrip("/")
    if not line:
        return {}
    base = f"/sys/fs/cgroup{place}"
    throttled = re.search(r"nr_throttled (\d+)", root.read(f"{base}/cpu.stat") or "")
    killed = re.search(r"oom_kill (\d+)", root.read(f"{base}/memory.events") or "")
    found = {
        "cpu_max": (root.read(f"{base}/cpu.max") or "").strip() or None,
        "frozen": (root.read(f"{base}/cgroup.freeze") or "").strip() == "1",
        "nr_throttled": int(throttled[1]) if throttled else None,
        "oom_kills": int(killed[1]) if killed else None,
    }
    return {name: value for name, value in found.items() if value not in (None, False)}


def sample(root: Root, process: Process, children: list[Process]) -> dict[str, Any]:
    """What changes from one look to the next: state, where the main thread waits, CPU time, input and output."""
    pid = process.pid
    now = read_process(root, pid)
    if now is None or now.start_s != process.start_s:
        return {"state": "gone", "at": time.monotonic()}
    main = f"/proc/{pid}/task/{pid}"
    status = root.read(f"{main}/status") or ""
    io = _guarded(root, f"/proc/{pid}/io")
    threads = _threads(root, pid)
    return {
        "at": time.monotonic(), "state": now.state, "threads": len(threads), "cpu_s": now.cpu_s,
        "main_cpu_s": _main_cpu(root, main), "still_s": _still(root, main),
        "switches": int(_field(status, "voluntary_ctxt_switches") or 0),
        "wchan": (root.read(f"{main}/wchan") or "").strip().strip("0") or None,
        "kernel": re.findall(r"\] (\w+)\+", _guarded(root, f"{main}/stack") or "")[:6],
        "syscall": _syscall(root, main), "reads": _syscall_target(root, pid, main),
        "uninterruptible": sorted(name for name, state in threads.items() if state == "D")[:MOST_NAMES],
        "rchar": _number(io, "rchar"), "read_bytes": _number(io, "read_bytes"), "wchar": _number(io, "wchar"),
        "rss_kib": _number(root.read(f"/proc/{pid}/status"), "VmRSS"),
        "compilers": [{"name": one.name, "cpu_s": one.cpu_s, "state": one.state} for one in children if _COMPILERS.match(one.name)][:8],
    }  # fmt: skip


def _guarded(root: Root, path: str) -> str | None:
    try:
        return within(READ_S, lambda: root.read(path))[1]
    except OSError:
        return None


def _threads(root: Root, pid: int) -> dict[str, str]:
    states = {}
    for name in root.names(f"/proc/{pid}/task")[:512]:
        stat = root.read(f"/proc/{pid}/task/{name}/stat") or ""
        states[name] = stat.rpartition(") ")[2][:1]
    return states


def _main_cpu(root: Root, main: str) -> float | None:
    """Nanoseconds on the CPU, from the scheduler; ticks are too coarse for a second."""
    text = (root.read(f"{main}/schedstat") or "").split()
    return int(text[0]) / 1e9 if text and text[0].isdigit() else None


def _still(root: Root, main: str) -> float | None:
    """Seconds since the main thread last ran: what tells a hang of an hour from a pause of a second at first sight.

    se.exec_start is the scheduler's clock when a thread last used a CPU (kernels with CONFIG_SCHED_DEBUG); ours says now.
    """
    then = re.search(r"se\.exec_start\s*:\s*([\d.]+)", root.read(f"{main}/sched") or "")
    now = re.search(r"se\.exec_start\s*:\s*([\d.]+)", root.read("/proc/thread-self/sched") or "")
    if not then or not now:
        return None
    return round(max(0.0, (float(now[1]) - float(then[1])) / 1000), 3)


def _syscall(root: Root, main: str) -> int | None:
    text = (_guarded(root, f"{main}/syscall") or "").split()
    return int(text[0]) if text and text[0].isdigit() else None


def _syscall_target(root: Root, pid: int, main: str) -> str | None:
    """The file, FIFO or socket that the main thread's read or connect waits on."""
    text = (_guarded(root, f"{main}/syscall") or "").split()
    if len(text) < 2 or not text[0].isdigit() or int(text[0]) not in (0, 17, 19, 42, 45, 63):
        return None
    try:
        number = int(text[1], 16)
    except ValueError:
        return None
    return root.link(f"/proc/{pid}/fd/{number}") if number < 1 << 20 else None


def _number(text: str | None, name: str) -> int | None:
    match = re.search(rf"^{name}:\s+(\d+)", text or "", re.M)
    return int(match[1]) if match else None
