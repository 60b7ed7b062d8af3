"""gpu.memory: free, held, and by whom, with processes of a recorded tree."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from diag.model import Reason, Status

Look = Callable[..., Any]

BOOT = {"/proc/stat": "cpu 1 2 3\nbtime 1000000\n"}
HOST = {"/proc/self/ns/pid": "pid:[4026531836]"}
CONTAINER = {"/proc/self/ns/pid": "pid:[4026532999]"}


def process(
    pid: int, *, command: str, uid: int = 0, parent: int = 500, state: str = "S", started_s: int = 100
) -> dict[str, str]:
    """The files of one process that started `started_s` seconds after boot."""
    fields = [state, str(parent), "1", "1", *["0"] * 15, str(started_s * 100), *["0"] * 30]
    return {
        f"/proc/{pid}/stat": f"{pid} (python3) {' '.join(fields)}\n",
        f"/proc/{pid}/status": f"Name:\tpython3\nState:\t{state} (x)\nPPid:\t{parent}\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\n",
        f"/proc/{pid}/cmdline": command.replace(" ", "\0"),
    }


def test_free_gpus_are_fine_whatever_the_context_of_a_display_takes(
    look: Look, tree: Callable[..., str]
) -> None:
    seen = look("gpu.memory", "machine=2xH200;memory_used_mib=600", root=tree(BOOT, HOST))

    assert seen.statuses() == {Status.OK}
    gpu = seen.facts["gpus"][0]
    assert gpu["total_bytes"] - gpu["reserved_bytes"] - gpu["used_bytes"] == gpu["free_bytes"]


def test_memory_of_a_process_that_no_longer_exists_fails(look: Look, tree: Callable[..., str]) -> None:
    seen = look(
        "gpu.memory",
        "machine=2xA100-40;gpu1.memory_used_mib=30000;gpu1.process=4711:29990",
        root=tree(BOOT, HOST),
    )

    assert seen.one("GPU 0").status is Status.OK
    assert (seen.one("GPU 1").status, seen.one("GPU 1").data["cause"]) == (Status.FAIL, "gpu-memory-in-use")
    assert "pid 4711, which no longer exists" in seen.one("GPU 1").summary


def test_memory_that_no_process_owns_fails(look: Look, tree: Callable[..., str]) -> None:
    seen = look("gpu.memory", "machine=1xA100-40;memory_used_mib=30000", root=tree(BOOT, HOST))

    assert seen.one("GPU 0").status is Status.FAIL
    assert "no living process" in seen.one("GPU 0").summary


def test_a_zombie_is_told_as_such(look: Look, tree: Callable[..., str]) -> None:
    root = tree({**BOOT, **process(77, command="", state="Z")}, HOST)
    seen = look("gpu.memory", "machine=1xA100-40;memory_used_mib=30000;process=77:29900", root=root)

    assert "nobody has reaped" in seen.one("GPU 0").summary
    assert seen.one("GPU 0").data["holders"][0]["who"] == "zombie"


def test_the_running_launch_itself_is_no_finding_and_an_older_one_is(
    look: Look, tree: Callable[..., str]
) -> None:
    root = tree(
        {**BOOT, **process(88, command="python3 -m vllm.entrypoints.openai.api_server", started_s=5000)}, HOST
    )
    machine = "machine=1xA100-40;memory_used_mib=30000;process=88:29900"

    own = look("gpu.memory", machine, root=root, since_s=1004990.0).one("GPU 0")
    earlier = look("gpu.memory", machine, root=root, since_s=1009000.0).one("GPU 0")
    undated = look("gpu.memory", machine, root=root).one("GPU 0")

    assert own.status is Status.OK
    assert (earlier.status, earlier.data["cause"]) == (Status.FAIL, "gpu-memory-in-use")
    assert "older than this launch" in earlier.summary
    assert undated.status is Status.WARN
    assert "cause" not in undated.data


def test_a_process_whose_launcher_is_gone_is_suspect_but_may_be_a_service(
    look: Look, tree: Callable[..., str]
) -> None:
    root = tree({**BOOT, **process(88, command="ray::RayWorkerWrapper", parent=1)}, HOST)
    seen = look("gpu.memory", "machine=1xA100-40;memory_used_mib=30000;process=88:29900", root=root)

    assert (seen.one("GPU 0").status, seen.one("GPU 0").data["cause"]) == (Status.WARN, "gpu-memory-in-use")


def test_in_a_container_unnamed_memory_is_ours_only_if_a_process_here_runs_cuda(
    look: Look, tree: Callable[..., str]
) -> None:
    machine = "machine=1xA100-40;memory_used_mib=30000"
    alone = look("gpu.memory", machine, root=tree(BOOT, CONTAINER)).one("GPU 0")
    links = {"/proc/12/fd/3": "/dev/nvidia0", "/proc/12/fd/4": "/dev/nvidia-uvm"}
    ours = look("gpu.memory", machine, root=tree({}, links)).one("GPU 0")

    assert (alone.status, alone.data["cause"]) == (Status.FAIL, "gpu-memory-in-use")
    assert ours.status is Status.WARN
    assert "own pid 12" in ours.summary


def test_a_gpu_without_memory_figures_is_unknown_not_fine(look: Look, tree: Callable[..., str]) -> None:
    machine = "machine=1xA100-40;fail.nvmlDeviceGetMemoryInfo=3;fail.nvmlDeviceGetMemoryInfo_v2=3"
    seen = look("gpu.memory", machine, root=tree(BOOT, HOST))

    assert (seen.one("GPU 0").status, seen.one("GPU 0").reason) == (Status.UNKNOWN, Reason.NOT_APPLICABLE)
