"""How real logs mislead, trap by trap: a small log of our own for each, and what must (not) be said.

| trap | test below |
| --- | --- |
| the last error is an echo; rank-local resource errors are the root | LAST |
| print order is not failure order | ORDER |
| a final line names another cause than the broken module above it | LAST |
| a rendezvous timeout that a killed leader brought | LAST |
| the other side's echo | OTHER_SIDE |
| the same text, opposite causes (phase, errno, destination, rank differences) | PAIRS |
| the message names the wrong culprit | WRONG |
| walls of Xid 45 point back | WRONG |
| silence, repetition, INFO lines that decide | SILENT |
| loud and harmless | HARMLESS |
| shape: interleaved, `\r`, ANSI, boxes, one-line tracebacks, repeats, newest first, several runs | SHAPES |
| printed arguments contradict printed hardware | CONTRADICTIONS |

Forms in which whole logs are handed in have a file of their own: test_metamorphic.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from diag.diagnose.pipeline import explain

TRACE = 'Traceback (most recent call last):\n  File "/srv/train.py", line 8, in <module>\n'
OOM = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 3 has a total capacity of 79.15 GiB of which 1.02 GiB is free."
CHILD = (
    "E1120 12:00:09.100000 77 torch/distributed/elastic/multiprocessing/api.py:869] failed (exitcode: 1) local_rank: 3 (pid: 81) of binary: /usr/bin/python\n"
    + TRACE
    + "torch.distributed.elastic.multiprocessing.errors.ChildFailedError: \n"
)
SHM = "gpu-1:81:90 [3] misc/shmutils.cc:72 NCCL WARN Error: failed to extend /dev/shm/nccl-a1B2c3 to 9637892 bytes, error: No space left on device (28)\n"
SERVE = (
    "INFO 11-20 12:00:01 [api_server.py:1839] vLLM API server version 0.11.0\n"
    "INFO 11-20 12:00:05 [gpu_model_runner.py:2602] Starting to load model org/m...\n"
)
UP = "INFO 11-20 12:01:01 [core.py:218] init engine (profile, create kv cache, warmup model) took 20.1 seconds\nINFO:     Application startup complete.\n"
SERVED = 'INFO:     10.0.0.9:51000 - "POST /v1/completions HTTP/1.1" 200 OK\nINFO 11-20 12:02:01 [loggers.py:127] Engine 000: Avg prompt throughput: 9.1 tokens/s, Avg generation throughput: 40.2 tokens/s, Running: 1 reqs\n'
FRAME = 'ERROR 11-20 12:00:{0} [core.py:700] Traceback (most recent call last):\nERROR 11-20 12:00:{0} [core.py:700]   File "/opt/vllm/v1/worker/gpu_model_runner.py", line 9, in {1}\nERROR 11-20 12:00:{0} [core.py:700] {2}\n'

LAST = {
    "engine's last word": (SERVE + FRAME.format("20", "load_model", OOM) + "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}\n", "gpu-oom-weights"),
    "elastic's last word": ("[rank3]: " + TRACE.replace("\n", "\n[rank3]: ") + f"{OOM}\n" + CHILD, "gpu-oom-"),
    "leaked memory at exit": (SHM + "[rank3]: RuntimeError: NCCL error in: ProcessGroupNCCL.cpp:3356, unhandled system error\n/usr/lib/python3.11/multiprocessing/resource_tracker.py:254: UserWarning: resource_tracker: There appear to be 1 leaked shared_memory objects to clean up at shutdown\n", "shm-too-small"),
    "architecture named, module missing": (SERVE + TRACE + "ImportError: /opt/vllm/_C.abi3.so: undefined symbol: _ZN3c106detail14torchCheckFailEPKcS2_jS2_\nValueError: Model architectures ['LlamaForCausalLM'] failed to be inspected. Please check the logs for more details.\n", "abi-mismatch"),
    "rendezvous after a kill": ("Liveness probe failed: Get \"http://10.1.0.4:8000/health\": dial tcp 10.1.0.4:8000: connect: connection refused\nContainer main failed liveness probe, will be restarted\ntorch.distributed.DistStoreError: Timed out after 601 seconds waiting for clients. 1/2 clients joined.\n", "probe-killed"),
}  # fmt: skip
ORDER = (
    "[rank0]: " + TRACE.replace("\n", "\n[rank0]: ") + "torch.distributed.DistBackendError: NCCL error: remote process exited or there was a network error. Connection closed by peer\n",
    "[rank3]: " + TRACE.replace("\n", "\n[rank3]: ") + f"{OOM}\n",
)  # fmt: skip
PAIRS = {
    "out of memory while loading": (SERVE + FRAME.format("20", "load_model", OOM), "gpu-oom-weights"),
    "out of memory in graph capture": (SERVE + FRAME.format("40", "capture_model", OOM), "gpu-oom-cudagraph"),
    "no blocks left": (SERVE + FRAME.format("30", "_initialize_kv_caches", "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization` when initializing the engine."), "gpu-oom-kv-cache"),
    "errno 28 in /dev/shm": (SHM + "[rank3]: RuntimeError: NCCL error: unhandled system error\n", "shm-too-small"),
    "errno 28 in torch.save": (TRACE.replace("<module>", "save_checkpoint") + "OSError: [Errno 28] No space left on device: '/ckpt/step_100.pt'\n", "disk-full"),
    "memlock": ("gpu-1:81:90 [0] misc/ibvwrap.cc:252 NCCL WARN Call to ibv_reg_mr failed with error Cannot allocate memory\n[rank0]: RuntimeError: NCCL error: unhandled system error\n", "ulimit-memlock"),
    "host memory at fork": (TRACE.replace("<module>", "_popen") + "  File \"/usr/lib/python3.11/multiprocessing/popen_fork.py\", line 66, in _launch\nOSError: [Errno 12] Cannot allocate memory\n", "fork-enomem"),
    "refused at docker's address": ("[rank1]: RuntimeError: [/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:144] connect [172.17.0.1]:43211: Connection refused\n", "nccl-wrong-interface"),
}  # fmt: skip
WRONG = {
    "killed by the cgroup": ("Memory cgroup out of memory: Killed process 812 (python) total-vm:9000kB, anon-rss:8000kB\n" + CHILD.replace("exitcode: 1", "exitcode: -9"), "host-oom-killed"),
    "repo id for a directory": (TRACE + "huggingface_hub.errors.HFValidationError: Repo id must be in the form 'repo_name' or 'namespace/repo_name': '/models/llama'. Use `repo_type` argument if needed.\n", "model-path-missing"),
    "a wall of Xid 45": ("[  10.100000] NVRM: Xid (PCI:0000:3b:00): 79, pid=1, name=python, GPU has fallen off the bus.\n" + "".join(f"[  1{n}.200000] NVRM: Xid (PCI:0000:{n}b:00): 45, pid=81{n}, name=python, Ch 00000008\n" for n in range(1, 8)), "gpu-xid-hardware"),
}  # fmt: skip
HARMLESS = {
    "no block found while compiling": "INFO 11-20 12:00:50 [shm_broadcast.py:466] No available shared memory broadcast block found in 60 seconds. This typically happens when some processes are hanging or doing some time-consuming work (e.g. compilation)\n",
    "default MoE config": "WARNING 11-20 12:00:33 [fused_moe.py:882] Using default MoE config. Performance might be sub-optimal! Config file not found at /opt/x.json\n",
    "client's 404": 'ERROR 11-20 12:00:59 [serving_models.py:131] Error with model object=\'error\' message=\'The model `x` does not exist.\' type=\'NotFoundError\'\n',
    "memlock in a run that completes": "[1744970122.411037] [gpu-1:812:0] ib_log.c:246 UCX  ERROR mlx5_0: ibv_create_cq() failed: Cannot allocate memory. Please set max locked memory (ulimit -l) to 'unlimited'\n",
    "mlx5dv at INFO": "gpu-1:81:90 [0] NCCL INFO dlvsym failed on mlx5dv_get_data_direct_sysfs_path - /lib/libmlx5.so.1: undefined symbol: mlx5dv_get_data_direct_sysfs_path, version MLX5_1.25\n",
    "threads' banner": "Setting OMP_NUM_THREADS environment variable for each process to be 1 in default\n",
    "memory policy": "set_mempolicy: Operation not permitted\n",
    "a deprecation": "/opt/x.py:3: FutureWarning: `torch.cuda.amp.autocast(args...)` is deprecated.\n",
    "Ray's disk": "(raylet) file_system_monitor.cc:116: /tmp/ray/session is over 95% full, available space: 60.1 GB; capacity: 1800 GB. Object creation will fail if spilling is required.\n",
    "a barrier that might hang": "[rank0]:[W1120 12:00:10.1 ProcessGroupNCCL.cpp:5023] [PG ID 0 PG GUID 0 Rank 0]  using GPU 0 as device used by this process is currently unknown. This can potentially cause a hang if this rank to GPU mapping is incorrect.\n",
    "a retry that succeeds": "WARNING: connection to 10.0.0.7:6379 failed: Connection refused, retrying in 1 s\nSuccessfully connected to 10.0.0.7:6379\n",
    "fabric manager without NVSwitch": "nvidia-fabricmanager.service: Failed with result 'exit-code'. NV_WARN_NOTHING_TO_DO: request to query NVSwitch device information from NVSwitch driver failed\n",
}  # fmt: skip
SHAPES = {
    "a bar glued to the error": SERVE + "Loading safetensors checkpoint shards:  50% | 1/2\r" + "ERROR 11-20 12:00:20 [core.py:700] OSError: [Errno 28] No space left on device: '/models/x'\n" + CHILD,
    "colours": "\x1b[31mOSError: [Errno 28] No space left on device: '/models/x'\x1b[0m\n" + CHILD,
    "two prefixes": "[rank0]: [rank1]: OSError: [Errno 28] No space left on device: '/models/x'\n" + CHILD,
    "a box": "│ /srv/train.py:8 in <module> │\n╰────╯\nOSError: [Errno 28] No space left on device: '/models/x'\n" + CHILD,
    "one line": "ERROR:root:" + repr(TRACE + "OSError: [Errno 28] No space left on device: '/models/x'").strip("'\"") + "\n" + CHILD,
    "repeats": "(Worker pid=81, ip=10.0.0.7) OSError: [Errno 28] No space left on device: '/models/x' [repeated 7x across cluster]\n" + CHILD,
}  # fmt: skip


def first(tmp_path: Path, *texts: str) -> str | None:
    for number, text in enumerate(texts):
        (tmp_path / f"rank{number}.log").write_text(text)
    found = explain([str(tmp_path)]).diagnoses
    return found[0].id if found else None


@pytest.mark.parametrize("name", sorted(LAST))
def test_the_last_error_is_not_the_cause(tmp_path: Path, name: str) -> None:
    text, cause = LAST[name]

    assert (first(tmp_path, text) or "").startswith(cause)


def test_print_order_is_not_failure_order(tmp_path: Path) -> None:
    assert (first(tmp_path, "".join(ORDER)) or "").startswith("gpu-oom-")


def test_the_other_sides_echo_is_none_where_both_are_read(tmp_path: Path) -> None:
    assert (first(tmp_path, *ORDER) or "").startswith("gpu-oom-")


@pytest.mark.parametrize("name", sorted(PAIRS))
def test_the_same_text_has_opposite_causes(tmp_path: Path, name: str) -> None:
    text, cause = PAIRS[name]

    assert cause == first(tmp_path, text)


@pytest.mark.parametrize("name", sorted(WRONG))
def test_the_message_names_the_wrong_culprit(tmp_path: Path, name: str) -> None:
    text, cause = WRONG[name]

    assert cause == first(tmp_path, text)


@pytest.mark.parametrize("name", sorted(HARMLESS))
def test_loud_and_harmless(tmp_path: Path, name: str) -> None:
    (tmp_path / "serve.log").write_text(SERVE + HARMLESS[name] + UP + SERVED * 5)

    report = explain([str(tmp_path)])

    assert 0 == report.exit_code, [one.id for one in report.diagnoses]
    assert not [one for one in report.diagnoses if one.severity != "note"]


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_shapes(tmp_path: Path, name: str) -> None:
    assert "disk-full" == first(tmp_path, SHAPES[name])


def test_newest_first(tmp_path: Path) -> None:
    lines = (
        SERVE
        + "ERROR 11-20 12:00:20 [core.py:700] OSError: [Errno 28] No space left on device: '/models/x'\n"
    ).splitlines()
    lines.append("ERROR 11-20 12:00:21 [core.py:700] EngineCore failed to start.")
    later = [f"INFO 11-20 12:00:{number} [launcher.py:1] stopping" for number in range(22, 30)]

    assert "disk-full" == first(tmp_path, "\n".join([*lines, *later][::-1]) + "\n")


def test_of_several_runs_the_last_that_failed_is_judged(tmp_path: Path) -> None:
    fine = SERVE + UP + SERVED + "INFO:     Shutting down\n"

    assert "gpu-oom-weights" == first(tmp_path, fine + SERVE + FRAME.format("20", "load_model", OOM))


def test_a_failed_run_before_a_good_one_is_no_failure(tmp_path: Path) -> None:
    (tmp_path / "serve.log").write_text(
        SERVE + FRAME.format("20", "load_model", OOM) + "RuntimeError: Engine core initialization failed.\n"
        + SERVE.replace("12:00", "13:00") + UP.replace("12:0", "13:0") + SERVED * 5
    )  # fmt: skip

    assert 0 == explain([str(tmp_path)]).exit_code


def test_silence_and_repetition_are_evidence(tmp_path: Path) -> None:
    """A capture that began and never ended, beside waiting that repeats; nothing calls itself an error."""
    capture = "(Worker_TP1 pid=90) INFO 11-20 12:00:40 [gpu_model_runner.py:3012] Capturing CUDA graph shapes:   0%|          | 0/67\n"
    waits = "".join(
        f"(EngineCore pid=80) INFO 11-20 12:{minute:02d}:00 [shm_broadcast.py:466] No available shared memory broadcast block found in 60 seconds.\n"
        for minute in range(2, 20)
    )

    assert "cudagraph-capture-hang" == first(tmp_path, SERVE + capture + waits)


def test_an_interface_at_info_decides(tmp_path: Path) -> None:
    nodes = [
        f"gpu-{n}:81:81 [0] NCCL INFO Bootstrap : Using lo:127.0.0.1<0>\ngpu-{n}:81:81 [0] NCCL INFO comm 0x1 rank {n} nranks 2 cudaDev 0 - Init START\n"
        f"[rank{n}]: torch.distributed.DistBackendError: NCCL error: Connection refused, socketProgressOpt: Call to connect 127.0.0.1<4000{n}> failed\n"
        for n in (0, 1)
    ]

    assert first(tmp_path, *nodes) in ("nccl-wrong-interface", "host-ip-wrong")


def test_arguments_that_contradict_the_hardware_are_the_diagnosis(tmp_path: Path) -> None:
    text = (
        "GPU 0: NVIDIA A100-SXM4-80GB (UUID: GPU-1)\nGPU 1: NVIDIA A100-SXM4-80GB (UUID: GPU-2)\n"
        "INFO 11-20 12:00:01 [api_server.py:1839] vLLM API server version 0.11.0\n"
        "INFO 11-20 12:00:01 [utils.py:233] non-default args: {'model': 'org/m', 'tensor_parallel_size': 8}\n"
        "RuntimeError: CUDA error: invalid device ordinal\n"
    )

    assert "gpu-count-exceeded" == first(tmp_path, text)
