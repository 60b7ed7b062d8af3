"""Whom the others wait for: listed as missing, late, idle; the node that somebody looks at; names before addresses."""

from __future__ import annotations

from pathlib import Path

import pytest

from diag.diagnose.pipeline import explain
from diag.model import Culprit


def culprit_of(tmp_path: Path, cause: str, *texts: str) -> Culprit:
    paths = []
    for number, text in enumerate(texts):
        paths.append(tmp_path / f"part{number}.log")
        paths[-1].write_text(text)
    first = explain([str(path) for path in paths]).diagnoses[0]
    assert first.id == cause
    return first.culprit


STALL = (
    "[1,0]<stderr>:[2023-02-09 17:04:11.337225: W /tmp/horovod/common/stall_inspector.cc:107] One or more tensors were submitted to be "
    "reduced, gathered or broadcasted by subset of ranks and are waiting for remainder of ranks for more than 60 seconds. "
    "This may indicate that different ranks are trying to submit different tensors or that only subset of ranks is submitting tensors, "
    "which will cause deadlock.\n[1,0]<stderr>:Missing ranks:\n"
)


def missing(rank: int, tensor: str) -> str:
    return f"[1,0]<stderr>:{rank}: [allreduce.{tensor}]\n"


@pytest.mark.parametrize(("waits", "rank"), [((2, 2, 2), 2), ((2,), None)])
def test_the_rank_that_horovod_misses_most_is_named(
    tmp_path: Path, waits: tuple[int, ...], rank: int | None
) -> None:
    text = "".join(f"[1,{one}]<stdout>:step 100 loss 2.0\n" for one in range(4))
    text += "".join(STALL + missing(one, "fc.weight") for one in waits)
    text += missing(0, "val_acc") + missing(1, "val_acc")

    assert culprit_of(tmp_path, "collective-desync", text).rank == rank


WAITED = (
    "[rank{0}]: Traceback (most recent call last):\n"
    '[rank{0}]:   File "train.py", line 9, in <module>\n[rank{0}]:     dist.gather_object(data)\n'
    "[rank{0}]: RuntimeError: [/pytorch/third_party/gloo/gloo/transport/tcp/unbound_buffer.cc:78] "
    "Timed out waiting 1800000ms for recv operation to complete\n"
)


@pytest.mark.parametrize(("late", "rank"), [((23,), 23), ((23, 7), None)])
def test_who_finds_its_peers_gone_when_they_gave_up_came_late(
    tmp_path: Path, late: tuple[int, ...], rank: int | None
) -> None:
    text = "".join(f"[rank{one}]: saving the checkpoint\n" for one in (0, 5, 7, 15, 23))
    text += WAITED.format(5) + WAITED.format(0)
    text += "".join(
        f"[rank{one}]: RuntimeError: [/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:538] "
        "Read error [10.80.3.17]:21714: Connection reset by peer\n"
        for one in late
    )

    assert culprit_of(tmp_path, "collective-timeout-slow-rank", text).rank == rank


def test_a_name_stands_before_its_address(tmp_path: Path) -> None:
    refused = "[W socket.cpp:558] [c10d] The client socket has failed to connect to 172.20.181.8:29400 (errno: 111 - Connection refused).\n"
    gone = "[E socket.cpp:610] [c10d] The client socket has timed out after 60s while trying to connect to (172.20.181.8, 29400).\n"
    raised = 'Traceback (most recent call last):\n  File "train.py", line 9, in <module>\n    init()\n'
    raised += "TimeoutError: The client socket has timed out after 60s while trying to connect to (172.20.181.8, 29400).\n"
    service = "NAME       TYPE        CLUSTER-IP     EXTERNAL-IP   PORT(S)     AGE\ntrainer-0   ClusterIP   172.20.181.8   <none>        29400/TCP   41m\n"
    text = "torchrun --nnodes=2 train.py\n" + refused * 3 + gone + raised

    assert culprit_of(tmp_path, "rendezvous-timeout", text).host == "172.20.181.8"
    assert culprit_of(tmp_path, "rendezvous-timeout", text + service).host == "trainer-0"


@pytest.mark.parametrize(
    ("command", "host"),
    [
        ("$ oc debug node/gpu-w1 -- chroot /host uname -r\n", "gpu-w1"),
        ("$ kubectl describe node gpu-w1 | tail\n", "gpu-w1"),
        ("$ kubectl get pods -o wide --field-selector spec.nodeName=gpu-w1\n", "gpu-w1"),
        ("$ kubectl describe node gpu-w1\n$ kubectl describe node gpu-w2\n", None),
        ("", None),
    ],
)
def test_the_only_node_that_somebody_looks_at_is_where_the_driver_fails(
    tmp_path: Path, command: str, host: str | None
) -> None:
    text = (
        f"Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 580.82\n{command}"
    )

    assert culprit_of(tmp_path, "driver-library-mismatch", text).host == host


def test_the_task_that_the_jax_barrier_misses_is_named(tmp_path: Path) -> None:
    text = (
        "E0504 17:25:34.118005 1 coordination_service.cc:1290] Stopping coordination service as cluster registration failed.\n"
        "Original error: DEADLINE_EXCEEDED: Barrier timed out. Id: [Init]Wait_for_all_tasks_to_register::0.\n"
        "# of tasks that reached the barrier: {}/4.\n"
        "The first task at the barrier: /job:jax_worker/replica:0/task:0. Some timed out task names:\n"
    )
    tasks = [f"/job:jax_worker/replica:0/task:{task}\n" for task in (2, 3)]

    assert culprit_of(tmp_path, "rendezvous-timeout", text.format(3) + tasks[0]).rank == 2
    assert culprit_of(tmp_path, "rendezvous-timeout", text.format(2) + "".join(tasks)).rank is None


@pytest.mark.parametrize(
    "refusal",
    [
        "HTTPConnectionPool(host='10.5.6.2', port=35117): Max retries exceeded with url: /route (Caused by NewConnectionError"
        "('[Errno 111] Connection refused'))",
        "GCS service channel UNAVAILABLE: ipv4:10.5.6.2:6379: Failed to connect to remote host: Connection refused",
    ],
)
def test_the_machine_that_refuses_is_named(tmp_path: Path, refusal: str) -> None:
    text = f"2026-01-08 21:44:02 ERROR Failed to connect to GCS at address 10.5.6.2:6379 within 5 seconds. {refusal}\n"
    text += (
        'Traceback (most recent call last):\n  File "a.py", line 1, in <module>\n    run()\n'
        "ConnectionError: Could not find any running Ray instance.\n"
    )

    assert culprit_of(tmp_path, "control-plane-unreachable", text).host == "10.5.6.2"
