"""Culprits that lines name in their own words: tasks, tools that run on many machines, introductions, the store's server."""

from __future__ import annotations

from pathlib import Path

import pytest

from diag.diagnose.pipeline import evidence_of, explain
from diag.model import Culprit
from diag.observe.logs.reading import build_reader
from diag.playbooks.base import load_base


def culprit_of(tmp_path: Path, cause: str, **texts: str) -> Culprit:
    for name, text in texts.items():
        (tmp_path / f"{name}.log").write_text(text)
    first = explain([str(tmp_path / f"{name}.log") for name in texts]).diagnoses[0]
    assert first.id == cause
    return first.culprit


OOM = (
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 21.96 GiB "
    "of which 1.29 GiB is free. Process 30218 has 20.67 GiB memory in use. Of the allocated memory 19.02 GiB is allocated by PyTorch, "
    "and 1.00 GiB is reserved by PyTorch but unallocated.\n"
)


def task(name: str, pid: int, address: str) -> str:
    return (
        f"ray.exceptions.RayTaskError(OutOfMemoryError): ray::{name}.run() (pid={pid}, ip={address}, actor_id=a1)\n"
        f'  File "/app/{name}.py", line 3, in run\n    work()\n'
    )


def test_the_innermost_ray_task_around_an_exception_tells_its_machine(tmp_path: Path) -> None:
    text = "(Worker pid=7, ip=10.0.0.7) step 1 loss: 2.1\n(Worker pid=8, ip=10.0.0.8) step 1 loss: 2.1\n"
    text += 'Traceback (most recent call last):\n  File "main.py", line 9, in main\n    ray.get(x)\n'
    text += task("Driver", 5, "10.0.0.5") + task("Worker", 8, "10.0.0.8") + OOM

    assert culprit_of(tmp_path, "gpu-oom-runtime", log=text).host == "10.0.0.8"


@pytest.mark.parametrize("form", ["fatal: [{}]: FAILED! => ", "failed: [{}] => "])
def test_ansible_names_the_machine_on_which_a_task_fails(tmp_path: Path, form: str) -> None:
    refusal = "nvidia-container-cli: requirement error: unsatisfied condition: cuda>=11.7, please update your driver to a newer version\n"
    text = "ok: [gpu-n1]\n" + form.format("gpu-n2") + refusal + "$ ssh gpu-n1 uptime\n 10:00:01 up 9 days\n"

    assert culprit_of(tmp_path, "driver-too-old", log=text).host == "gpu-n2"


BUSY = "RuntimeError: CUDA error: all CUDA-capable devices are busy or unavailable\n"
TABLE = "N/A   24C    P8    10W / 250W |      0MiB / 22919MiB |      0%   E. Process |\n"


@pytest.mark.parametrize(
    ("line", "host"),
    [("Tue Oct 15 09:11:02 CST 2024   gn14", "gn14"), ("Tue Oct 15 09:11:02 CST 2024", None)],
)
def test_date_and_hostname_in_one_line_tell_the_machine(tmp_path: Path, line: str, host: str | None) -> None:
    assert culprit_of(tmp_path, "gpu-busy-exclusive", log=f"{line}\n{TABLE}{BUSY}").host == host


def test_a_rank_that_introduces_itself_tells_its_machine(tmp_path: Path) -> None:
    absent = "RuntimeError: [enforce fail at gloo/transport/tcp/device.cc:84] ifa != nullptr. Unable to find address for: ens6\n"
    text = {f"rank{rank}": f"| rank {rank} | host node-{rank + 1} pid 11{rank} world 2\n" for rank in (0, 1)}
    text["rank0"] += f"[rank0]: {absent}"

    culprit = culprit_of(tmp_path, "nccl-wrong-interface", **text)
    assert (culprit.rank, culprit.host) == (0, "node-1")


def test_all_ranks_but_one_that_lost_a_peer_name_that_one(tmp_path: Path) -> None:
    lost = "RuntimeError: [gloo/transport/tcp/pair.cc:553] Connection closed by peer [10.42.0.11]:4931. This is typically caused by a remote worker crashing.\n"
    text = "".join(f"rank {rank} | host node-1 pid 5{rank} world 4\n" for rank in range(4))
    text += "".join(f"[rank{rank}]: {lost}" for rank in (1, 3, 0))

    assert culprit_of(tmp_path, "worker-died", log=text).rank == 2


BIND = "[c10d] The server socket has failed to bind to [::]:29600 (errno: 98 - Address already in use).\n"


@pytest.mark.parametrize(
    ("line", "rank"),
    [
        (f"[W socket.cpp:401] {BIND}", 0),
        (f"[rank3]:[W socket.cpp:401] {BIND}", 3),
        (
            "ERROR:    [Errno 98] error while attempting to bind on address ('0.0.0.0', 8000): address already in use\n",
            None,
        ),
    ],
)
def test_the_store_is_served_by_rank_zero_unless_a_line_tells_otherwise(
    tmp_path: Path, line: str, rank: int | None
) -> None:
    assert culprit_of(tmp_path, "port-in-use", log=f"world_size=4\n{line}").rank == rank


@pytest.mark.parametrize(
    "text",
    [
        "$ kubectl describe pod trainer-0\nName:             trainer-0\nNamespace:        ml\nNode:             gpu-w7/10.0.0.7\n",
        "$ kubectl get pods -o wide\ntrainer-0   0/1   Error   0   2m49s   10.1.87.20   gpu-w7\n",
    ],
    ids=["described", "listed"],
)
def test_descriptions_and_listings_tell_the_machine_below_a_pod(tmp_path: Path, text: str) -> None:
    log = tmp_path / "log.txt"
    log.write_text(text)
    who = evidence_of([str(log)], build_reader(load_base(broken=[]))).who

    assert who.node_of("trainer-0") == "gpu-w7"
    assert who.node_of("trainer-1") == "trainer-1"
