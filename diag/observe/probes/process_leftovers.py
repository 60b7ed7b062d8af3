"""What a dead launch leaves behind stops the next one: shared memory, a Ray session, orphaned workers, taken ports.

Shared-memory files without a living owner fill /dev/shm; an old raylet swallows the new job; an orphaned engine still
holds its GPU memory and its port. Nothing is removed here: the commands that would do it are told.
Ports: vLLM, Ray, SGLang, NCCL and Dynamo documentation.
"""

from __future__ import annotations

import os
import re
import time
from typing import Any

from diag.model import Finding, Reason, Status
from diag.observe.probes.interface import Facts, Probe, Setup, finding
from diag.observe.probes.wording import count, listed, size
from diag.system import Root
from diag.system.jobs import JobProcess, find_job
from diag.system.processes import (
    Process,
    is_gone,
    list_processes,
    read_descriptors,
    read_environment,
    read_mapped_files,
    read_tcp_sockets,
)

ID = "process.leftovers"
SHM = re.compile(r"(nccl-|torch_|psm_|sem\.mp-|sem\.loky|vllm|sglang|cuda\.shm)")
"""NCCL, torch's file_system sharing, multiprocessing (shared memory, semaphores), joblib, the engines, CUDA MPS/IPC."""
YOUNG_S = 60.0
"""Files this young may belong to a launch that is just starting."""
PORTS = {
    29500: "torchrun, MASTER_PORT", 29400: "torchrun's c10d rendezvous", 6379: "Ray GCS", 8265: "Ray dashboard", 10001: "Ray client",
    8000: "vLLM or Dynamo HTTP", 30000: "SGLang HTTP", 20000: "SGLang dist-init", 14579: "vLLM KV transfer", 28028: "NCCL RAS",
    2379: "etcd", 4222: "NATS", 5555: "DCGM", 5600: "NIXL side channel", 6666: "fabric manager", 50000: "IMEX",
}  # fmt: skip
RENDEZVOUS = (29500, 29400, 6379)


def collect(setup: Setup) -> Facts:
    """Shared-memory files with their users, Ray sessions, zombies and orphans of launches, and the ports they need."""
    root = setup.root
    processes = list_processes(root)
    job = find_job(root, processes)
    names = [name for name in root.names("/dev/shm") if SHM.match(name)]
    used, hidden = _users_of_shm(root, processes) if names else (set(), 0)
    master = setup.env.get("MASTER_PORT", "")
    wanted = {**PORTS, **({int(master): "MASTER_PORT"} if master.isdigit() else {})}
    return {
        "shm": [entry for name in names if (entry := _shm_entry(root, name, used)) is not None][:500], "hidden": hidden,
        "ray": _ray(root, processes), "zombies": _zombies(processes, {one.process.pid for one in job}),
        "orphans": _orphans(root, processes, job), "ports": _ports(root, processes, job, wanted), "uid": os.getuid(),
    }  # fmt: skip


def _users_of_shm(root: Root, processes: list[Process]) -> tuple[set[str], int]:
    """Names in /dev/shm that some process has mapped or open; how many processes we may not look into."""
    used: set[str] = set()
    hidden = 0
    for process in processes:
        if not process.argv:
            continue
        mapped, opened = read_mapped_files(root, process.pid), read_descriptors(root, process.pid)
        hidden += (mapped is None or opened is None) and not is_gone(root, process.pid)
        for path in (*(mapped or ()), *(opened or ())):
            if path.startswith("/dev/shm/"):
                used.add(path.removeprefix("/dev/shm/"))
    return used, hidden


def _shm_entry(root: Root, name: str, used: set[str]) -> dict[str, Any] | None:
    try:
        stat = root.join(f"/dev/shm/{name}").stat()
    except OSError:
        return None
    age_s = max(0.0, time.time() - stat.st_mtime)
    held = name in used or f"{name} (deleted)" in used
    return {"name": name, "bytes": stat.st_size, "uid": stat.st_uid, "age_s": round(age_s), "in_use": held}


def _ray(root: Root, processes: list[Process]) -> dict[str, Any]:
    """Session folders below /tmp/ray and whether a raylet or GCS lives."""
    alive = [process.pid for process in processes if process.name in ("raylet", "gcs_server")]
    return {
        "sessions": [name for name in root.names("/tmp/ray") if name.startswith("session_2")],
        "alive": alive,
    }


def _zombies(processes: list[Process], job: set[int]) -> list[dict[str, Any]]:
    """Dead ranks that nobody has collected: python-like names, or children of a launch."""
    return [
        {"pid": process.pid, "name": process.name, "parent": process.ppid}
        for process in processes
        if process.state == "Z"
        and (process.ppid in job or re.match(r"python|pt_|ray::|VLLM|sglang", process.name))
    ]


def _orphans(root: Root, processes: list[Process], job: list[JobProcess]) -> list[dict[str, Any]]:
    """Workers whose launcher is gone: handed to process 1, which is no part of a launch itself."""
    members = {member.process.pid for member in job}
    found = []
    for member in job:
        alone = member.process.ppid == 1 and 1 not in members
        if (
            not alone
            or member.role not in ("engine", "worker", "rank")
            or member.framework in ("dynamo", "trtllm")
        ):
            continue  # a Dynamo or TRT-LLM worker is often started by hand and then rightly a child of process 1
        if member.role == "rank" and member.process.session == member.process.pid:
            continue  # started by hand with nohup or setsid: nobody's left-over
        links = read_descriptors(root, member.process.pid)
        gpus = sorted({link for link in links or [] if re.fullmatch(r"/dev/nvidia\d+", link)})
        found.append({"who": member.label, "pid": member.process.pid, "gpus": gpus})
    return found


