"""Recognition of launchers and the schedule: pure functions."""

from __future__ import annotations

import pytest

from diag.diagnose.job import find_layout
from diag.observe.links.launchers import DEFAULT_PORT, expand_hosts, recognise, split_address
from diag.observe.links.schedule import plan_rounds
from diag.system import UserError

TORCHRUN = {
    "RANK": "9", "LOCAL_RANK": "1", "WORLD_SIZE": "16", "LOCAL_WORLD_SIZE": "8", "GROUP_RANK": "1", "GROUP_WORLD_SIZE": "2",
    "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500", "TORCHELASTIC_RUN_ID": "none",
}  # fmt: skip
SLURM = {
    "SLURM_PROCID": "2", "SLURM_NODEID": "2", "SLURM_LOCALID": "0", "SLURM_NNODES": "3", "SLURM_STEP_ID": "0",
    "SLURM_JOB_NODELIST": "gpu[01-02],big7", "SLURM_NTASKS": "3",
}  # fmt: skip


@pytest.mark.parametrize(
    ("env", "hostname", "expected"),
    [
        (TORCHRUN, "", ("torchrun", 2, 1, 1, "10.0.0.1", 29500)),
        ({**TORCHRUN, "TORCHELASTIC_USE_AGENT_STORE": "True"}, "", ("torchrun", 2, 1, 1, "10.0.0.1", 29501)),
        (SLURM, "", ("Slurm", 3, 2, 0, "gpu01", DEFAULT_PORT)),
        ({**SLURM, **TORCHRUN}, "", ("torchrun", 2, 1, 1, "10.0.0.1", 29500)),
        (
            {"OMPI_COMM_WORLD_RANK": "5", "OMPI_COMM_WORLD_SIZE": "8", "OMPI_COMM_WORLD_LOCAL_RANK": "1",
             "OMPI_COMM_WORLD_LOCAL_SIZE": "4", "MASTER_ADDR": "head"},
            "", ("Open MPI", 2, 1, 1, "head", DEFAULT_PORT),
        ),
        (
            {"PMI_RANK": "1", "PMI_SIZE": "2", "MPI_LOCALRANKID": "0", "MPI_LOCALNRANKS": "1"},
            "", ("MPICH or Intel MPI", 2, 1, 0, None, DEFAULT_PORT),
        ),
        (
            {"LWS_LEADER_ADDRESS": "vllm-0.vllm.default", "LWS_GROUP_SIZE": "4", "LWS_WORKER_INDEX": "3"},
            "", ("LeaderWorkerSet", 4, 3, 0, "vllm-0.vllm.default", DEFAULT_PORT),
        ),
        (
            {"PET_NNODES": "2:4", "PET_NODE_RANK": "1", "MASTER_ADDR": "job-master-0", "MASTER_PORT": "23456"},
            "", ("PyTorchJob", 4, 1, 0, "job-master-0", 23456),
        ),
        (
            {"JOB_COMPLETION_INDEX": "2", "NNODES": "4"}, "probe-2.probe",
            ("Kubernetes Job", 4, 2, 0, "probe-0.probe", DEFAULT_PORT),
        ),
        (
            {"RANK": "8", "WORLD_SIZE": "16", "LOCAL_WORLD_SIZE": "8", "MASTER_ADDR": "a"},
            "", ("RANK and WORLD_SIZE", 2, 1, 0, "a", DEFAULT_PORT),
        ),
    ],
)  # fmt: skip
def test_a_launcher_is_recognised(env: dict[str, str], hostname: str, expected: tuple[object, ...]) -> None:
    layout = recognise(env, hostname)

    assert layout is not None
    assert expected == (
        layout.launcher, layout.nnodes, layout.node_rank, layout.local_rank, layout.master_host, layout.port
    )  # fmt: skip


@pytest.mark.parametrize(
    "env",
    [
        {},
        {"MASTER_ADDR": "a"},
        # A batch script is one process, however many nodes its allocation has.
        {key: value for key, value in SLURM.items() if key != "SLURM_STEP_ID"},
    ],
)
def test_no_launcher_is_no_job(env: dict[str, str]) -> None:
    assert recognise(env) is None


def test_slurm_host_lists_are_written_out() -> None:
    assert expand_hosts("gpu[01-03,7],login1") == ("gpu01", "gpu02", "gpu03", "gpu7", "login1")
    assert expand_hosts("r[1-2]n[1-2]-ib") == ("r1n1-ib", "r1n2-ib", "r2n1-ib", "r2n2-ib")
    assert len(expand_hosts("n[0-99999999]")) <= 4096
    assert expand_hosts("") == ()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("gpu0:29500", ("gpu0", 29500)), ("gpu0", ("gpu0", None)), ("[fd00::1]:29500", ("fd00::1", 29500)),
        ("fd00::1", ("fd00::1", None)), ("10.0.0.1:1", ("10.0.0.1", 1)),
    ],
)  # fmt: skip
def test_a_master_address_is_read(text: str, expected: tuple[str, int | None]) -> None:
    assert split_address(text) == expected


@pytest.mark.parametrize("text", ["", "a b", "host:", "host:0", "host:70000", "host:port"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no"):
        split_address(text)


def test_half_of_the_options_is_wrong_usage() -> None:
    with pytest.raises(UserError, match="--master"):
        find_layout({}, nnodes=2, node_rank=0)


def test_options_go_before_the_launcher() -> None:
    layout = find_layout(SLURM, master="head:1234")

    assert layout is not None
    assert (layout.nnodes, layout.node_rank, layout.master_host, layout.port) == (3, 2, "head", 1234)


@pytest.mark.parametrize("count", [2, 3, 4, 7, 8, 64])
def test_every_pair_is_tested_once_and_nobody_twice_at_a_time(count: int) -> None:
    rounds = plan_rounds(range(count))

    pairs = [pair for one in rounds for pair in one]
    assert len(pairs) == len(set(pairs)) == count * (count - 1) // 2
    assert len(rounds) == count - 1 + count % 2
    for one in rounds:
        assert len({rank for pair in one for rank in pair}) == 2 * len(one)


@pytest.mark.parametrize("count", [65, 100, 1000, 1024])
def test_a_thousand_nodes_are_sampled_in_few_rounds(count: int) -> None:
    rounds = plan_rounds(range(count))

    pairs = {pair for one in rounds for pair in one}
    assert len(rounds) <= 3 * count.bit_length()
    for one in rounds:
        assert len({rank for pair in one for rank in pair}) == 2 * len(one)
    degrees = [sum(rank in pair for pair in pairs) for rank in range(0, count, 17)]
    assert min(degrees) >= 5
    half = count // 2
    assert sum(a < half <= b for a, b in pairs) >= half - 1  # the cut into halves is crossed by every node
