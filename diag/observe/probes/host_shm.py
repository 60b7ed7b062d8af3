"""Ranks of one node talk through /dev/shm: too little of it kills NCCL, data loaders and vLLM's message queue.

Containers get 64 MB unless told otherwise. Thresholds: NCCL's troubleshooting page runs its examples with 1 GB,
vLLM's multi-node guide asks for about 10 GB or the host's IPC namespace; docker's and the kubelet's default is 64 MB.
"""

from __future__ import annotations

import os
import re

from diag.model import Finding, Status
from diag.observe.probes.interface import Facts, Probe, Setup, finding
from diag.observe.probes.wording import GIB, MIB, size

ID = "host.shm"
PATH = "/dev/shm"
DEFAULT_BYTES = 64 * MIB
ENOUGH_BYTES = GIB
REMEDY = (
    "docker: --ipc=host or --shm-size=16g; Kubernetes: an emptyDir with medium: Memory mounted at /dev/shm; "
    "bare metal: mount -o remount,size=50% /dev/shm"
)


def collect(setup: Setup) -> Facts:
    """Size, free bytes and file system of /dev/shm, and whether we may write there (asked, not tried)."""
    path = setup.root.join(PATH)
    kind = re.findall(rf"^\S+ {PATH} (\S+) (\S+)", setup.root.read("/proc/mounts") or "", re.M)
    if not path.is_dir():
        return {"exists": False}
    room = os.statvfs(path)
    return {
        "exists": True,
        "fstype": kind[-1][0] if kind else None,
        "size_bytes": room.f_blocks * room.f_frsize,
        "free_bytes": room.f_bavail * room.f_frsize,
        "free_inodes": room.f_favail if room.f_files else None,
        "writable": os.access(path, os.W_OK | os.X_OK),
        "noexec": bool(kind) and "noexec" in kind[-1][1].split(","),
    }


def judge(facts: Facts) -> list[Finding]:
    """Absent, not writable or tiny breaks launches; small or nearly full is a risk."""
    if not facts["exists"]:
        text = "/dev/shm does not exist: NCCL and every engine with more than one process fail here"
        return [
            finding(ID, Status.FAIL, text, subject=PATH, cause="shm-too-small", size_bytes=0, remedy=REMEDY)
        ]
    total, free = facts["size_bytes"], facts["free_bytes"]
    data = {"size_bytes": total, "free_bytes": free, "needed_bytes": ENOUGH_BYTES}
    bad = {**data, "cause": "shm-too-small", "remedy": REMEDY}
    if not facts["writable"]:
        text = "/dev/shm cannot be written by this user: no shared memory between ranks"
        return [finding(ID, Status.FAIL, text, subject=PATH, cause="permission-denied", **data)]
    if total <= DEFAULT_BYTES:
        text = f"/dev/shm is {size(total)}, the container default: too small for NCCL and for engines with several workers"
        return [finding(ID, Status.FAIL, text, subject=PATH, **bad)]
    if free < DEFAULT_BYTES or facts["free_inodes"] == 0:
        what = "file entries" if facts["free_inodes"] == 0 else f"{size(free)} of {size(total)}"
        text = f"/dev/shm is full ({what} left): the next rank to start fails"
        return [finding(ID, Status.FAIL, text, subject=PATH, **bad)]
    if total < ENOUGH_BYTES:
        text = f"/dev/shm is {size(total)}: enough for small jobs only (1 GiB and more is usual)"
        return [finding(ID, Status.WARN, text, subject=PATH, **bad)]
    if facts["fstype"] not in ("tmpfs", None):
        text = f"/dev/shm is on {facts['fstype']}, not in memory: shared memory goes to a disk"
        return [finding(ID, Status.WARN, text, subject=PATH, **data)]
    return [finding(ID, Status.OK, f"/dev/shm: {size(free)} of {size(total)} free", subject=PATH, **data)]


PROBE = Probe(ID, "Shared memory (/dev/shm)", collect, judge, timeout_s=3.0)
