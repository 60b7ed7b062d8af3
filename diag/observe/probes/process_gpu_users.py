"""Who computes on this node's GPUs now: while ranks live there, probes that touch a GPU stay away.

Told from open descriptors on /dev/nvidia<N>; where those may not be read, from recognised ranks. The runner asks this first.
"""

from __future__ import annotations

import re

from diag.model import Finding, Reason, Status
from diag.observe.probes.interface import Facts, Probe, Setup, finding
from diag.observe.probes.wording import listed
from diag.system.jobs import find_job
from diag.system.processes import list_processes, read_descriptors

ID = "process.gpu-users"
SERVICES = (
    "nvidia-persiste",
    "nv-hostengine",
    "nv-fabricmanage",
    "nvidia-smi",
    "dcgm-exporter",
    "dcgmi",
    "Xorg",
    "gpud",
    "nvtop",
)
"""Names (cut at 15 characters, as the kernel does) that hold GPUs open without computing."""


def collect(setup: Setup) -> Facts:
    """Processes with a GPU open, and ranks whose descriptors we may not see."""
    root = setup.root
    gpus = [name for name in root.names("/dev") if re.fullmatch(r"nvidia\d+", name)]
    if not gpus:
        return {"gpus": [], "users": [], "hidden": 0}
    processes = list_processes(root)
    job = {member.process.pid: member for member in find_job(root, processes)}
    users, hidden = [], 0
    for process in processes:
        if process.name in SERVICES or "diag/observe/" in process.title:
            continue
        member = job.get(process.pid)
        links = read_descriptors(root, process.pid)
        if links is None:
            hidden += 1
            held = member is not None and member.role in ("rank", "worker", "engine")
        else:
            held = any(re.fullmatch(r"/dev/nvidia\d+", link) for link in links)
        if held:
            users.append(member.label if member else f"{process.name} (pid {process.pid})")
    return {"gpus": gpus, "users": users, "hidden": hidden}


def judge(facts: Facts) -> list[Finding]:
    """A statement, never a fault."""
    if not facts["gpus"]:
        return [finding(ID, Status.SKIP, "no GPU device node here", reason=Reason.NOT_APPLICABLE)]
    if facts["users"]:
        text = f"on the GPUs now: {listed(facts['users'], 8)}; probes that touch a GPU stay away"
        return [finding(ID, Status.OK, text, users=facts["users"])]
    unseen = (
        f" among the processes this user may see ({facts['hidden']} may not be looked into)"
        if facts["hidden"]
        else ""
    )
    return [finding(ID, Status.OK, f"nobody holds a GPU open{unseen}", users=[])]


PROBE = Probe(ID, "Who uses the GPUs now", collect, judge, timeout_s=3.0, section="hardware")
