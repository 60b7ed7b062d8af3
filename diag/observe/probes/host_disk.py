"""A full /tmp or cache, or an NFS server that never answers, stops ranks without a word about disks.

Compilers (Inductor, Triton, FlashInfer) write to caches while a launch starts, Ray and torch to /tmp. A path on a dead
server puts whoever touches it into uninterruptible sleep: each path is therefore looked at in a thread of its own.
Thresholds: imbue's host checks call >= 95 % used a failure; with less than 100 MiB nothing compiles or logs any more.
"""

from __future__ import annotations

import os
from typing import Any

from diag.model import Finding, Reason, Status
from diag.observe.probes.interface import Facts, Probe, Setup, finding
from diag.observe.probes.wording import GIB, MIB, listed, size
from diag.system import Root
from diag.system.processes import within

ID = "host.disk"
ANSWER_S = 2.0
"""A healthy server answers a statvfs in milliseconds."""
NETWORKED = (
    "nfs",
    "nfs4",
    "lustre",
    "gpfs",
    "ceph",
    "fuse",
    "cifs",
    "smb3",
    "beegfs",
    "weka",
    "9p",
    "virtiofs",
    "afs",
)
BROKEN_BYTES = 100 * MIB
TIGHT_BYTES = 2 * GIB


def paths_of(env: dict[str, str]) -> dict[str, str]:
    """What a launch writes to or reads from -> what for. First use of a path names it."""
    home, user = env.get("HOME", ""), env.get("USER") or env.get("LOGNAME") or ""
    cache = env.get("XDG_CACHE_HOME") or f"{home}/.cache"
    wanted = [
        ("/", "system"), ("/tmp", "temporary files"), (env.get("TMPDIR", ""), "TMPDIR"),
        (env.get("RAY_TMPDIR") or "/tmp/ray", "Ray's session"), (home, "home"),
        (env.get("HF_HUB_CACHE") or env.get("HF_HOME") or f"{cache}/huggingface", "model cache"),
        (env.get("TORCHINDUCTOR_CACHE_DIR") or f"/tmp/torchinductor_{user}", "Inductor cache"),
        (env.get("TRITON_CACHE_DIR") or f"{home}/.triton", "Triton cache"),
        (env.get("VLLM_CACHE_ROOT") or f"{cache}/vllm", "vLLM cache"),
        (env.get("FLASHINFER_WORKSPACE_BASE") or f"{cache}/flashinfer", "FlashInfer cache"),
        (env.get("PWD", ""), "current folder"),
    ]  # fmt: skip
    found: dict[str, str] = {}
    for path, use in wanted:
        if path.startswith("/"):
            found.setdefault(path, use)
    return found


def collect(setup: Setup) -> Facts:
    """Room, inodes and mount of every path that matters; a path that does not answer is recorded as such."""
    table = _mounts(setup.root)
    paths: list[dict[str, Any]] = []
    silent: set[str] = set()
    for path, use in paths_of(dict(setup.env)).items():
        mount = _mount_of(path, table)
        entry: dict[str, Any] = {"path": path, "use": use, **mount}
        if mount["mount"] in silent:
            entry["answered"] = False  # one wait per dead server is enough
        else:
            answered, room = within(ANSWER_S, lambda path=path: _room(setup.root, path))  # type: ignore[misc]
            entry |= {"answered": answered, **(room or {})}
            if not answered:
                silent.add(mount["mount"])
        paths.append(entry)
    return {"paths": paths}


def _room(root: Root, path: str) -> dict[str, Any]:
    """Figures of the deepest folder that exists on the way to `path`."""
    place = root.join(path)
    try:
        while not place.exists() and place != place.parent:
            place = place.parent
        room = os.statvfs(place)
    except OSError as error:
        return {"error": error.strerror or str(error)}
    return {
        "size_bytes": room.f_blocks * room.f_frsize, "free_bytes": room.f_bavail * room.f_frsize,
        "inodes": room.f_files, "free_inodes": room.f_favail, "device": os.stat(place).st_dev,  # noqa: PTH116
        "read_only": bool(room.f_flag & os.ST_RDONLY), "writable": os.access(place, os.W_OK),
    }  # fmt: skip


def _mounts(root: Root) -> list[tuple[str, str, str]]:
    """(mount point, type, source), in mounting order."""
    rows = [line.split() for line in (root.read("/proc/mounts") or "").splitlines()]
    return [(row[1].replace("\\040", " "), row[2], row[0]) for row in rows if len(row) > 3]


def _mount_of(path: str, table: list[tuple[str, str, str]]) -> dict[str, str]:
    """The mount a path is under, from the table alone: asking the path itself might hang."""
    best = ("/", "", "")
    for point, kind, source in table:
        inside = path == point or path.startswith(f"{point.rstrip('/')}/")
        if inside and len(point) >= len(best[0]):
            best = (point, kind, source)
    return {"mount": best[0], "fstype": best[1], "source": best[2]}


def judge(facts: Facts) -> list[Finding]:
    """One finding a file system; the paths on it are its subject."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for entry in facts["paths"]:
        groups.setdefault(f"{entry['mount']} {entry.get('device', '')}", []).append(entry)
    return [_judge_mount(entries) for entries in groups.values()]


def _judge_mount(entries: list[dict[str, Any]]) -> Finding:
    first = next((entry for entry in entries if not entry["answered"]), entries[0])
    subject = listed((entry["path"] for entry in entries), 3)
    remote = any(first["fstype"].startswith(kind) for kind in NETWORKED)
    where = f"{first['fstype']} from {first['source']}" if remote else first["fstype"]
    data = {key: first.get(key) for key in ("mount", "fstype", "size_bytes", "free_bytes", "free_inodes")}
    if not first["answered"]:
        text = f"{first['mount']} ({where}) gave no answer within {ANSWER_S:.0f} s: every process that touches it hangs too"
        return finding(ID, Status.UNKNOWN, text, subject=subject, reason=Reason.TIMEOUT, **data)
    if "error" in first:
        text = f"{first['mount']} cannot be asked: {first['error']}"
        return finding(ID, Status.UNKNOWN, text, subject=subject, reason=Reason.PERMISSION, **data)
    free, total = first["free_bytes"], first["size_bytes"]
    uses = listed(dict.fromkeys(entry["use"] for entry in entries), 3)
    if first["read_only"]:
        return finding(ID, Status.WARN, f"read-only, yet used for {uses}", subject=subject, **data)
    if (total and free < BROKEN_BYTES) or (first["inodes"] and not first["free_inodes"]):
        what = (
            "no file entries"
            if first["inodes"] and not first["free_inodes"]
            else f"{size(free)} of {size(total)}"
        )
        text = f"disk full: {what} left for {uses} ({where})"
        return finding(
            ID, Status.FAIL, text, subject=subject, cause="disk-full", needed_bytes=TIGHT_BYTES, **data
        )
    full = total and free < total * 0.05
    few = first["inodes"] and first["free_inodes"] < first["inodes"] * 0.05
    if full or few or (total and free < TIGHT_BYTES):
        left = f"{size(free)} of {size(total)}" if full or not few else f"{first['free_inodes']} file entries"
        text = f"nearly full: {left} left for {uses} ({where})"
        return finding(
            ID, Status.WARN, text, subject=subject, cause="disk-full", needed_bytes=TIGHT_BYTES, **data
        )
    return finding(ID, Status.OK, f"{size(free)} of {size(total)} free ({where})", subject=subject, **data)


PROBE = Probe(ID, "Disks that matter", collect, judge, timeout_s=8.0)
