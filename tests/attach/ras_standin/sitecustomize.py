"""Gives a Python process a RAS service: what it says was recorded from NCCL's own; pids become those of the processes of now.

RAS_STANDIN (JSON): {"port", "answers": [files], "folder": where every rank leaves its pid, "old": true if without JSON}. All ranks listen on
one port, as NCCL's processes do; the n-th STATUS of a process gets the n-th answer, later ones the last.
"""

from __future__ import annotations

import json
import os
import re
import socket
import threading
from pathlib import Path
from typing import Any


def translate(text: str, pids: dict[int, int]) -> str:
    """Recorded pids as living ones."""
    return re.sub(r"\b\d+\b", lambda found: str(pids.get(int(found[0]), found[0])), text)


class Service:
    """One process's listener."""

    def __init__(self, setup: dict[str, Any]) -> None:
        self.setup = setup
        self.asked = 0
        self.heard: list[str] = []
        self.listener = socket.socket()
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self.listener.bind(("127.0.0.1", setup["port"]))
        self.listener.listen(16)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self) -> None:
        silent = self.setup.get("silent", 0)
        kept = []
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            if silent > 0:  # a process that stands still: the kernel accepts, nobody reads
                silent -= 1
                kept.append(sock)
                continue
            threading.Thread(target=self.talk, args=(sock,), daemon=True).start()

    def recorded(self) -> dict[str, Any]:
        files = self.setup["answers"]
        told: dict[str, Any] = json.loads(Path(files[min(self.asked, len(files) - 1)]).read_text())
        self.asked += 1
        folder = Path(self.setup["folder"])
        living = {int(one.suffix[1:]): int(one.read_text()) for one in folder.glob("pid.*")}
        pids = {old: living[rank] for rank, old in enumerate(told["pids"]) if rank in living}
        return {form: translate(told[form], pids) for form in ("json", "text")}

    def talk(self, sock: socket.socket) -> None:
        form = "text"
        with sock, sock.makefile("rb") as lines:
            for line in lines:
                words = line.decode().strip()
                self.heard.append(words)
                command = words.lower()
                answer = f"ERROR: Unknown command {words}\n"
                if command.startswith("client protocol"):
                    answer = self.setup.get("greeting", "SERVER PROTOCOL 2\n")
                elif command.startswith("timeout "):
                    answer = "OK\n"
                elif command == "set format json" and not self.setup.get("old"):
                    form, answer = "json", "OK\n"
                elif command in ("status", "verbose status"):
                    text = self.recorded()[form]
                    sock.sendall(text[: self.setup.get("cut")].encode())
                    return
                sock.sendall(answer.encode())


if "RAS_STANDIN" in os.environ and "RANK" in os.environ:
    Path(json.loads(os.environ["RAS_STANDIN"])["folder"], f"pid.{os.environ['RANK']}").write_text(
        str(os.getpid())
    )
    Service(json.loads(os.environ["RAS_STANDIN"]))
