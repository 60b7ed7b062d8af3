"""What the NVIDIA driver wrote to the kernel log: Xid (GPU) and SXid (NVSwitch) lines.

A GPU that fell off the bus or a dead NVLink shows in the application's log only as a hang or a vague CUDA error on
some rank; the kernel's line names GPU and code. Only lines newer than the launch count, or since boot if its start
is not known: then an error of one application is history until shown otherwise.

Facts: {source: kmsg | journalctl | dmesg | null, why_not, events: [{device, kind: xid | sxid, code, count, first_s,
last_s, text, pid, fatal}], older, launch_since_s, now_s, boot_s, driver_seen}. Times are epoch seconds.
"""

from __future__ import annotations

import re
import time
from typing import Any

from diag.model import Finding, Reason, Status
from diag.observe.probes.interface import Facts, Probe, Setup, finding
from diag.observe.probes.nvhost import boot_time, kernel_module, pci_gpus
from diag.observe.probes.tables import table
from diag.system import Root, run_command
from diag.system.kernel_log import read_kernel_log

ID = "kernel.xid"

XID = re.compile(r"NVRM: Xid \((?:PCI:)?([0-9a-fA-F:.]+)\): (\d+)")
SXID = re.compile(r"nvidia-nvswitch\d*: SXid \((?:PCI:)?([0-9a-fA-F:.]+)\): (\d+)")
OFF_BUS = re.compile(r"NVRM: GPU (?:at )?(?:PCI:)?([0-9a-fA-F:.]+): GPU has fallen off the bus")
PID = re.compile(r"pid='?(\d+)'?")
RECENT_S = 2 * 3600
"""Without a known launch, an older event is told but does not fail the node. Source: Azure/azurehpc-health-checks looks
back two hours; older events had wrongly drained nodes there (issue 648)."""
REMEDY = (
    "run diag as root on the node itself, allow users to read the log (sysctl kernel.dmesg_restrict=0), or give the "
    "container --device /dev/kmsg"
)


def collect(setup: Setup) -> Facts:
    """Read the kernel log by whichever door is open and keep the driver's error lines."""
    boot = boot_time(setup.root) or 0.0
    source, lines, why = _read(setup.root, boot)
    events: dict[tuple[str, str, int], dict[str, Any]] = {}
    older = 0
    for when, text in lines:
        event = parse_line(text)
        if event is None:
            continue
        if setup.launch_since_s is not None and when < setup.launch_since_s:
            older += 1
            continue
        key = (event["device"], event["kind"], event["code"])
        known = events.setdefault(key, {**event, "count": 0, "first_s": when, "text": text[:300]})
        known["count"] += 1
        known["last_s"] = when
    return {
        "source": source,
        "why_not": why,
        "events": list(events.values()),
        "older": older,
        "launch_since_s": setup.launch_since_s,
        "now_s": time.time(),
        "boot_s": boot,
        "driver_seen": bool(kernel_module(setup.root) or pci_gpus(setup.root)),
    }


def parse_line(text: str) -> dict[str, Any] | None:
    """{device, kind, code, pid, fatal} of one message, None for any other message."""
    match, kind = XID.search(text), "xid"
    if match is None:
        match, kind = SXID.search(text), "sxid"
    if match is None:
        lost = OFF_BUS.search(text)
        if lost is None:
            return None
        return {"device": _bus(lost.group(1)), "kind": "xid", "code": 79, "pid": None, "fatal": True}
    pid = PID.search(text)
    return {
        "device": _bus(match.group(1)),
        "kind": kind,
        "code": int(match.group(2)),
        "pid": int(pid.group(1)) if pid else None,
        "fatal": kind == "sxid" and re.search(r"\bFatal\b", text) is not None and "Non-fatal" not in text,
    }


def _bus(address: str) -> str:
    """`0000:3b:00.0` and `0000:3b:00` are one device."""
    return address.lower().split(".", 1)[0]


def _read(root: Root, boot: float) -> tuple[str | None, list[tuple[float, str]], str | None]:
    """(source, [(epoch seconds, text)], why not): /dev/kmsg, else the journal, else dmesg."""
    records = read_kernel_log(root)
    if records is not None:
        return "kmsg", [(boot + one.since_boot_s, one.text) for one in records], None
    why = "permission" if root.exists("/dev/kmsg") else "there is no /dev/kmsg"
    if root.path != "/":
        return None, [], why
    journal = run_command(["journalctl", "-k", "-b", "-q", "--no-pager", "-o", "short-unix"], timeout_s=2.0)
    if journal.code == 0 and journal.out.strip():
        rows = re.findall(r"^(\d+\.\d+) \S+ [^:]*: (.*)$", journal.text, re.MULTILINE)
        return "journalctl", [(float(when), text) for when, text in rows], None
    dmesg = run_command(["dmesg"], timeout_s=2.0)
    if dmesg.code == 0 and dmesg.out.strip():
        rows = re.findall(r"^\[ *(\d+\.\d+)\] (.*)$", dmesg.text, re.MULTILINE)
        return "dmesg", [(boot + float(when), text) for when, text in rows], None
    return None, [], "permission" if b"not permitted" in dmesg.err else why


