"""The RAS service's two forms of an answer, JSON and text, to one plain form. Pure; never raises but ValueError.

A communicator: {hash, size, ops: {operation: groups}, states: groups, errors: groups, missing: [place], counts}.
Groups are ranks that agree, [{value, n, ranks: [place]}], the largest first; where all agree there is none. A place: {rank, pid,
host, gpu}. The text form names the ranks of small groups only; `ranks` is then empty for the others. A rank is numbered within its
communicator. `counts` {mark, total}: equal marks of two answers mean that nothing was launched between them.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Place = dict[str, Any]
Groups = list[dict[str, Any]]

STATES = {0: "RUNNING", 7: "INIT"}
ERRORS = {
    1: "Unhandled CUDA error", 2: "System error", 3: "Internal error", 4: "Invalid argument", 5: "Invalid usage",
    6: "Remote process error",
}  # fmt: skip
"""ncclResult_t, as RAS's text form words it."""
MOST_PLACES = 64


@dataclass(frozen=True, slots=True)
class Answer:
    """What one STATUS told."""

    form: str
    version: str
    communicators: list[dict[str, Any]]
    pids: frozenset[int]
    """Of every process named."""
    processes: int | None
    timeouts: int
    lost: list[Place] = field(default_factory=list)
    """Processes that did not answer, as the text form lists them."""


def read_json(text: str) -> Answer:
    """The JSON form (NCCL 2.28.7 and newer). Raises ValueError."""
    told = _load(text)
    try:
        communicators = [_communicator(one) for one in told["communicators"]]
        ranks = [one for comm in told["communicators"] for one in (*comm["ranks"], *comm["missing_ranks"])]
        pids = frozenset(int(one["pid"]) for one in ranks if int(one["pid"]) > 0)
        timeouts = int((told.get("ras") or {}).get("timeouts_count", 0))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"RAS's answer is not understood: {error!r}") from None
    hosts = {(one["host"], one["pid"]) for one in ranks}
    return Answer("json", str(told.get("nccl_version", "")), communicators, pids, len(hosts), timeouts)


def _load(text: str) -> dict[str, Any]:
    """2.28.9 leaves out the comma after a missing rank's nvml_dev: put in where it stands before the next name."""
    try:
        told = json.loads(text)
    except ValueError:
        try:
            told = json.loads(re.sub(r'("nvml_dev": -?\d+)(\s*"status")', r"\1,\2", text))
        except ValueError as error:
            raise ValueError(f"RAS's answer is not understood: {error}") from None
    if not isinstance(told, dict):
        raise ValueError("RAS's answer is not understood: it is no object")
    return told


def _communicator(one: Mapping[str, Any]) -> dict[str, Any]:
    ranks = one["ranks"]
    ops = sorted({op for rank in ranks for op in rank["collective_counts"]})
    marks = [(rank["rank"], *(int(rank["collective_counts"].get(op, 0)) for op in ops)) for rank in ranks]
    status = [(rank, _state(rank["status"])) for rank in ranks]
    status += [(rank, "NOCOMM") for rank in one["missing_ranks"] if not rank["status"].get("unresponsive")]
    lost = [rank for rank in one["missing_ranks"] if rank["status"].get("unresponsive")]
    return {
        "hash": str(one["hash"]).removeprefix("0x"), "size": int(one["size"]),
        "ops": _without_agreement(
            (op, _groups((rank, int(rank["collective_counts"].get(op, 0))) for rank in ranks)) for op in ops
        ),
        "states": _differing(_groups(status)),
        "errors": _groups((rank, error) for rank in ranks if (error := _error(rank["status"]))),
        "missing": [_place(rank) | {"dead": bool(rank["status"].get("considered_dead"))} for rank in lost],
        "counts": {
            "mark": hashlib.sha256(repr(sorted(marks)).encode()).hexdigest()[:16],
            "total": max((sum(mark[1:]) for mark in marks), default=0),
        },
    }  # fmt: skip


def _state(status: Mapping[str, Any]) -> str:
    if status.get("abort_flag"):
        return "ABORT"
    if status.get("finalize_called") or status.get("destroy_flag"):
        return "FINALIZE"
    return STATES.get(int(status["init_state"]), "INIT")


def _error(status: Mapping[str, Any]) -> str:
    codes = [int(status.get(name, 0)) for name in ("init_state", "async_error")]
    return next((ERRORS.get(code, f"error {code}") for code in codes if code not in (0, 7)), "")


def _place(rank: Mapping[str, Any]) -> Place:
    return {"rank": int(rank["rank"]), "pid": int(rank["pid"]), "host": str(rank["host"]), "gpu": int(rank["cuda_dev"])}  # fmt: skip


def _groups(rows: Iterable[tuple[Mapping[str, Any], Any]]) -> Groups:
    found: dict[Any, list[Place]] = {}
    for rank, value in rows:
        found.setdefault(value, []).append(_place(rank))
    ordered = sorted(found.items(), key=lambda item: -len(item[1]))
    return [{"value": value, "n": len(ranks), "ranks": ranks[:MOST_PLACES]} for value, ranks in ordered]


def _differing(groups: Groups) -> Groups:
    return groups if len(groups) > 1 else []


def _without_agreement(ops: Iterable[tuple[str, Groups]]) -> dict[str, Groups]:
    return {op: groups for op, groups in ops if len(groups) > 1}


