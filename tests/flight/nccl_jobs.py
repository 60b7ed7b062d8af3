"""Synthetic dumps in NCCL's form: the keys, the nesting and the values of schema 2.10 (and of older ones)."""

from __future__ import annotations

import json
import pickle
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SECOND = 1_000_000_000


@dataclass
class Rank:
    """What one rank does, call by call."""

    rank: int
    world: int
    groups: dict[str, tuple[list[int], str]]
    version: str = "2.10"
    capacity: int = 2000
    entries: list[dict[str, Any]] = field(default_factory=list)
    counters: dict[str, list[int]] = field(default_factory=dict)
    records: int = 0
    clock: int = 1_700_000_000 * SECOND

    def call(
        self,
        op: str,
        *,
        group: str = "0",
        size: int = 64,
        dtype: str = "Float",
        state: str = "completed",
        peer: int | None = None,
        retired: bool | None = None,
    ) -> None:
        """Enqueue something."""
        counters = self.counters.setdefault(group, [0, 0, 0, 0])  # enqueued, started, completed, transfers
        p2p = peer is not None
        counters[3 if p2p else 0] += 1
        if not p2p and state == "completed":
            counters[2] = counters[0]
        if not p2p and state in ("completed", "started"):
            counters[1] = counters[0]
        members = self.groups[group][0]
        name = f"nccl:{op}"
        if p2p:
            local, other = members.index(self.rank), members.index(peer) if peer is not None else 0
            name += f" {local}{'->' if op == 'send' else '<-'}{other}"
        self.clock += SECOND // 100
        self.entries.append({
            "record_id": self.records, "pg_id": list(self.groups).index(group), "process_group": (group, self.groups[group][1]),
            "collective_seq_id": counters[0], "p2p_seq_id": counters[3], "op_id": counters[0] + counters[3],
            "profiling_name": name, "time_created_ns": self.clock, "duration_ms": 0.2,
            "input_sizes": [[size]], "input_dtypes": [dtype], "output_sizes": [[size]], "output_dtypes": [dtype], "state": state,
            "time_discovered_started_ns": self.clock if state != "scheduled" else None,
            "time_discovered_completed_ns": self.clock if state == "completed" else None,
            "retired": state == "completed" if retired is None else retired, "timeout_ms": 600_000, "is_p2p": p2p,
            "frames": [
                {"name": op, "filename": "/opt/venv/lib/python3.12/site-packages/torch/distributed/distributed_c10d.py", "line": 3000},
                {"name": "train_step", "filename": "/srv/app/train.py", "line": 100 + self.records % 50},
            ],
        })  # fmt: skip
        self.records += 1
        del self.entries[: -self.capacity]

    def dump(self) -> dict[str, Any]:
        """The top level."""
        version_key = "comm_lib_version" if self.version == "2.10" else "nccl_version"
        return {
            "version": self.version, version_key: "2.27.5",
            "pg_config": {
                name: {"name": name, "desc": description, "ranks": str(members)}
                for name, (members, description) in self.groups.items() if self.rank in members
            },
            "pg_status": {
                str(list(self.groups).index(name)): {
                    "last_enqueued_collective": counts[0] or -1, "last_started_collective": counts[1] or -1,
                    "last_completed_collective": counts[2] or -1,
                }
                for name, counts in self.counters.items()
            },
            "entries": self.entries,
        }  # fmt: skip


def flat(world: int, **options: Any) -> list[Rank]:
    """A job with the default group only."""
    groups = {"0": (list(range(world)), "default_pg")}
    return [Rank(rank, world, groups, **options) for rank in range(world)]


def grid(tensor: int, pipeline: int, data: int) -> list[Rank]:
    """A job with TP, PP and DP groups, ranks counted in this order."""
    world = tensor * pipeline * data
    groups: dict[str, tuple[list[int], str]] = {"0": (list(range(world)), "default_pg")}

    def add(members: list[int], description: str) -> None:
        groups[str(len(groups))] = (members, description)

    for start in range(0, world, tensor):
        add(list(range(start, start + tensor)), "TP")
    for first in range(tensor):
        for replica in range(data):
            add([first + tensor * (stage + pipeline * replica) for stage in range(pipeline)], "PP")
    for first in range(tensor * pipeline):
        add([first + tensor * pipeline * replica for replica in range(data)], "DP")
    return [Rank(rank, world, groups) for rank in range(world)]


def group_of(one: Rank, description: str) -> str:
    """The name of a rank's own group of a kind."""
    return next(
        name for name, (members, what) in one.groups.items() if what == description and one.rank in members
    )


def write_pickle(one: Rank, path: Path, protocol: int = 2) -> None:
    """As NCCL's recorder writes."""
    path.write_bytes(pickle.dumps(one.dump(), protocol=protocol))


def write_json(one: Rank, path: Path) -> None:
    """As the debug server writes: no frames, texts in pg_status, 0 for never."""
    raw = one.dump()
    raw["pg_status"] = {
        name: {key: str(value) for key, value in counts.items()} for name, counts in raw["pg_status"].items()
    }
    for entry in raw["entries"]:
        entry.pop("frames", None)
        for key in ("time_discovered_started_ns", "time_discovered_completed_ns"):
            entry[key] = entry[key] or 0
    path.write_text(json.dumps(raw, separators=(",", ":"), sort_keys=True))


def write_all(ranks: list[Rank], folder: Path, *, form: str = "pickle") -> None:
    """One file a rank."""
    folder.mkdir(parents=True, exist_ok=True)
    for one in ranks:
        if form == "json" or (form == "mixed" and one.rank % 2):
            write_json(one, folder / f"rank{one.rank}.json")
        else:
            write_pickle(
                one,
                folder / f"nccl_trace_rank_{one.rank}",
                protocol=2 + one.rank % 4 if form == "mixed" else 2,
            )


def steps(ranks: list[Rank], count: int = 6) -> None:
    """Healthy steps."""
    for _ in range(count):
        for one in ranks:
            one.call("all_reduce", size=4096)
            one.call("_all_gather_base", size=128)
            one.call("broadcast", size=8)
