"""This node's part in tests between nodes that need the launch's own interpreter: collectives with torch, KV transfers with NIXL."""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import re
import sys
from collections.abc import Collection, Mapping
from typing import Any

from diag.observe.probes.interface import Setup
from diag.observe.probes.patient import WORKERS, find_interpreter, import_failure, run_worker
from diag.system import run_command
from diag.system.companion import Companion
from diag.system.jobs import find_job, find_patient_python
from diag.system.processes import read_environment

MEET_S = 10
"""Between nodes, torch's start on the slowest of them included."""
OPEN_S, ROUND_S, LIFE_S = 12.0, 4.0, 60.0
"""Starting NIXL; one round of reads; and the longest that its process lives whatever happens to us."""
BYTES = 1 << 20
"""A megabyte: a block of KV cache is of this order."""
SLOW_START = "torch was still being imported at the deadline (slow storage or few cores)"
NIXL_MODULES = ("nixl", "nixl_cu12", "nixl_cu13")
SIDE_CHANNEL_PORT = 5600
"""vLLM's default of VLLM_NIXL_SIDE_CHANNEL_PORT (vllm/envs.py), which Dynamo's vLLM workers use too."""
BOOTSTRAP_PORT = 8998
"""SGLang's default of --disaggregation-bootstrap-port (server_args.py)."""
_LANES = re.compile(r"(?P<kind>intra-node|inter-node) cfg#\d+\s+(?P<lanes>.+)$", re.M)
_ERRORS = re.compile(r"(UCX +(ERROR|FATAL|WARN)|NIXL ERROR|NIXL_ERR_)")


