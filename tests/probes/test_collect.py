"""Collecting reads what recorded machines show, and what this one really shows."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from diag.observe.probes import (
    env_variables,
    host_container,
    host_cpu,
    host_disk,
    host_limits,
    host_memory,
    host_shm,
    net_hostname,
    net_interfaces,
    net_rdma,
    process_gpu_users,
    process_launch,
    process_leftovers,
    software_versions,
)
from diag.observe.probes.interface import Setup
from diag.system import Root

TREES = Path(__file__).parents[2] / "fixtures" / "trees"
POD = Setup(
    root=Root(str(TREES / "pod-cgroup2")), env={"KUBERNETES_SERVICE_HOST": "10.96.0.1", "HOME": "/root"}
)
HGX = Setup(root=Root(str(TREES / "hgx-cgroup1")))


def test_memory_reads_limits_without_page_cache_and_the_victim_of_the_log() -> None:
    facts = host_memory.collect(POD)

    assert facts["cgroups"][0]["limit_bytes"] == 64 << 30
    assert facts["cgroups"][0]["used_bytes"] == 7_000_000_000
    assert facts["cgroups"][0]["oom_kills"] == 2
    assert facts["victims"][0] | {"during_launch": None} == {
        "pid": 4712, "name": "VLLM::Worker_TP", "age_s": 10, "during_launch": None, "cgroup_limit": True,
    }  # fmt: skip


def test_kills_count_as_the_launch_s_own_only_after_its_start() -> None:
    before, after = time.time() - 600, time.time() + 600
    looks = [
        host_memory.collect(Setup(root=POD.root, launch_since_s=since))["victims"][0]
        for since in (before, after)
    ]

    assert [look["during_launch"] for look in looks] == [True, False]


def test_memory_of_cgroup_1_takes_the_limit_of_the_group_above() -> None:
    (group,) = host_memory.collect(HGX)["cgroups"]

    assert group["path"] == "/sys/fs/cgroup/memory/slurm"
    assert (group["limit_bytes"], group["used_bytes"]) == (1 << 40, 400_000_000_000)


def test_cpu_reads_quota_throttling_masks_and_nodes() -> None:
    facts = host_cpu.collect(POD)

    assert (
        facts["quota_cores"],
        facts["throttled_share"],
        facts["cores_allowed"],
        facts["cores_online"],
    ) == (4.0, 0.3, 16, 224)
    assert [node["cores"] for node in facts["numa_nodes"]] == [112, 112]
    assert {"who": "rank 3: VLLM::Worker_TP3 (pid 71)", "cores": [3]} in facts["ranks"]
    assert host_cpu.collect(HGX)["quota_cores"] is None


def test_limits_of_a_rank_come_from_its_own_process() -> None:
    facts = host_limits.collect(POD)

    assert {one["who"] for one in facts["processes"]} == {
        "vllm.entrypoints.openai.api_server (pid 70)",
        "rank 3: VLLM::Worker_TP3 (pid 71)",
    }
    assert facts["processes"][1]["limits"]["memlock"] == [65536, 65536]
    assert facts["processes"][1]["open_files"] == 2


def test_container_is_told_from_its_traces() -> None:
    pod, host = host_container.collect(POD), host_container.collect(HGX)

    assert pod["runtimes"] == ["kubernetes"]
    assert pod["overlay_root"]
    assert pod["capabilities"]["IPC_LOCK"] is False
    assert (pod["gpu_nodes"], pod["control_nodes"]) == (["nvidia0"], ["nvidiactl", "nvidia-uvm"])
    assert host["runtimes"] == []
    assert host["verbs_nodes"] == ["uverbs0"]


def test_rdma_ports_are_read_from_sysfs() -> None:
    first, second = net_rdma.collect(HGX)["hcas"]

    assert first["ports"][0]["state"] == "ACTIVE"
    assert first["ports"][0]["rate_gbps"] == 400.0
    assert [gid["index"] for gid in first["ports"][0]["gids"]] == [0]
    assert second["ports"][0]["state"] == "INIT"
    assert first["ports"][0]["counters"] == {"link_downed": 2, "symbol_error": 0}


def test_variables_come_from_every_source_without_secrets() -> None:
    facts = env_variables.collect(POD)
    sources = {source["who"]: source["variables"] for source in facts["sources"]}

    assert sources["/etc/nccl.conf"] == {"NCCL_IB_DISABLE": "1", "NCCL_SOCKET_IFNAM ": " eth0"}
    assert sources["vllm.entrypoints.openai.api_server (pid 70)"] == {"VLLM_HOST_IP": "10.0.0.5"}
    assert sources["rank 3: VLLM::Worker_TP3 (pid 71)"]["NCCL_SOCKET_IFNAME"] == "eth9"
    assert "hf_secret" not in str(facts)


def test_a_rank_s_own_configuration_file_is_read(tmp_path: Path) -> None:
    conf, script = tmp_path / "site.conf", tmp_path / "train.py"
    conf.write_text("NCCL_P2P_DISABLE=1\n")
    script.write_text("print('there', flush=True)\nimport time\ntime.sleep(60)\n")
    env = {
        **os.environ,
        "RANK": "0",
        "WORLD_SIZE": "1",
        "NCCL_CONF_FILE": str(conf),
        "NCCL_TOPO_FILE": "/no/such.xml",
    }
    with subprocess.Popen([sys.executable, str(script)], env=env, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            facts = env_variables.collect(Setup())
        finally:
            process.kill()
    sources = {source["who"]: source["variables"] for source in facts["sources"]}

    assert sources[str(conf)] == {"NCCL_P2P_DISABLE": "1"}
    assert "/no/such.xml" in facts["missing_files"]


def test_the_name_table_knows_the_documented_names() -> None:
    names = env_variables.known_names()["names"]

    assert len(names) > 300
    assert {
        "NCCL_SOCKET_IFNAME",
        "NCCL_IB_HCA",
        "NCCL_DEBUG",
        "NCCL_DEBUG_FILE",
        "NCCL_P2P_LEVEL",
        "NCCL_RAS_ADDR",
    } <= set(names)
    assert "NCCL_TIMEOUT" not in names


def test_two_libnccl_in_one_rank_are_seen_with_their_versions() -> None:
    processes = software_versions.collect(Setup(root=POD.root, python=sys.executable))["processes"]
    worker = next(one for one in processes if "Worker_TP3" in one["who"])

    assert [one["version"] for one in worker["nccl"]] == ["2.27.3", "2.21.5"]
    assert "/usr/lib/libcuda.so.550.90.07" in worker["libraries"]


def test_packages_come_from_the_interpreter_that_was_given(tmp_path: Path) -> None:
    """A package on that interpreter's path is found, torch/version.py is read, and nothing of it is imported."""
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise SystemExit('torch was imported')\n")
    (tmp_path / "torch" / "version.py").write_text("__version__ = '2.8.0+cu128'\ncuda: str = '12.8'\n")
    (tmp_path / "torch-2.8.0.dist-info").mkdir()
    (tmp_path / "torch-2.8.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: torch\nVersion: 2.8.0\nRequires-Dist: nvidia-nccl-cu12==2.27.3\n"
    )
    facts = software_versions.collect(
        Setup(env={"PYTHONPATH": str(tmp_path), "PATH": "/bin"}, python=sys.executable)
    )

    assert facts["answer"]["packages"]["torch"] == "2.8.0"
    assert facts["answer"]["torch"] == {"__version__": "2.8.0+cu128", "cuda": "12.8"}
    assert facts["answer"]["torch_wants"] == ["nvidia-nccl-cu12==2.27.3"]


