"""An RDMA port that is not Active and LinkUp, or a GID that is not there, is a hang or `status 12` later on.

Read from sysfs alone, no tools: /sys/class/infiniband/*/ports/*. `Initialize` means no subnet manager, `Armed` that it has
not finished (NCCL's networking page). Counters are since the driver was loaded, so they show risks, never a proof.
"""

from __future__ import annotations

import re
from typing import Any

from diag.model import Finding, Reason, Status
from diag.observe.probes.interface import Facts, Probe, Setup, finding
from diag.observe.probes.wording import listed
from diag.system import Root

ID = "net.rdma"
BASE = "/sys/class/infiniband"
FATAL = (
    "excessive_buffer_overrun_errors",
    "local_link_integrity_errors",
    "symbol_error",
    "link_error_recovery",
    "rnr_nak_retry_err",
)
"""Counters that NVSentinel's NIC monitor treats as fatal when they grow."""
EMPTY_GID = "0000:0000:0000:0000:0000:0000:0000:0000"


def collect(setup: Setup) -> Facts:
    """Every HCA with its ports, GIDs and error counters; the NCCL variables that choose among them."""
    names = ("NCCL_IB_HCA", "NCCL_IB_GID_INDEX", "NCCL_IB_DISABLE", "NCCL_IB_ROCE_VERSION_NUM")
    return {
        "hcas": [_hca(setup.root, name) for name in setup.root.names(BASE)],
        "settings": {name: setup.env[name] for name in names if name in setup.env},
    }


def _hca(root: Root, name: str) -> dict[str, Any]:
    def text(path: str) -> str:
        return (root.read(f"{BASE}/{name}/{path}") or "").strip()

    return {
        "name": name, "firmware": text("fw_ver"), "type": text("hca_type"), "board": text("board_id"),
        "numa_node": text("device/numa_node"), "netdevs": root.names(f"{BASE}/{name}/device/net"),
        "ports": [_port(root, f"{BASE}/{name}/ports/{port}", int(port)) for port in root.names(f"{BASE}/{name}/ports")],
    }  # fmt: skip


def _port(root: Root, base: str, number: int) -> dict[str, Any]:
    def text(path: str) -> str:
        return (root.read(f"{base}/{path}") or "").strip()

    rate = re.match(r"([\d.]+) Gb/sec", text("rate"))
    gids = []
    for index in sorted((name for name in root.names(f"{base}/gids") if name.isdigit()), key=int):
        gid = text(f"gids/{index}")
        if gid and gid != EMPTY_GID:
            kind, device = text(f"gid_attrs/types/{index}"), text(f"gid_attrs/ndevs/{index}")
            gids.append({"index": int(index), "gid": gid, "type": kind, "netdev": device})
    counters = {
        name: int(value)
        for folder in ("counters", "hw_counters")
        for name in root.names(f"{base}/{folder}")
        if (name in FATAL or name == "link_downed") and (value := text(f"{folder}/{name}")).isdigit()
    }
    return {
        "port": number, "state": text("state").partition(": ")[2], "physical": text("phys_state").partition(": ")[2],
        "rate_gbps": float(rate[1]) if rate else None, "link_layer": text("link_layer"), "sm_lid": text("sm_lid"),
        "gids": gids, "counters": counters,
    }  # fmt: skip


def judge(facts: Facts) -> list[Finding]:
    """Each port's state, then what does not fit together, then what the variables ask for and is not there."""
    hcas, settings = facts["hcas"], facts["settings"]
    if not hcas:
        if settings.get("NCCL_IB_HCA") and settings.get("NCCL_IB_DISABLE") != "1":
            text = f"NCCL_IB_HCA={settings['NCCL_IB_HCA']}, but this node (or container) has no RDMA device"
            return [finding(ID, Status.WARN, text, cause="ib-roce-failure")]
        text = "no RDMA device in /sys/class/infiniband"
        return [finding(ID, Status.SKIP, text, reason=Reason.NOT_APPLICABLE)]
    ports = [(f"{hca['name']}:{port['port']}", port) for hca in hcas for port in hca["ports"]]
    active = [(name, port) for name, port in ports if port["state"] == "ACTIVE"]
    found = [one for name, port in ports for one in _judge_port(name, port, bool(active), settings)]
    found += _judge_together(active)
    if not found or all(one.status is Status.OK for one in found):
        layers = listed(sorted({port["link_layer"] for _, port in active}))
        rates = listed(sorted({f"{port['rate_gbps']:g} Gb/s" for _, port in active if port["rate_gbps"]}))
        text = f"{len(active)} of {len(ports)} RDMA ports active ({layers}, {rates})"
        found.append(finding(ID, Status.OK, text, ports=[name for name, _ in active]))
    return found


