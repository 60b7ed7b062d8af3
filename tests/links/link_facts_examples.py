"""Facts of jobs as `run_links` returns them, made up for judges."""

from __future__ import annotations

from typing import Any

Facts = dict[str, Any]
OPEN = {
    "stage": "ok", "outcome": "ok", "chosen": {}, "sent": 200, "there": 200, "back": 200, "burst": 1, "rtt_ms": 0.1,
    "clock_ahead_s": 0.0, "largest_bytes": 65536, "mtu_bytes": 1500, "mbps": 9000.0,
}  # fmt: skip
CLOSED = {"stage": "tcp", "outcome": "timeout", "chosen": {}, "sent": 50, "there": 0, "back": 0}


def address_of(rank: int) -> str:
    return f"10.0.{rank // 250}.{rank % 250 + 1}"


def card(rank: int, count: int) -> Facts:
    address = address_of(rank)
    interface = {
        "name": "eth0", "kind": "ethernet", "mtu_bytes": 1500, "speed_mbps": 10000, "running": True,
        "addresses": [{"family": "ipv4", "address": address}],
    }  # fmt: skip
    return {
        "hostname": f"gpu{rank}", "node_rank": rank, "nnodes": count, "world_size": count * 8, "address": address,
        "machine": f"m{rank}", "version": "1", "interfaces": [interface],
        "chosen": {"nccl": {"interface": "eth0", "address": address, "by": "NCCL's own choice"}},
    }  # fmt: skip


def healthy(count: int = 4) -> Facts:
    links = {f"{a}>{b}": dict(OPEN) for a in range(count) for b in range(count) if a != b}
    return {
        "nnodes": count, "node_rank": 0, "launcher": "by hand", "met": True, "steps": None, "taken": None,
        "nodes": {str(rank): card(rank, count) for rank in range(count)}, "missing": [], "sent_away": [], "knocks": [],
        "links": links, "silent": {}, "collectives": {}, "transfer": {}, "master": {"host": "gpu0", "port": 29511}, "meeting_s": 1.0,
    }  # fmt: skip


def able(facts: Facts, **more: Any) -> Facts:
    """The same job with all that the upper rungs need."""
    for one in facts["nodes"].values():
        one["abilities"] = {
            "rungs": ["link.all-reduce", "link.nccl", "link.nixl"], "torch": True, "torch_from": "given", "gpus": 8, "busy": False,
            "rdma": 8, "nixl": True, "variables": [], "settings": {}, **more,
        }  # fmt: skip
    return facts