@pytest.mark.parametrize(
    ("script", "problem"), [("exec sleep 3600", "timeout"), ("echo nonsense; exit 3", "crashed")]
)
def test_an_interpreter_that_is_none_is_reported(
    tmp_path: Path, script: str, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(software_versions, "ASK_S", 0.5)
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    facts = software_versions.collect(Setup(python=str(python)))

    assert facts["problem"] == problem
    assert software_versions.judge(facts)[0].status.value == "unknown"


def test_left_overs_tell_used_files_from_abandoned_ones() -> None:
    facts = process_leftovers.collect(POD)

    assert {one["name"]: one["in_use"] for one in facts["shm"]} == {"nccl-dead": False, "psm_live": True}
    assert facts["zombies"] == [{"pid": 73, "name": "python3", "parent": 70}]


def test_a_listener_on_the_master_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        facts = process_leftovers.collect(Setup(env={"MASTER_PORT": str(port)}))

    (entry,) = [one for one in facts["ports"] if one["port"] == port]
    assert entry["pid"] == os.getpid()


def test_launch_sees_the_stuck_rank_and_whom_it_calls() -> None:
    processes = {one["pid"]: one for one in process_launch.collect(POD)["processes"]}

    assert set(processes) == {70, 71}
    assert processes[71]["rank"] == 3
    assert processes[71]["stuck_threads"] == [{"thread": "71", "waits_in": "rpc_wait_bit_killable"}]
    assert processes[71]["connecting"] == [{"to": "10.0.0.1:29500", "retransmits": 5}]


def test_a_connection_attempt_that_nobody_answers_is_seen(tmp_path: Path) -> None:
    """A full backlog drops SYNs as a firewall does."""
    script = tmp_path / "train.py"
    script.write_text(
        "import socket, sys, time\ns = socket.socket()\ns.setblocking(False)\n"
        "s.connect_ex(('127.0.0.1', int(sys.argv[1])))\nprint('calling', flush=True)\ntime.sleep(60)\n"
    )
    env = {**os.environ, "RANK": "1", "WORLD_SIZE": "2"}
    with socket.socket() as server, contextlib.ExitStack() as stack:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        port = server.getsockname()[1]
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        argv = [sys.executable, str(script), str(port)]
        with subprocess.Popen(argv, env=env, stdout=subprocess.PIPE) as process:
            try:
                assert process.stdout is not None
                process.stdout.readline()
                facts = process_launch.collect(Setup())
            finally:
                process.kill()
    (entry,) = [one for one in facts["processes"] if one["pid"] == process.pid]

    assert [call["to"] for call in entry["connecting"]] == [f"127.0.0.1:{port}"]


def test_gpu_users_are_those_with_a_gpu_open() -> None:
    facts = process_gpu_users.collect(POD)

    assert facts["gpus"] == ["nvidia0"]
    assert facts["users"] == ["rank 3: VLLM::Worker_TP3 (pid 71)"]


def test_shm_and_disk_and_names_of_this_machine_are_real() -> None:
    shm, disk = (
        host_shm.collect(Setup()),
        host_disk.collect(Setup(env={"HOME": "/nonexistent", "PWD": "/tmp"})),
    )
    name = net_hostname.collect(Setup())

    assert shm["size_bytes"] == os.statvfs("/dev/shm").f_blocks * os.statvfs("/dev/shm").f_frsize
    assert all(one["answered"] for one in disk["paths"])
    assert name["hostname"] == socket.gethostname()
    assert "127.0.0.1" in name["addresses"]


def test_interfaces_of_this_machine_have_lo_with_its_address() -> None:
    facts = net_interfaces.collect(Setup(env={"NCCL_SOCKET_IFNAME": "lo", "NNODES": "2"}))
    lo = next(one for one in facts["interfaces"] if one["name"] == "lo")

    assert lo["kind"] == "loopback"
    assert {"family": "ipv4", "address": "127.0.0.1"} in lo["addresses"]
    assert facts["settings"][0] == {
        "who": "this shell", "variables": {"NCCL_SOCKET_IFNAME": "lo"}, "many_nodes": True,
    }  # fmt: skip


def test_a_name_server_that_does_not_answer_is_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(net_hostname, "DNS_S", 0.2)
    begin = time.monotonic()
    answer = net_hostname._ask("127.0.0.1")

    assert not answer["answered"]
    assert time.monotonic() - begin < 1.0


@pytest.fixture
def dead_mount(tmp_path: Path) -> Iterator[Path]:
    """A FUSE file system whose server never answers: what a dead NFS server looks like to a process."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    target = tmp_path / "dead"
    target.mkdir()
    try:
        device = os.open("/dev/fuse", os.O_RDWR)
    except OSError:
        pytest.skip("needs /dev/fuse")
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0".encode()
    if libc.mount(b"dead", str(target).encode(), b"fuse", 0, options) != 0:
        os.close(device)
        pytest.skip("needs the right to mount")
    yield target
    os.close(device)  # ends every call that waits for the server
    libc.umount2(str(target).encode(), 2)


def test_a_path_that_never_answers_does_not_hold_the_others(dead_mount: Path) -> None:
    begin = time.monotonic()
    facts = host_disk.collect(
        Setup(env={"HF_HOME": str(dead_mount / "hub"), "PWD": str(dead_mount), "HOME": "/"})
    )
    answered: dict[str, Any] = {one["path"]: one["answered"] for one in facts["paths"]}
    findings = host_disk.judge(facts)

    assert time.monotonic() - begin < 5.0
    assert answered["/"]
    assert not answered[str(dead_mount)]
    assert [one.reason.value for one in findings if one.reason] == ["timeout"]
    assert "gave no answer" in next(one.summary for one in findings if one.reason)


def test_a_configuration_file_that_never_answers_costs_only_its_probe(tmp_path: Path) -> None:
    """~/.nccl.conf as a FIFO: opening it blocks for ever."""
    from diag.observe.probes.runner import run_probes

    os.mkfifo(tmp_path / ".nccl.conf")
    run = run_probes(Setup(env={"HOME": str(tmp_path)}), only=["env.variables", "host.shm"])
    statuses = {one.probe: one.status.value for one in run.findings if one.duration_s is not None}

    assert statuses["env.variables"] in ("unknown", "ok")
    assert statuses["host.shm"] != "unknown"


def test_a_stopped_python_process_shows_its_stack_and_that_it_is_stopped(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(
        "import time\n\ndef all_reduce_stand_in():\n    time.sleep(600)\n\nall_reduce_stand_in()\n"
    )
    env = {**os.environ, "RANK": "5", "WORLD_SIZE": "8"}
    with subprocess.Popen([sys.executable, str(script)], env=env) as process:
        try:
            _wait_for(lambda: Path(f"/proc/{process.pid}/wchan").read_text() not in ("", "0"))
            process.send_signal(19)  # SIGSTOP
            _wait_for(lambda: ") T " in Path(f"/proc/{process.pid}/stat").read_text())
            facts = process_launch.collect(Setup())
        finally:
            process.kill()
    (entry,) = [one for one in facts["processes"] if one["pid"] == process.pid]
    findings = process_launch.judge({**facts, "processes": [entry]})

    assert entry["rank"] == 5
    assert entry["state"] == "T"
    if entry["stacks"]["reason"] == "permission":
        pytest.skip("no right to ptrace here")
    assert "all_reduce_stand_in" in str(entry["stacks"]["threads"])
    assert any(one.status.value == "fail" and "is stopped" in one.summary for one in findings)


def _wait_for(condition: Any) -> None:
    waiter = threading.Event()
    for _ in range(100):
        if condition():
            return
        waiter.wait(0.05)
    raise AssertionError("never came true")


def test_a_process_whose_threads_each_have_a_core_is_not_short_of_cores(tmp_path: Path) -> None:
    for place, cores in (("status", "0"), ("task/5/status", "0"), ("task/6/status", "1")):
        file = tmp_path / "proc" / "5" / place
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"Cpus_allowed_list:\t{cores}\n")

    assert host_cpu._cores_of(Root(str(tmp_path)), 5) == [0, 1]