def _judge_port(
    name: str, port: dict[str, Any], others_active: bool, settings: dict[str, str]
) -> list[Finding]:
    state, physical, layer = port["state"], port["physical"], port["link_layer"]
    data = {"state": state, "physical": physical, "link_layer": layer, "cause": "ib-roce-failure"}
    named = _named(name, settings.get("NCCL_IB_HCA", ""))
    if state == "INIT":
        text = f"link up but state INIT: no subnet manager has configured it ({layer})"
        return [finding(ID, Status.FAIL, text, subject=name, **data)]
    if state == "ARMED":
        text = "state ARMED: the subnet manager has not finished; wait, or look at the subnet manager"
        return [finding(ID, Status.WARN, text, subject=name, **data)]
    if state != "ACTIVE":
        # An unused port is normally down; it breaks launches only where NCCL is told to use it, or nothing else is up.
        status = Status.FAIL if named else Status.WARN if not others_active else Status.OK
        why = (
            "; NCCL_IB_HCA names it"
            if named
            else ""
            if others_active
            else "; no RDMA port of this node is active"
        )
        return [
            finding(ID, status, f"{state or 'no state'} ({physical or 'unknown'}){why}", subject=name, **data)
        ]
    found = []
    errors = {key: value for key, value in port["counters"].items() if key in FATAL and value}
    if errors:
        text = f"link errors since the driver was loaded: {listed(f'{key} {value}' for key, value in errors.items())}"
        found.append(finding(ID, Status.WARN, text, subject=name, **data, counters=port["counters"]))
    index = settings.get("NCCL_IB_GID_INDEX", "")
    if layer == "Ethernet":
        if index.isdigit() and int(index) not in [gid["index"] for gid in port["gids"]]:
            text = f"NCCL_IB_GID_INDEX={index}, but this port's GIDs are {listed((str(g['index']) for g in port['gids']), 8)}"
            found.append(finding(ID, Status.FAIL, text, subject=name, **data, gids=port["gids"]))
        elif not any("v2" in gid["type"] for gid in port["gids"]):
            text = "no RoCE v2 GID: routed peers cannot be reached (is there an IP address on its interface?)"
            found.append(finding(ID, Status.WARN, text, subject=name, **data, gids=port["gids"]))
    return found


def _judge_together(active: list[tuple[str, dict[str, Any]]]) -> list[Finding]:
    found = []
    layers = {port["link_layer"] for _, port in active}
    if len(layers) > 1:
        text = f"active ports of different link layers ({listed(sorted(layers))}): name the right ones in NCCL_IB_HCA"
        found.append(finding(ID, Status.WARN, text, subject="link layer", cause="ib-roce-failure"))
    for layer in sorted(layers):
        rates = {
            name: port["rate_gbps"]
            for name, port in active
            if port["link_layer"] == layer and port["rate_gbps"]
        }
        slow = [name for name, rate in rates.items() if rate < max(rates.values())]
        if slow:
            text = f"{listed(slow)} at {rates[slow[0]]:g} Gb/s, others at {max(rates.values()):g}: the slowest link sets the pace"
            found.append(finding(ID, Status.WARN, text, subject="rate", cause="slow-link", rates=rates))
    return found


def _named(name: str, filter_text: str) -> bool:
    """Whether NCCL_IB_HCA asks for this port: prefixes, `=` exact (NCCL's environment guide). An exclusion asks for none."""
    if not filter_text or filter_text.startswith("^"):
        return False
    device, _, port = name.partition(":")
    for part in filter_text.lstrip("=").split(","):
        wanted, _, wanted_port = part.partition(":")
        fits = device == wanted if filter_text.startswith("=") else device.startswith(wanted)
        if wanted and fits and wanted_port in ("", port):
            return True
    return False


PROBE = Probe(ID, "RDMA devices and ports", collect, judge, section="network")
