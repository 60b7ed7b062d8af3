"""Processes of a launch are recognised by what they run, and nobody else is taken for one."""

from __future__ import annotations

from pathlib import Path

import pytest

from diag.system import Root
from diag.system.jobs import entry_point, find_job, find_patient_python, rank_of, recognise, spans_nodes
from diag.system.kernel_log import parse_kernel_log
from diag.system.processes import (
    list_processes,
    read_environment,
    read_limits,
    read_tcp_sockets,
    split_command_line,
    within,
)

TREE = Root(str(Path(__file__).parents[2] / "fixtures" / "trees" / "pod-cgroup2"))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("/venv/bin/python3 /venv/bin/torchrun --nproc-per-node 8 train.py", ("torchrun", "launcher")),
        ("python -u -m torch.distributed.run train.py", ("torchrun", "launcher")),
        ("python -X dev -W ignore -m torch.distributed.launch t.py", ("torchrun", "launcher")),
        (
            "/venv/bin/python /venv/bin/vllm serve meta-llama/Llama --tensor-parallel-size 8",
            ("vllm", "server"),
        ),
        ("python3 -m vllm.entrypoints.openai.api_server --model x", ("vllm", "server")),
        ("VLLM::EngineCore", ("vllm", "engine")),
        ("VLLM::EngineCore_DP1", ("vllm", "engine")),
        ("VLLM::Worker_TP3", ("vllm", "worker")),
        ("VLLM::APIServer_0", ("vllm", "server")),
        ("python3 -m sglang.launch_server --model-path x --tp 16", ("sglang", "server")),
        ("sglang::scheduler_TP3", ("sglang", "worker")),
        ("sglang::detokenizer", ("sglang", "server")),
        ("python3 -m dynamo.vllm --model x --is-prefill-worker", ("dynamo", "worker")),
        ("python3 -m dynamo.frontend", ("dynamo", "frontend")),
        ("python /venv/bin/dynamo serve graphs.disagg:Frontend -f disagg.yaml", ("dynamo", "launcher")),
        ("trtllm-serve deepseek --tp_size 8", ("trtllm", "server")),
        ("/ray/core/src/ray/raylet/raylet --raylet_socket_name=x", ("ray", "control")),
        ("ray::RayWorkerWrapper.execute_method", ("ray", "worker")),
        ("ray::IDLE", ("ray", "idle")),
        ("ray::DashboardAgent", ("ray", "control")),
        ("/usr/bin/python -u /venv/ray/_private/workers/default_worker.py --node-ip", ("ray", "idle")),
        ("/venv/bin/python /venv/bin/deepspeed --num_gpus 8 train.py", ("deepspeed", "launcher")),
        ("python /venv/bin/accelerate launch train.py", ("accelerate", "launcher")),
        ("mpirun -np 16 python train.py", ("mpi", "launcher")),
        ("nats-server -js", ("dynamo", "control")),
        ("vim torchrun.py", None),
        ("tail -f vllm.log", None),
        ("bash -c torchrun train.py", None),
        ("grep -r vllm serve", None),
        ("python3 -c import vllm", None),
        ("python3 train.py", None),
        ("/venv/bin/python /venv/bin/accelerate config", None),
        ("python -m pytest tests/vllm", None),
        ("", None),
    ],
)
def test_command_lines_are_recognised(line: str, expected: tuple[str, str] | None) -> None:
    assert recognise(tuple(line.split(" ")) if line else ()) == expected


def test_a_renamed_process_has_one_padded_argument() -> None:
    assert split_command_line("VLLM::Worker_TP0\0\0\0\0") == ("VLLM::Worker_TP0",)
    assert split_command_line("a\0b c\0") == ("a", "b c")
    assert split_command_line("") == ()


def test_entry_points_skip_options() -> None:
    assert entry_point(("python3.12", "-u", "-Xfrozen_modules=off", "train.py", "-m", "x")) == "train.py"
    assert entry_point(("python", "-m", "dynamo.vllm")) == "dynamo.vllm"
    assert entry_point(("raylet",)) == "raylet"


def test_the_recorded_pod_has_a_server_and_a_worker_and_no_editor() -> None:
    job = find_job(TREE)

    assert [(member.label, member.role, member.rank) for member in job] == [
        ("vllm.entrypoints.openai.api_server (pid 70)", "server", None),
        ("rank 3: VLLM::Worker_TP3 (pid 71)", "worker", 3),
    ]
    assert [member.launch for member in job] == [70, 70]
    assert job[0].process.start_s == 1760000050.0


def test_a_job_of_several_nodes_is_known_by_its_variables() -> None:
    assert spans_nodes({"WORLD_SIZE": "16", "LOCAL_WORLD_SIZE": "8"})
    assert spans_nodes({"SLURM_NNODES": "2"})
    assert not spans_nodes({"WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "8"})
    assert not spans_nodes({"WORLD_SIZE": "8"})
    assert rank_of({"OMPI_COMM_WORLD_RANK": "3"}) == 3
    assert rank_of({"RANK": "none"}) is None


def test_files_of_proc_are_parsed() -> None:
    assert read_limits(TREE, 70) is not None
    assert (read_limits(TREE, 70) or {})["Max locked memory"] == (65536, 65536)
    assert (read_limits(TREE, 70) or {})["Max stack size"] == (8388608, None)
    assert (read_environment(TREE, 71) or {})["RANK"] == "3"
    assert read_environment(TREE, 4242) is None
    assert [process.pid for process in list_processes(TREE)] == [70, 71, 72, 73]
    (call,) = read_tcp_sockets(TREE, 71)
    assert (call.state, call.local, call.local_port, call.remote, call.remote_port) == (
        "SYN_SENT", "10.0.0.5", 50000, "10.0.0.1", 29500,
    )  # fmt: skip


def test_kernel_lines_lose_their_heads_and_continuations() -> None:
    lines = parse_kernel_log(
        "4,2,1990000000,-;Out of memory\n SUBSYSTEM=pci\n6,3,2000000000,c,caller=T1;next\n"
    )

    assert [(line.since_boot_s, line.text) for line in lines] == [(1990.0, "Out of memory"), (2000.0, "next")]


def test_a_look_that_never_ends_is_left_behind_and_one_that_fails_raises() -> None:
    import threading

    assert within(0.1, lambda: threading.Event().wait(3)) == (False, None)
    assert within(1.0, lambda: 42) == (True, 42)
    with pytest.raises(ZeroDivisionError):
        within(1.0, lambda: 1 // 0)


def test_the_patient_s_interpreter_is_the_one_given_or_the_active_one(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    python = tmp_path / "bin" / "python"
    python.write_text("#!/bin/sh\n")
    python.chmod(0o755)

    assert find_patient_python(TREE, {}, "/x/python") == ("/x/python", "given with --python")
    assert find_patient_python(Root(str(tmp_path)), {"VIRTUAL_ENV": str(tmp_path)}, None)[0] == str(python)
    assert find_patient_python(Root(str(tmp_path)), {"PATH": str(tmp_path)}, None)[0] is None
