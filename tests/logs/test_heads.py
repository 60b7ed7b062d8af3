"""Every launcher's line head is read, nested ones too."""

from __future__ import annotations

import pytest

from diag.observe.logs.heads import clean, parse_head, rank_of_file

CASES = [
    ("[rank3]: RuntimeError: x", {"rank": 3, "text": "RuntimeError: x"}),
    ("[rank3]:[E1120 12:00:00.123 ProcessGroupNCCL.cpp:632] [Rank 3] Watchdog", {"rank": 3, "level": "E"}),
    ('[default5]:  File "a.py", line 3', {"rank": 5}),
    (" 3: Traceback (most recent call last):", {"rank": 3, "text": "Traceback (most recent call last):"}),
    ("[1,7]<stderr>:RuntimeError: x", {"rank": 7, "text": "RuntimeError: x"}),
    (
        "(VllmWorkerProcess pid=77) ERROR 11-02 10:00:00 multiproc_worker_utils.py:231] Exception in worker",
        {"pid": 77, "process": "VllmWorkerProcess"},
    ),
    ("(VllmWorker rank=1 pid=135) INFO 06-10 12:04:21 [pynccl.py:70] vLLM is", {"rank": 1, "pid": 135}),
    ("(Worker_TP2_EP2 pid=260) Loading", {"rank": 2, "pid": 260, "text": "Loading"}),
    (
        '(EngineCore_DP0 pid=51290) ERROR 10-25 09:43:31 [core.py:708]   File "/opt", line 3',
        {"text": '  File "/opt", line 3', "rank": None},
    ),
    (
        "\x1b[36m(RayWorkerWrapper pid=3330, ip=10.66.0.5)\x1b[0m gpu-w1:3330:3330 [0] NCCL INFO NET/Plugin",
        {"host": "gpu-w1", "pid": 3330, "gpu": 0},
    ),
    ("[2025-01-03 10:22:11 DP0 TP3] Load weight begin.", {"rank": 3, "text": "Load weight begin."}),
    ("gpu-lab3:20961:21033 [0] include/socket.h:409 NCCL WARN Net", {"host": "gpu-lab3", "pid": 20961}),
    (
        "[1796077248.641244] [gpu-a02:2129 :0]     ucp_context.c:1014 UCX  WARN  network device",
        {"host": "gpu-a02", "pid": 2129, "text": "ucp_context.c:1014 UCX  WARN  network device"},
    ),
    ("[prefill-0:1187 :0:1550] Caught signal 11", {"host": "prefill-0", "text": "Caught signal 11"}),
    (
        "[1744970122.411037] [gpu-a01:15110:0]            sock.c:334  UCX  ERROR   connect",
        {"host": "gpu-a01", "pid": 15110},
    ),
    ("[ 1234.567890] NVRM: Xid (PCI:0000:3b:00): 79", {"text": "NVRM: Xid (PCI:0000:3b:00): 79"}),
    ("Nov 21 10:00:00 node7 kernel: [123.456] NVRM: Xid", {"host": "node7", "text": "NVRM: Xid"}),
    ("Dec 01 00:39:37 2026-12-01 00:39:37,119 | INFO | up", {"host": None}),
    ("2025-04-18T14:35:22.411037Z ERROR dynamo_run: boo", {"level": "ERROR", "text": "dynamo_run: boo"}),
    ("[10/25/2025-11:22:33] [TRT-LLM] [E] Failed", {"level": "E", "text": "Failed"}),
    ("[VllmWorker:1] 2025-04-01 10:00:00 hello", {"process": "VllmWorker:1", "rank": None}),
    (
        "[pod/vllm-0/main] INFO 04-28 08:14:18 [x.py:1] hi",
        {"host": "vllm-0", "process": "main", "text": "hi"},
    ),
    (
        "Thu Nov  5 02:25:22 2020[2]<stderr>:OSError: no such dimension",
        {"rank": 2, "text": "OSError: no such dimension"},
    ),
    (
        "gpt-oss-0 vllm (Worker_TP1 pid=271) ERROR 10-09 12:20:44 [x.py:597] boo",
        {"host": "gpt-oss-0", "rank": 1, "text": "boo"},
    ),
    (
        "(worker8, rank=8, pid=8908, ip=10.42.3.242) FileNotFoundError: x",
        {"rank": 8, "pid": 8908, "host": "10.42.3.242", "text": "FileNotFoundError: x"},
    ),
    ("[rank 2] step 9 loss 1.2", {"rank": 2, "text": "step 9 loss 1.2"}),
    ("[Rank 2/8] step 9", {"rank": 2, "text": "step 9"}),
    ("(rank=2) step 9", {"rank": 2, "text": "step 9"}),
    ("rank 2: step 9", {"rank": 2, "text": "step 9"}),
    ("[rank 2]", {"rank": None}),
    ("rank 2 of the group is late", {"rank": None}),
    ("[prterun-node7-8812@1,3]<stderr>: boo", {"rank": 3, "text": "boo"}),
    ("[NeMo E 2024-05-01 10:00:00 exp_manager:12] boo", {"level": "E", "text": "boo"}),
    ("2025-04-01 10:00:00,123 - pkg.mod - ERROR - boo", {"level": "ERROR", "text": "boo"}),
    ("2025-04-01 10:00:00.123 | ERROR    | pkg.mod:run:12 - boo", {"level": "ERROR", "text": "boo"}),
    ("(raylet, ip=10.0.0.7) boo", {"host": "10.0.0.7", "process": "raylet", "text": "boo"}),
    (
        "torch.OutOfMemoryError: CUDA out of memory.",
        {"text": "torch.OutOfMemoryError: CUDA out of memory.", "rank": None},
    ),
]


@pytest.mark.parametrize(("line", "expected"), CASES)
def test_a_line_head_tells_who_wrote_it(line: str, expected: dict[str, object]) -> None:
    head = parse_head(clean(line))

    assert expected == {name: getattr(head, name) for name in expected}


def test_times_compare_within_a_log_whatever_their_form() -> None:
    first = parse_head("INFO 04-28 08:14:18 [x.py:1] a").time_s
    second = parse_head("[rank0]:[E428 08:14:19.5 y.cpp:3] b").time_s
    third = parse_head("2025-04-28 08:14:20,100 c").time_s

    assert first is not None
    assert second is not None
    assert third is not None
    assert first < second < third


@pytest.mark.parametrize(
    ("name", "rank"),
    [
        ("process1.log", 1),
        ("task-2.log", 2),
        ("data-process.log", None),
        ("logs/rank3.log", 3),
        ("job-r12.out", 12),
        ("stderr_rank_7.txt", 7),
        ("server.log", None),
    ],
)
def test_a_file_name_may_tell_the_rank(name: str, rank: int | None) -> None:
    assert rank == rank_of_file(name)
