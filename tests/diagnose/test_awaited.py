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
