"""Network interfaces as sysfs tells them, and which of them NCCL takes. Addresses come from whoever may ask for them.

NCCL (src/misc/socket.cc, findInterfaces): NCCL_SOCKET_IFNAME is a list of prefixes, `=` makes it exact, `^` excludes; only
interfaces that run and carry an address count; unset it takes ib*, else whatever is not docker*, lo*, virbr*, else docker*,
else lo. The bootstrap uses the first match, IPv4 addresses in kernel order before IPv6.
"""

from __future__ import annotations

from typing import Any

from diag.system.files import Root

LOCAL_ONLY = ("loopback", "docker", "bridge", "veth", "virbr")
"""Kinds whose addresses no other node can reach."""


def read_interface(root: Root, name: str, addresses: list[dict[str, str]]) -> dict[str, Any]:
    """State, kind and MTU of one interface; `addresses` ({family, address}) are passed through."""
    base = f"/sys/class/net/{name}"
    values = {
        key: (root.read(f"{base}/{key}") or "").strip()
        for key in ("ifindex", "mtu", "operstate", "flags", "speed")
    }
    flags = int(values["flags"] or "0", 16)
    up, state = bool(flags & 1), values["operstate"]
    return {
        "name": name, "index": int(values["ifindex"]) if values["ifindex"].isdigit() else None,
        "kind": _kind(root, base, name), "up": up,
        # IFF_RUNNING is not in sysfs' flags; the kernel derives it from operstate (RFC 2863, net/core/dev.c).
        "running": up and state in ("up", "unknown"), "operstate": state,
        "mtu_bytes": int(values["mtu"]) if values["mtu"].isdigit() else None,
        "speed_mbps": int(values["speed"]) if values["speed"].isdigit() else None, "addresses": addresses,
    }  # fmt: skip


def _kind(root: Root, base: str, name: str) -> str:
    """What an interface is, by sysfs first and by its usual name second."""
    arp = (root.read(f"{base}/type") or "").strip()  # linux/if_arp.h: 772 loopback, 32 InfiniBand
    if arp == "772" or name == "lo":
        return "loopback"
    if arp == "32":
        return "infiniband"
    for entry, kind in (("bridge", "bridge"), ("bonding", "bond"), ("wireless", "wireless")):
        if root.exists(f"{base}/{entry}"):
            return "docker" if name.startswith("docker") else "virbr" if name.startswith("virbr") else kind
    prefixes = (
        ("docker", "docker"), ("br-", "bridge"), ("cni", "bridge"), ("virbr", "virbr"), ("veth", "veth"), ("cali", "veth"),
        ("lxc", "veth"), ("tun", "tunnel"), ("tap", "tunnel"), ("wg", "tunnel"), ("tailscale", "tunnel"),
        ("flannel", "overlay"), ("cilium", "overlay"), ("vxlan", "overlay"), ("kube-ipvs", "bridge"), ("nerdctl", "bridge"),
        ("podman", "bridge"), ("ifb", "dummy"), ("dummy", "dummy"), ("wl", "wireless"), ("usb", "usb"),
    )  # fmt: skip
    return next((kind for prefix, kind in prefixes if name.startswith(prefix)), "ethernet")


def nccl_candidates(interfaces: list[dict[str, Any]], filter_text: str, family: str = "") -> list[str]:
    """Names NCCL would take, in its order. `filter_text` is NCCL_SOCKET_IFNAME, empty if unset."""
    wanted = {"AF_INET": "ipv4", "AF_INET6": "ipv6"}.get(family)
    usable: list[str] = []
    for kind in ("ipv4", "ipv6"):
        for one in interfaces:
            has = any(a["family"] == kind and a["address"] != "::1" for a in one["addresses"])
            if has and one["running"] and wanted in (None, kind) and one["name"] not in usable:
                usable.append(one["name"])
    if len(filter_text) > 1:  # a single character counts as unset (socket.cc)
        return _matching(usable, filter_text)
    for attempt in ("ib", "^docker,lo,virbr", "docker", "lo", "virbr"):
        names = _matching(usable, attempt)
        if names:
            return names
    return []


def _matching(names: list[str], text: str) -> list[str]:
    exclude = text.startswith("^")
    exact = text.removeprefix("^").startswith("=")
    parts = [part.partition(":")[0] for part in text.lstrip("^=").split(",") if part.partition(":")[0]]

    def matches(name: str) -> bool:
        return not parts or any(name == part if exact else name.startswith(part) for part in parts)

    return [name for name in names if matches(name) != exclude]