class Between:
    """What one node contributes; `abilities` goes to the others. A worker process lives only while a test needs it."""

    def __init__(self, setup: Setup, facts: Mapping[str, Any], rungs: Collection[str]) -> None:
        self._setup = setup
        collective = "link.all-reduce" in rungs or "link.nccl" in rungs
        self._python, self._why = find_interpreter(setup) if collective else (None, "not asked for")
        self._nixl = _with_nixl(setup) if "link.nixl" in rungs else None
        self._agent: Companion | None = None
        inventory = _facts_of(facts, "gpu.inventory").get("gpus") or []
        users = _facts_of(facts, "process.gpu-users")
        self.abilities: dict[str, Any] = {
            "rungs": sorted(rungs),
            "torch": self._python is not None, "torch_from": self._why, "gpus": len(inventory),
            "busy": bool(users["users"]) if "users" in users else None,
            "rdma": len(_facts_of(facts, "net.rdma").get("hcas") or []), "nixl": self._nixl is not None,
            "variables": sorted(name for name in setup.env if re.match(r"(NCCL|GLOO|UCX|NIXL)_", name)),
            "settings": {name: setup.env[name] for name in ("UCX_TLS", "UCX_NET_DEVICES") if name in setup.env},
        }  # fmt: skip

    def services(self) -> dict[str, int]:
        """Ports on which a disaggregated launch of this node meets its peers: as set, else the engines' defaults."""
        environments = [self._setup.env]
        asked: dict[str, int] = {}
        root = self._setup.root
        here = root.link("/proc/self/ns/net")
        for member in find_job(root):
            if member.computes and root.link(f"/proc/{member.process.pid}/ns/net") == here:
                environments.append(read_environment(self._setup.root, member.process.pid) or {})
                words = member.process.argv
                for word, value in itertools.pairwise(words):
                    if word == "--disaggregation-bootstrap-port" and value.isdigit():
                        asked["SGLang's bootstrap port"] = int(value)
        told = next(
            (
                env["VLLM_NIXL_SIDE_CHANNEL_PORT"]
                for env in environments
                if env.get("VLLM_NIXL_SIDE_CHANNEL_PORT", "").isdigit()
            ),
            None,
        )
        if told or self._nixl is not None:
            asked["NIXL's side channel"] = int(told or SIDE_CHANNEL_PORT)
        return {name: port for name, port in asked.items() if 0 < port < 65536}

    def collective(self, order: dict[str, Any]) -> dict[str, Any]:
        """This node's rank of a collective: {right, ring, captured} as far as it came, {absent}, else {phase, message, said}."""
        if self._python is None:
            return {"absent": self._why}
        setup = Setup(
            self._setup.root, {**(self._setup.env or os.environ), **order.get("env", {})}, self._setup.python
        )
        answer = run_worker(setup, self._python, "meet.py", {**order, "round_s": MEET_S})
        if answer["failed"] is not None:
            failed = answer["failed"]
            late = {"slow_start": True} if failed["reason"] == "timeout" else {}
            return {"phase": "start", "message": failed["message"] or failed["reason"], **late}
        return _result(answer["ranks"][0], self._python)

    def transfer(self, order: dict[str, Any]) -> dict[str, Any]:
        """Open memory with NIXL, read from peers, or end it."""
        match order.get("step"):
            case "open":
                return self._open(order.get("memory", "DRAM"))
            case "read" if self._agent is not None:
                return self._read(order["peers"])
        self._end()
        return {}

    def _open(self, memory: str) -> dict[str, Any]:
        self._end()
        if self._nixl is None:
            return {"absent": "nixl is not installed for the launch's interpreter"}
        name = f"diag-{os.urandom(6).hex()}"
        job = {
            "name": name,
            "fill": 1 + os.urandom(1)[0] % 255,
            "bytes": BYTES,
            "memory": memory,
            "deadline_s": LIFE_S,
        }
        env = {
            "UCX_LOG_LEVEL": "info",
            **(self._setup.env or os.environ),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        if memory == "DRAM":
            env["CUDA_VISIBLE_DEVICES"] = ""  # UCX looks at every GPU it may see
        try:
            self._agent = Companion([self._nixl, str(WORKERS / "transfer.py"), json.dumps(job)], env)
        except OSError as error:
            return {"error": str(error), "phase": "start"}
        first = self._agent.hear(OPEN_S)
        if first is None:
            code = self._agent.code
            how = f"did not start within {OPEN_S:.0f} s" if code is None else f"died with code {code}"
            first = {"error": f"NIXL {how}", "phase": "start", "slow_start": code is None}
        if "error" in first:
            first["said"] = _complaints(self._agent.said())
            self._end()
        return first

    def _read(self, peers: dict[str, Any]) -> dict[str, Any]:
        agent = self._agent
        if agent is None or not agent.tell({"peers": peers, "round_s": ROUND_S}):
            return {"reads": {}, "error": "NIXL's process has ended", "phase": "read"}
        answer = agent.hear(ROUND_S + 2)
        said = agent.said()
        if answer is None:
            code = agent.code
            lost = {"outcome": "error", "state": "died", "message": f"NIXL's process died with code {code}"}
            if code is None:  # it stands inside a call of NIXL
                lost = {
                    "outcome": "timeout",
                    "state": "PROC",
                    "message": f"NIXL does not come back within {ROUND_S + 2:.0f} s",
                }
            answer = {"reads": dict.fromkeys(peers, lost)}
        lanes = list(
            dict.fromkeys(f"{found['kind']}: {found['lanes'].strip()}" for found in _LANES.finditer(said))
        )
        return {**answer, "lanes": lanes[:4], "said": _complaints(said)}

    def _end(self) -> None:
        if self._agent is not None:
            self._agent.end()
            self._agent = None


def _facts_of(facts: Mapping[str, Any], probe: str) -> Mapping[str, Any]:
    return next(
        (section[probe] for section in facts.values() if isinstance(section, Mapping) and probe in section),
        {},
    )


def _with_nixl(setup: Setup) -> str | None:
    """An interpreter that has nixl: the launch's, else our own unless one was given; nothing is imported."""
    python, _ = find_patient_python(setup.root, setup.env or os.environ, setup.python)
    code = f"import importlib.util, sys; sys.exit(not any(importlib.util.find_spec(name) for name in {NIXL_MODULES!r}))"
    if python is not None and run_command([python, "-I", "-c", code], timeout_s=4.0).code == 0:
        return python
    own = any(importlib.util.find_spec(name) is not None for name in NIXL_MODULES)
    return sys.executable if own and setup.python is None else None


def _complaints(said: str) -> list[str]:
    """What UCX and NIXL complained about, without their heads, each once."""
    lines = [
        re.sub(r"^\[[^\]]*\] *(\[[^\]]*\])? *", "", line).strip()
        for line in said.splitlines()
        if _ERRORS.search(line)
    ]
    return list(dict.fromkeys(line[:240] for line in lines))[:6]


def _result(rank: dict[str, Any], python: str) -> dict[str, Any]:
    told = {
        key: event[key]
        for event in rank["events"]
        for key in ("right", "ring", "captured", "torch", "nccl", "absent")
        if key in event
    }
    if "absent" in told and "right" not in told:
        return {"absent": told["absent"]}
    if import_failure([rank]) is not None:
        return {"absent": f"{python} cannot import torch"}
    if "right" in told and (rank["done"] or rank["phase"] == "parting"):
        return told
    error = rank["error"] or {}
    if not error and not rank["ended"] and rank["phase"] in ("start", "import torch"):
        return {"right": None, "phase": rank["phase"], "message": SLOW_START, "slow_start": True}
    died = rank["ended"] and not error
    return {
        **told, "right": None, "phase": error.get("phase", rank["phase"]), "said": rank["said"][-6:],
        "message": error.get("message", f"the rank died with code {rank['code']}" if died else "no end before the deadline"),
    }  # fmt: skip
