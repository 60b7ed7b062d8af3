"""kernel.xid: the driver's lines in a recorded kernel log."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from diag.model import Reason, Status
from diag.observe.probes.kernel_xid import parse_line
from diag.observe.probes.tables import table

Look = Callable[..., Any]

DRIVER = {
    "/proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.124.06  R\n"
}


def log(*lines: tuple[float, str], booted_ago_s: float = 100_000) -> dict[str, str]:
    """A /dev/kmsg whose lines were written so many seconds ago."""
    boot = int(time.time() - booted_ago_s)
    text = "".join(
        f"4,{n},{int((booted_ago_s - ago) * 1e6)},-;{line}\n" for n, (ago, line) in enumerate(lines)
    )
    return {**DRIVER, "/dev/kmsg": text, "/proc/stat": f"btime {boot}\n"}


@pytest.mark.parametrize(
    ("text", "device", "kind", "code", "pid"),
    [
        (
            "NVRM: Xid (PCI:0000:3b:00): 79, pid=1234, name=python3, GPU has fallen off the bus.",
            "0000:3b:00",
            "xid",
            79,
            1234,
        ),
        (
            "NVRM: Xid (PCI:0000:AF:00): 31, pid='<unknown>', name=<unknown>, Ch 00000008",
            "0000:af:00",
            "xid",
            31,
            None,
        ),
        ("NVRM: Xid (0000:03:00): 13, Graphics SM Warp Exception", "0000:03:00", "xid", 13, None),
        (
            "nvidia-nvswitch3: SXid (PCI:0000:c1:00.0): 20034, Fatal, Link 30 LTSSM Fault Up",
            "0000:c1:00",
            "sxid",
            20034,
            None,
        ),
        ("NVRM: GPU at PCI:0000:3b:00: GPU has fallen off the bus.", "0000:3b:00", "xid", 79, None),
    ],
)
def test_lines_are_read(text: str, device: str, kind: str, code: int, pid: int | None) -> None:
    event = parse_line(text)

    assert event is not None
    assert (event["device"], event["kind"], event["code"], event["pid"]) == (device, kind, code, pid)


def test_other_lines_of_the_driver_are_no_events() -> None:
    assert parse_line("NVRM: loading NVIDIA UNIX Open Kernel Module for x86_64  570.124.06") is None
    assert parse_line("nvidia-nvswitch0: using MSI") is None
    non_fatal = parse_line(
        "nvidia-nvswitch0: SXid (PCI:0000:c1:00.0): 28006, Non-fatal, Link 46 MC TS (First)"
    )
    assert non_fatal is not None
    assert non_fatal["fatal"] is False


def test_a_quiet_log_is_fine(look: Look, tree: Callable[..., str]) -> None:
    seen = look("kernel.xid", None, root=tree(log((50, "usb 1-1: new device"))))

    assert seen.one().status is Status.OK


def test_a_gpu_off_the_bus_fails_with_the_vendors_action(look: Look, tree: Callable[..., str]) -> None:
    line = "NVRM: Xid (PCI:0000:3b:00): 79, pid=1234, name=python3, GPU has fallen off the bus."
    seen = look("kernel.xid", None, root=tree(log((600, line), (599, line), (598, line))))
    found = seen.one("GPU 0000:3b:00")

    assert (found.status, found.data["cause"]) == (Status.FAIL, "gpu-xid-hardware")
    assert found.data["count"] == 3
    assert "restart the bare-metal machine" in found.summary


def test_an_applications_fault_counts_only_for_its_own_launch(look: Look, tree: Callable[..., str]) -> None:
    root = tree(log((600, "NVRM: Xid (PCI:0000:3b:00): 31, pid=77, name=python3, Ch 00000008")))
    undated = look("kernel.xid", None, root=root).one("GPU 0000:3b:00")
    ours = look("kernel.xid", None, root=root, since_s=time.time() - 900).one("GPU 0000:3b:00")
    later = look("kernel.xid", None, root=root, since_s=time.time() - 60).one()

    assert undated.status is Status.WARN
    assert (ours.status, ours.data["cause"]) == (Status.FAIL, "illegal-memory-access")
    assert later.status is Status.OK
    assert "1 older" in later.summary


def test_an_old_reset_is_history_not_a_failure(look: Look, tree: Callable[..., str]) -> None:
    root = tree(log((50_000, "NVRM: Xid (PCI:0000:3b:00): 95, pid=77, name=python3, Uncontained")))

    assert look("kernel.xid", None, root=root).one("GPU 0000:3b:00").status is Status.WARN


def test_information_codes_do_not_warn(look: Look, tree: Callable[..., str]) -> None:
    root = tree(
        log((60, "NVRM: Xid (PCI:0000:3b:00): 154, GPU recovery action changed from 0x0 (None) to 0x1"))
    )

    assert look("kernel.xid", None, root=root).one("GPU 0000:3b:00").status is Status.OK


def test_a_log_that_is_not_there_is_unknown_with_a_remedy(look: Look, tree: Callable[..., str]) -> None:
    seen = look("kernel.xid", None, root=tree(DRIVER)).one()

    assert (seen.status, seen.reason) == (Status.UNKNOWN, Reason.TOOL_MISSING)
    assert "kmsg" in seen.data["remedy"]


def test_the_table_knows_its_causes_and_severities() -> None:
    rows = table("xid")["xid"]

    assert len(rows) > 80
    assert {row["severity"] for row in rows.values()} == set(table("xid")["severity"])
    assert {row["cause"] for row in rows.values()} == {None, "gpu-xid-hardware", "illegal-memory-access"}
