"""gpu.inventory against machines that a stand-in NVML describes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from diag.model import Reason, Status

Look = Callable[..., Any]


def test_four_t4_are_counted_with_what_a_plan_needs(look: Look) -> None:
    seen = look("gpu.inventory", "machine=4xT4;driver=535.104.05;cuda=12020")

    assert seen.statuses() == {Status.OK}
    assert "4 × Tesla T4, driver 535.104.05" in seen.one().summary
    gpu = seen.facts["gpus"][3]
    assert (gpu["index"], gpu["name"], gpu["compute_capability"], gpu["architecture"]) == (
        3,
        "Tesla T4",
        "7.5",
        "turing",
    )
    assert gpu["memory_total_bytes"] == 15360 << 20
    assert seen.facts["cuda_driver_version"] == "12.2"
    assert seen.facts["error"] is None


def test_a_figure_that_a_gpu_does_not_have_is_recorded_and_is_not_taken_for_fine(look: Look) -> None:
    gpu = look("gpu.inventory", "machine=1xT4").facts["gpus"][0]

    assert {"mig", "remapped_rows"} <= set(gpu["not_supported"])
    assert gpu["remapped_rows"] is None
    assert gpu["mig_enabled"] is None
    assert gpu["fabric"] is None
    assert gpu["nvlinks"] == 0


def test_eight_h200_show_their_fabric_and_links(look: Look) -> None:
    seen = look("gpu.inventory", "machine=8xH200")

    assert len(seen.facts["gpus"]) == 8
    assert seen.facts["gpus"][7]["nvlinks_active"] == 18
    assert seen.facts["gpus"][7]["fabric"]["state"] == "completed"
    assert seen.statuses() == {Status.OK}


def test_sixteen_a100_are_all_read(look: Look) -> None:
    seen = look("gpu.inventory", "machine=16xA100-40")

    assert [gpu["index"] for gpu in seen.facts["gpus"]] == list(range(16))
    assert {gpu["memory_total_bytes"] for gpu in seen.facts["gpus"]} == {40 << 30}


def test_no_driver_is_not_applicable_rather_than_broken(look: Look, tree: Callable[..., str]) -> None:
    for described in (None, "init=9"):
        seen = look("gpu.inventory", described, root=tree({}))

        assert seen.one().status is Status.SKIP
        assert seen.one().reason is Reason.NOT_APPLICABLE


def test_gpus_on_the_bus_without_a_driver_are_a_fault(look: Look, tree: Callable[..., str]) -> None:
    device = "/sys/bus/pci/devices/0000:3b:00.0"
    root = tree({f"{device}/vendor": "0x10de\n", f"{device}/class": "0x030200\n"})
    seen = look("gpu.inventory", None, root=root)

    assert seen.one().status is Status.FAIL
    assert seen.causes() == ["gpu-not-visible"]
    assert "1 NVIDIA GPU(s) on the PCI bus" in seen.one().summary


def test_nvml_errors_at_the_start_are_told_apart(look: Look) -> None:
    mismatch = look("gpu.inventory", "init=18").one()
    denied = look("gpu.inventory", "init=4").one()
    unknown = look("gpu.inventory", "init=999").one()

    assert (mismatch.status, mismatch.data["cause"]) == (Status.FAIL, "driver-library-mismatch")
    assert (denied.status, denied.reason) == (Status.UNKNOWN, Reason.PERMISSION)
    assert unknown.status is Status.FAIL
    assert "cause" not in unknown.data


def test_a_lost_gpu_is_named_and_the_others_are_still_read(look: Look) -> None:
    for how in ("1", "late"):
        seen = look("gpu.inventory", f"machine=8xH200;gpu3.lost={how}")

        assert seen.one("GPU 3").status is Status.FAIL
        assert seen.causes() == ["gpu-xid-hardware"]
        assert seen.facts["gpus"][3]["error"]["code"] == 15
        assert seen.facts["gpus"][4]["name"] == "NVIDIA H200"
        assert "8 GPUs, 7 of them answer" in seen.one().summary


def test_a_call_that_never_returns_costs_the_deadline_and_is_the_finding(look: Look) -> None:
    seen = look("gpu.inventory", "machine=8xH200;hang=nvmlDeviceGetName", timeout_s=2.0)

    assert (seen.one().status, seen.one().reason) == (Status.UNKNOWN, Reason.TIMEOUT)
    assert seen.duration_s < 6


def test_an_index_past_the_last_gpu_is_an_invalid_argument(standin: Any, monkeypatch: Any) -> None:
    import subprocess
    import sys

    code = (
        "from diag.observe.probes.nvml import open_nvml\n"
        "with open_nvml() as nvml:\n    print(nvml.ask('nvmlDeviceGetHandleByIndex', 4)[1]['kind'])"
    )
    env = {"LD_LIBRARY_PATH": str(standin), "STANDIN_NVML": "machine=4xT4", "PATH": "/usr/bin:/bin"}
    said = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=20, check=True
    )

    assert said.stdout.strip() == "invalid-argument"


def test_memory_errors_and_remaps_are_judged_by_what_they_mean(look: Look) -> None:
    seen = look(
        "gpu.inventory",
        "machine=4xA100-80;gpu0.remap=0:1:1:0;gpu1.remap=0:2:0:1;gpu2.ecc_volatile=2;gpu3.remap=3:0:0:0",
    )

    assert seen.one("GPU 0").status is Status.WARN
    assert seen.one("GPU 1").status is Status.FAIL
    assert seen.one("GPU 2").status is Status.WARN
    assert seen.about("GPU 3") == []


def test_a_driver_that_asks_for_a_reset_fails_the_gpu(look: Look) -> None:
    seen = look("gpu.inventory", "machine=2xH100;gpu1.recovery=1")

    assert seen.one("GPU 1").data["recovery_action"] == "gpu-reset"
    assert seen.one("GPU 1").status is Status.FAIL


def test_mig_without_devices_and_prohibited_mode_stop_a_launch(look: Look) -> None:
    seen = look(
        "gpu.inventory", "machine=3xA100-40;gpu0.mig=1:1;gpu1.mig=1:1;gpu1.mig_devices=2;gpu2.compute_mode=2"
    )

    assert (seen.one("GPU 0").status, seen.one("GPU 0").data["cause"]) == (Status.FAIL, "gpu-busy-exclusive")
    assert seen.one("GPU 1").status is Status.WARN
    assert len(seen.facts["gpus"][1]["mig_devices"]) == 2
    assert (seen.one("GPU 2").status, seen.one("GPU 2").data["cause"]) == (Status.FAIL, "gpu-busy-exclusive")


def test_slowdowns_are_told_from_an_idle_or_power_capped_gpu(look: Look) -> None:
    seen = look("gpu.inventory", "machine=3xH100;gpu0.throttle=0x48;gpu1.throttle=0x4;gpu2.throttle=1")

    assert "hardware-thermal" in seen.one("GPU 0").summary
    assert seen.about("GPU 1") == seen.about("GPU 2") == []


def test_links_are_compared_with_the_same_model_here_not_with_a_fixed_number(look: Look) -> None:
    odd = look("gpu.inventory", "machine=4xA100-80;gpu2.nvlinks_up=11")
    alike = look("gpu.inventory", "machine=4xA100-80;nvlinks_up=8")

    assert odd.one("GPU 2").status is Status.WARN
    assert alike.statuses() == {Status.OK}


def test_a_slow_start_points_at_persistence(look: Look) -> None:
    seen = look("gpu.inventory", "machine=1xT4;init_delay_ms=1200;persistence=0")

    assert "persistence" in seen.one("NVML start").summary
    assert seen.facts["nvml_init_s"] >= 1.2