def _ports(
    root: Root, processes: list[Process], job: list[JobProcess], wanted: dict[int, str]
) -> list[dict[str, Any]]:
    """Who listens on the ports that launches need, in our network namespace."""
    listening = {s.inode: s for s in read_tcp_sockets(root) if s.state == "LISTEN" and s.local_port in wanted}
    members = {member.process.pid: member for member in job}
    holders: dict[int, Process] = {}
    for process in processes if listening else ():
        for link in read_descriptors(root, process.pid) or ():
            if link.startswith("socket:[") and int(link[8:-1]) in listening:
                holders.setdefault(int(link[8:-1]), process)
    found: dict[int, dict[str, Any]] = {}
    for inode, sock in listening.items():
        holder = holders.get(inode)
        member = members.get(holder.pid) if holder else None
        label = member.label if member else f"{holder.name} (pid {holder.pid})" if holder else None
        part = member is not None or (
            holder is not None and "RANK" in (read_environment(root, holder.pid) or {})
        )
        found[sock.local_port] = {
            "port": sock.local_port, "use": wanted[sock.local_port], "holder": label, "of_a_launch": part,
            "pid": holder.pid if holder else None,
        }  # fmt: skip
    return list(found.values())


def judge(facts: Facts) -> list[Finding]:
    """Left-overs are risks: they are warned about, with what would remove them."""
    found = [*_judge_shm(facts), *_judge_processes(facts)]
    ray = facts["ray"]
    if ray["sessions"] and not ray["alive"]:
        text = f"{count(len(ray['sessions']), 'Ray session')} of dead clusters in /tmp/ray; harmless unless the disk is full"
        found.append(finding(ID, Status.OK, text, subject="/tmp/ray", sessions=len(ray["sessions"])))
    for port in facts["ports"]:
        data = {"port": port["port"], "holder": port["holder"], "pid": port["pid"]}
        who = port["holder"] or "a process that may not be looked into"
        text = f"port {port['port']} ({port['use']}) is held by {who}"
        foreign = not port["of_a_launch"] and (port["port"] in RENDEZVOUS or port["use"] == "MASTER_PORT")
        if foreign:
            text += ": a launch that wants it fails with `address already in use`, or meets a stranger"
            found.append(
                finding(ID, Status.WARN, text, subject=f"port {port['port']}", cause="port-in-use", **data)
            )
        else:
            found.append(finding(ID, Status.OK, text, subject=f"port {port['port']}", **data))
    return found or [
        finding(ID, Status.OK, "nothing left over: no shared memory, Ray session, orphan, or taken port")
    ]


def _judge_shm(facts: Facts) -> list[Finding]:
    mine = [one for one in facts["shm"] if not one["in_use"] and one["age_s"] > YOUNG_S]
    if not mine:
        return []
    total = sum(one["bytes"] for one in mine)
    names = listed((one["name"] for one in mine), 3)
    data = {"files": len(mine), "bytes": total, "names": [one["name"] for one in mine][:50]}
    if facts["hidden"]:
        text = (
            f"{count(len(mine), 'file')} in /dev/shm ({size(total)}: {names}) without a visible owner; "
            f"{count(facts['hidden'], 'process')} may not be looked into, so the owner may live"
        )
        remedy = "run diag as root to see every owner"
        return [
            finding(
                ID, Status.UNKNOWN, text, subject="/dev/shm", reason=Reason.PERMISSION, remedy=remedy, **data
            )
        ]
    text = f"{count(len(mine), 'file')} in /dev/shm ({size(total)}: {names}) that no process uses: left by a dead launch"
    remedy = "after the last launch has ended: rm the files named (containers that share /dev/shm may still use them)"
    return [finding(ID, Status.WARN, text, subject="/dev/shm", cause="shm-too-small", remedy=remedy, **data)]


def _judge_processes(facts: Facts) -> list[Finding]:
    found = []
    for orphan in facts["orphans"]:
        holds = f" and holds {listed(orphan['gpus'])}" if orphan["gpus"] else ""
        text = f"{orphan['who']} lives although its launcher is gone{holds}: left over from an earlier launch"
        extra: dict[str, Any] = {"cause": "gpu-memory-in-use"} if orphan["gpus"] else {}
        remedy = f"if that launch is really over: kill {orphan['pid']}"
        found.append(
            finding(ID, Status.WARN, text, subject=orphan["who"], remedy=remedy, pid=orphan["pid"], **extra)
        )
    zombies = facts["zombies"]
    if zombies:
        names = listed(f"{one['name']} (pid {one['pid']}, parent {one['parent']})" for one in zombies)
        text = f"{count(len(zombies), 'dead process')} not collected by the parent: {names}; that rank ended, its parent did not notice"
        found.append(finding(ID, Status.WARN, text, subject="zombies", cause="worker-died", zombies=zombies))
    return found


PROBE = Probe(ID, "Left-overs of dead launches", collect, judge, timeout_s=6.0)
