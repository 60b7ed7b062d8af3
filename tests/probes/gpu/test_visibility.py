"""gpu.visibility: from the bus over device files to CUDA_VISIBLE_DEVICES."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from diag.model import Reason, Status
from diag.observe.probes.visible import parse_visible

Look = Callable[..., Any]

UUIDS: list[str | None] = ["GPU-aaaa1111", "GPU-aaaa2222", None, "GPU-bbbb3333"]


@pytest.mark.parametrize(
    ("value", "visible", "bad"),
    [
        ("0,1", ["0", "1"], None),
        ("3,0", ["3", "0"], None),
        ("0,4,1", ["0"], "4"),
        ("-1", [], "-1"),
        ("", [], None),
        ("GPU-bbbb", ["3"], None),
        ("GPU-aaaa", [], "GPU-aaaa"),
        ("0,GPU-aaaa2222", ["0", "1"], None),
        ("MIG-77", ["MIG-77aa"], None),
    ],
)
def test_entries_count_up_to_the_first_that_names_no_device(
    value: str, visible: list[str], bad: str | None
) -> None:
    parsed = parse_visible(value, UUIDS, ["MIG-77aa"])

    assert parsed["visible"] == visible
    assert parsed["bad"] == bad


def ask(look: Look, machine: str, value: str) -> Any:
    return look("gpu.visibility", machine, env={"CUDA_VISIBLE_DEVICES": value})


def test_all_gpus_are_visible_without_the_variable(look: Look) -> None:
    assert look("gpu.visibility", "machine=4xT4").one().status is Status.OK


def test_an_index_past_the_last_gpu_is_a_count_exceeded(look: Look) -> None:
    seen = ask(look, "machine=4xT4", "0,1,2,3,4,5,6,7").one("CUDA_VISIBLE_DEVICES")

    assert (seen.status, seen.data["cause"]) == (Status.FAIL, "gpu-count-exceeded")
    assert "GPU 4" in seen.summary
    assert seen.data["visible"] == ["0", "1", "2", "3"]


def test_an_empty_variable_hides_every_gpu(look: Look) -> None:
    for value in ("", "-1", "NoDevFiles"):
        seen = ask(look, "machine=2xH100", value).one("CUDA_VISIBLE_DEVICES")

        assert (seen.status, seen.data["cause"]) == (Status.FAIL, "gpu-not-visible")


def test_a_uuid_works_for_cuda_but_not_for_every_engine(look: Look) -> None:
    known = ask(look, "machine=4xT4", "GPU-000000a1").one("CUDA_VISIBLE_DEVICES")
    foreign = ask(look, "machine=4xT4", "GPU-99999999").one("CUDA_VISIBLE_DEVICES")
    mig = ask(look, "machine=1xA100-40;mig=1:1;mig_devices=2", "MIG-000000a0-0000-4000-8000-000000000002")

    assert (known.status, known.data["cause"]) == (Status.WARN, "device-uuid-unsupported")
    assert (foreign.status, foreign.data["cause"]) == (Status.FAIL, "gpu-not-visible")
    assert mig.one("CUDA_VISIBLE_DEVICES").data["cause"] == "device-uuid-unsupported"


def test_a_container_without_gpus_on_a_machine_that_has_some(look: Look, tree: Callable[..., str]) -> None:
    device = "/sys/bus/pci/devices/0000:3b:00.0"
    files = {f"{device}/vendor": "0x10de\n", f"{device}/class": "0x030200\n", "/.dockerenv": ""}
    seen = look(
        "gpu.visibility", None, root=tree(files, {f"{device}/driver": "../../../bus/pci/drivers/nvidia"})
    )

    assert (seen.one().status, seen.one().data["cause"]) == (Status.FAIL, "gpu-not-visible")
    assert "--gpus all" in seen.one().summary


def test_gpus_that_belong_to_virtual_machines_are_not_this_nodes(
    look: Look, tree: Callable[..., str]
) -> None:
    device = "/sys/bus/pci/devices/0000:3b:00.0"
    files = {f"{device}/vendor": "0x10de\n", f"{device}/class": "0x030200\n"}
    seen = look(
        "gpu.visibility", None, root=tree(files, {f"{device}/driver": "../../../bus/pci/drivers/vfio-pci"})
    )

    assert (seen.one().status, seen.one().reason) == (Status.SKIP, Reason.NOT_APPLICABLE)


def test_a_missing_unified_memory_file_is_noticed(look: Look, tree: Callable[..., str]) -> None:
    root = tree({"/dev/nvidia0": "", "/dev/nvidiactl": ""})
    seen = look("gpu.visibility", "machine=1xT4", root=root)

    assert "/dev/nvidia-uvm" in seen.one("device files").summary