def judge(facts: Facts) -> list[Finding]:
    """One finding for each device and code, or one that says that there is none."""
    if facts["source"] is None:
        return [_judge_blind(facts)]
    span = (
        "since the launch began"
        if facts["launch_since_s"] is not None
        else "since boot, as far back as it reaches"
    )
    if not facts["events"]:
        if not facts["driver_seen"]:
            text = "No NVIDIA driver or GPU here, and no line of one in the kernel log."
            return [finding(ID, Status.SKIP, text, reason=Reason.NOT_APPLICABLE)]
        older = f" ({facts['older']} older ones left aside)" if facts["older"] else ""
        return [
            finding(ID, Status.OK, f"No Xid or SXid in the kernel log {span}{older}.", older=facts["older"])
        ]
    found = [_judge_event(event, facts) for event in facts["events"]]
    return sorted(found, key=lambda one: [Status.FAIL, Status.WARN, Status.OK].index(one.status))


def _judge_blind(facts: Facts) -> Finding:
    if not facts["driver_seen"]:
        text = "No NVIDIA driver or GPU here, so the kernel log was not needed."
        return finding(ID, Status.SKIP, text, reason=Reason.NOT_APPLICABLE)
    denied = facts["why_not"] == "permission"
    why = "this user may not read it" if denied else facts["why_not"]
    reason = Reason.PERMISSION if denied else Reason.TOOL_MISSING
    return finding(
        ID, Status.UNKNOWN, f"The kernel log could not be read: {why}.", reason=reason, remedy=REMEDY
    )


def _judge_event(event: dict[str, Any], facts: Facts) -> Finding:
    age_s = max(0.0, facts["now_s"] - event["last_s"])
    times = f"{event['count']} times, last" if event["count"] > 1 else "once,"
    who = f", process {event['pid']}" if event["pid"] else ""
    data = {**event, "age_s": round(age_s)}
    this_launch = facts["launch_since_s"] is not None
    if event["kind"] == "sxid":
        subject = f"NVSwitch {event['device']}"
        text = f"{subject} reported SXid {event['code']} {times} {_ago(age_s)}: {event['text']}"
        if event["fatal"] and (this_launch or age_s < RECENT_S):
            return finding(ID, Status.FAIL, text, subject=subject, cause="gpu-xid-hardware", **data)
        return finding(ID, Status.WARN, text, subject=subject, **data)
    subject = f"GPU {event['device']}"
    entry = table("xid")["xid"].get(str(event["code"]))
    if entry is None:
        text = f"{subject} reported Xid {event['code']} {times} {_ago(age_s)}{who}; diag's table does not have it."
        return finding(ID, Status.WARN, text, subject=subject, **data)
    name = f" ({entry['name']})" if entry["name"] else ""
    text = f"{subject} reported Xid {event['code']}{name} {times} {_ago(age_s)}{who}. Vendor's action: {entry['action']}."
    status = _status(entry["severity"], this_launch=this_launch, recent=age_s < RECENT_S)
    data["action"], data["severity"] = entry["action"], entry["severity"]
    if entry["cause"] and status is not Status.OK:
        data["cause"] = entry["cause"]
    if status is Status.WARN and entry["severity"] == "reset":
        text += " It is old: if the GPU was reset since, it is history."
    return finding(ID, status, text, subject=subject, **data)


def _status(severity: str, *, this_launch: bool, recent: bool) -> Status:
    if severity == "reset":
        return Status.FAIL if this_launch or recent else Status.WARN
    if severity == "app":
        return Status.FAIL if this_launch else Status.WARN
    return Status.OK if severity == "note" else Status.WARN


def _ago(age_s: float) -> str:
    if age_s < 120:
        return f"{age_s:.0f} s ago"
    return f"{age_s / 60:.0f} min ago" if age_s < 7200 else f"{age_s / 3600:.0f} h ago"


PROBE = Probe(ID, "GPU errors in the kernel log", collect, judge, timeout_s=8.0, section="hardware")