# the text form

_HEAD = re.compile(r"#\d+-\d+ \(([0-9a-f]+)\) (INCOMPLETE|ERROR|MISMATCH)$")
_AT = r"(?: -- GPU (?P<gpu>\d+)[^\n]*? managed by process (?P<pid>\d+) on node (?P<host>\S+)| -- \[process information not found\])?$"
_RANK = re.compile(r"  Rank (?P<rank>\d+)" + _AT)
_ONE = re.compile(
    r"  Rank (?P<rank>\d+) (?:has launched up to operation (?P<count>\d+)|(?P<none>has not launched any operations)"
    r"|has status (?P<status>\w+)|reported (?P<error>.+?))" + _AT
)
_MANY = re.compile(
    r"  (?P<n>\d+) ranks (?:have launched up to operation (?P<count>\d+)|(?P<none>have not launched any operations)"
    r"|have status (?P<status>\w+)|reported (?P<error>.+))$"
)
_OPS = re.compile(
    r"  Communicator ranks have different (?:(\w+) operation counts|collective (operation) counts)$"
)
_PROCESS = re.compile(r"  Process (?P<pid>\d+) on node (?P<host>\S+) managing GPUs? (?P<gpu>\d+)")


def read_text(text: str) -> Answer:
    """The text form (NCCL 2.24 and newer). Raises ValueError where it is none."""
    if "Communicators..." not in text:
        raise ValueError(f"RAS's answer is not understood: {text[:60]!r}")
    reader = _TextReader()
    for line in text.splitlines():
        reader.take(line)
    version = re.search(r"^NCCL version (\S+)", text, re.M)
    timeouts = re.search(r"Encountered (\d+) communication timeouts?", text)
    return Answer(
        "text", version[1] if version else "", list(reader.found.values()), frozenset(reader.pids), None,
        int(timeouts[1]) if timeouts else 0, reader.lost,
    )  # fmt: skip


class _TextReader:
    """Line by line: which communicator and which difference the lines are about."""

    def __init__(self) -> None:
        self.found: dict[str, dict[str, Any]] = {}
        self.pids: set[int] = set()
        self.lost: list[Place] = []
        self._comm: dict[str, Any] | None = None
        self._groups: Groups | None = None
        self._dead = self._incomplete = False

    def take(self, line: str) -> None:
        """One line of the answer."""
        if not line.startswith(" "):
            self._section(line)
        elif (process := _PROCESS.match(line)) is not None:
            self.pids.add(int(process["pid"]))
            self.lost.append({"pid": int(process["pid"]), "host": process["host"], "gpu": int(process["gpu"]), "dead": self._dead})  # fmt: skip
        elif self._comm is not None:
            self._detail(self._comm, line)

    def _section(self, line: str) -> None:
        head = _HEAD.match(line)
        if head is None:
            self._dead = line.startswith("DEAD") or (self._dead and not line)
            self._comm = self._comm if not line else None
            return
        empty: dict[str, Any] = {
            "hash": head[1], "size": 0, "ops": {}, "states": [], "errors": [], "missing": [],
            "counts": {"mark": "", "total": None},
        }  # fmt: skip
        self._comm = self.found.setdefault(head[1], empty)
        self._incomplete, self._groups = head[2] == "INCOMPLETE", None

    def _detail(self, comm: dict[str, Any], line: str) -> None:
        if (ops := _OPS.match(line)) is not None:
            self._groups = comm["ops"].setdefault(ops[1] or "collective", [])
        elif line == "  Communicator ranks have different status":
            self._groups = comm["states"]
        elif re.match(r"  (Initialization|Asynchronous) errors?", line):
            self._groups = comm["errors"]
        elif (many := _MANY.match(line)) is not None and self._groups is not None:
            self._groups.append({"value": _value(many), "n": int(many["n"]), "ranks": []})
        elif (one := _ONE.match(line)) is not None and self._groups is not None:
            self._groups.append({"value": _value(one), "n": 1, "ranks": [self._place(one)]})
        elif (rank := _RANK.match(line)) is not None:
            self._listed(comm, self._place(rank))
        elif (older := re.match(r"  The missing ranks?: ([\d, ]+)$", line)) is not None:
            comm["missing"] += [{"rank": int(one), "dead": False} for one in re.findall(r"\d+", older[1])]
        comm["counts"]["mark"] = f"{comm['counts']['mark']}{line}\n"[:20000]

    def _listed(self, comm: dict[str, Any], place: Place) -> None:
        if self._incomplete:
            dead = any(one["dead"] and (one["host"], one["pid"]) == (place.get("host"), place.get("pid")) for one in self.lost)  # fmt: skip
            comm["missing"].append({**place, "dead": dead})
        elif self._groups:
            self._groups[-1]["ranks"].append(place)

    def _place(self, match: re.Match[str]) -> Place:
        place: Place = {"rank": int(match["rank"])}
        if match["pid"]:
            place |= {"pid": int(match["pid"]), "host": match["host"], "gpu": int(match["gpu"])}
            self.pids.add(place["pid"])
        return place


def _value(match: re.Match[str]) -> Any:
    if match["none"]:
        return 0
    return int(match["count"]) if match["count"] else match["status"] or match["error"]
