"""One NIXL agent over UCX, as a prefill or decode worker makes it: registers memory, is read from, reads from others.

Stand-alone: run by the patient's interpreter with nixl (and torch for GPU memory) and the standard library only.
    transfer.py '{"name", "fill", "bytes", "memory": "DRAM" | "VRAM", "deadline_s"}'
Lines of JSON on DIAG_ANSWER_FD. First {"metadata", "address", "bytes", "fill", "name", "version", "memory"} or {"error", "phase"};
then, for each line on standard input {"peers": {rank: the other's first line}, "round_s"}, {"reads": {rank: {outcome: ok |
timeout | error | wrong-data, state, ms, mbps, message}}}. It serves its own memory until standard input ends. GPU memory
has not been proven on a GPU yet.
"""

from __future__ import annotations

import base64
import ctypes
import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

from diag_ranks import guard  # type: ignore[import-not-found]  # beside this script

PACKAGES = ("nixl", "nixl_cu12", "nixl_cu13")
"""Since 1.0 the wheels carry one module for each CUDA, and `nixl` only chooses among them."""


class Stopped(Exception):
    """What went wrong, and in which phase."""

    def __init__(self, phase: str, message: str) -> None:
        super().__init__(message)
        self.phase = phase


def answer(fd: int, message: dict[str, Any]) -> None:
    """One line for diag."""
    data = json.dumps(message).encode() + b"\n"
    while data:
        data = data[os.write(fd, data) :]


def load() -> Any:
    """NIXL's Python API, whichever wheel brought it."""
    problems = []
    for name in PACKAGES:
        try:
            return importlib.import_module(f"{name}._api")
        except ImportError as error:
            problems.append(f"{name}: {error}")
    raise Stopped("import nixl", "; ".join(problems)[:600])


class Memory:
    """A buffer of this process that can be registered: DRAM, or VRAM of the first GPU."""

    def __init__(self, kind: str, size: int, fill: int) -> None:
        self.kind, self.size, self._tensor = kind, size, None
        if kind == "VRAM":
            import torch

            self._tensor = torch.full((size,), fill, dtype=torch.uint8, device="cuda:0")
            torch.cuda.synchronize()
            self.address = self._tensor.data_ptr()
        else:
            self._buffer = ctypes.create_string_buffer(size)
            ctypes.memset(self._buffer, fill, size)
            self.address = ctypes.addressof(self._buffer)

    def holds(self, fill: int) -> bool:
        """Whether every byte is `fill`."""
        if self._tensor is not None:
            return bool((self._tensor == fill).all().item())
        return bytes(self._buffer.raw) == bytes([fill]) * self.size


class Agent:
    """An agent with one buffer to be read from."""

    def __init__(self, job: dict[str, Any]) -> None:
        self._api = load()
        self.job = job
        self._agent = self._step(
            "create the UCX backend",
            lambda: self._api.nixl_agent(job["name"], self._api.nixl_agent_config(backends=["UCX"])),
        )
        self._shown = Memory(job["memory"], job["bytes"], job["fill"])
        self._register(self._shown)

    def card(self) -> dict[str, Any]:
        """What others need to read from here."""
        metadata = self._step("pack the metadata", self._agent.get_agent_metadata)
        return {
            "metadata": base64.b64encode(metadata).decode(), "address": self._shown.address, "bytes": self._shown.size,
            "fill": self.job["fill"], "name": self.job["name"], "memory": self.job["memory"], "version": version(self._api),
        }  # fmt: skip

    def read_all(self, peers: dict[str, Any], round_s: float) -> dict[str, dict[str, Any]]:
        """Read from all peers at once; what is not there after `round_s` is given up."""
        begin = time.monotonic()
        results: dict[str, dict[str, Any]] = {}
        running: dict[str, tuple[Any, Memory, int]] = {}
        for rank, peer in peers.items():
            try:
                running[rank] = self._begin(rank, peer)
            except Stopped as error:
                results[rank] = {"outcome": "error", "state": error.phase, "message": str(error)[:400]}
        while running and time.monotonic() - begin < round_s:
            for rank, (handle, memory, fill) in list(running.items()):
                state, message = self._state(handle)
                if state == "PROC":
                    continue
                del running[rank]
                took = time.monotonic() - begin
                outcome = "error" if state != "DONE" else "ok" if memory.holds(fill) else "wrong-data"
                results[rank] = {
                    "outcome": outcome,
                    "state": state,
                    "message": message,
                    "ms": round(took * 1e3, 1),
                }
            time.sleep(0.002)
        for rank in running:
            results[rank] = {
                "outcome": "timeout",
                "state": "PROC",
                "message": f"not done after {round_s:.0f} s",
            }
        return results

    def _begin(self, rank: str, peer: dict[str, Any]) -> tuple[Any, Memory, int]:
        metadata = base64.b64decode(peer["metadata"])
        name = self._step("load the peer's metadata", lambda: self._agent.add_remote_agent(metadata))
        name = name.decode() if isinstance(name, bytes) else name
        memory = Memory(self.job["memory"], peer["bytes"], 0)
        self._register(memory)
        kind = self.job["memory"]
        local = self._agent.get_xfer_descs([(memory.address, memory.size, 0)], kind)
        remote = self._agent.get_xfer_descs([(peer["address"], peer["bytes"], 0)], kind)
        handle = self._step(
            "prepare the transfer",
            lambda: self._agent.initialize_xfer("READ", local, remote, name, rank.encode()),
        )
        if self._step("post the transfer", lambda: self._agent.transfer(handle)) == "ERR":
            raise Stopped("post the transfer", "the backend refused it")
        return handle, memory, peer["fill"]

    def _state(self, handle: Any) -> tuple[str, str]:
        try:
            return str(self._agent.check_xfer_state(handle)), ""
        except Exception as error:
            return type(error).__name__, str(error)[:400]

    def _register(self, memory: Memory) -> None:
        rows = self._agent.get_reg_descs([(memory.address, memory.size, 0, "")], memory.kind)
        self._step(f"register {memory.kind}", lambda: self._agent.register_memory(rows))

    def _step(self, phase: str, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except Exception as error:
            raise Stopped(phase, f"{type(error).__name__}: {error}") from None


def version(api: Any) -> str | None:
    """The wheel's version."""
    from importlib import metadata

    for name in (api.__name__.partition(".")[0].replace("_", "-"), "nixl"):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


def main() -> None:
    """Open, then answer questions until nobody asks any more."""
    job = json.loads(sys.argv[1])
    guard(job["deadline_s"])
    fd = int(os.environ["DIAG_ANSWER_FD"])
    try:
        agent = Agent(job)
        answer(fd, agent.card())
        for line in sys.stdin:
            order = json.loads(line)
            answer(fd, {"reads": agent.read_all(order["peers"], order["round_s"])})
    except Stopped as error:
        answer(fd, {"error": str(error)[:600], "phase": error.phase})
    except Exception as error:
        answer(fd, {"error": f"{type(error).__name__}: {error}"[:600], "phase": "unknown"})
    finally:
        os._exit(0)  # UCX's own clean-up may wait for peers that are gone


if __name__ == "__main__":
    main()
