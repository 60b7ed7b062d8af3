"""Canaries are sown wherever a report holds text; none may leave, and nothing else may be mangled."""

from __future__ import annotations

import json
import re
import sys
import time
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_examples import ALL, WHEN, explained

from diag.model import (
    Culprit,
    Diagnosis,
    Evidence,
    Finding,
    Fix,
    Gap,
    InputFile,
    Report,
    Role,
    Status,
    Strength,
    Unexplained,
    Verdict,
)
from diag.report import FORMATS, RedactionError, redact, render, to_json
from diag.report.addresses import AddressBook
from diag.report.redact import redact_together

SECRETS = (
    "hf_QkXzPvLmNtRsWaBcDeFg", "sk-proj-Zx9Yw8Vu7Ts6Rq5Po4Nm3", "ghp_A1b2C3d4E5f6G7h8I9j0K1l2", "AKIAIOSFODNN7EXAMPLE",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJxIn0.c2lnbmF0dXJlX2hlcmU", "hunter2-canary", "s3cr3t/Canary+Value", "wandbCanary0123456789abcdef",
)  # fmt: skip
LINES = {
    "node42-canary": [
        "node42-canary:812:901 [3] NCCL WARN socketProgress: Connection closed",
        "[1744970122.411037] [node42-canary:4711:0] sock.c:334 UCX ERROR connect",
        "  host      : node42-canary",
        "[E1120 12:00:00.123 socket.cpp:12] The client socket has failed to connect to [node42-canary]:29500",
        "May 18 02:11:49 node42-canary kernel: NVRM: Xid (PCI:0000:65:00): 79",
        "MASTER_ADDR=node42-canary",
        "tcp://node42-canary:23456",
        "[pod/node42-canary/main] text",
        "(RayWorkerWrapper pid=1, ip=node42-canary) text",
        "ssh bob@node42-canary",
        "see logs/node42-canary.log and /var/node42-canary_rank3/x",
    ],
    "zoe.canary": ["/home/zoe.canary/train.py", "USER=zoe.canary", "drwx zoe.canary /scratch/zoe.canary/ckpt", "zoe.canary@login03:~$ ls"],
    "10.77.31.9": ["eth0:10.77.31.9<0>", "connect to [::ffff:10.77.31.9]:29501", "ip=10.77.31.9)", "http://10.77.31.9:8000/v1"],
    "2001:db8:7::42": ["listen on [2001:db8:7::42]:8000", "addr 2001:db8:7::42"],
    "3c:ec:ef:12:34:56": ["link/ether 3c:ec:ef:12:34:56 brd ff:ff:ff:ff:ff:ff"],
    "GPU-0e1d5c44-9a2f-21fb-64bb-9e2f4b7ac0d1": ["GPU 0: NVIDIA H100 (UUID: GPU-0e1d5c44-9a2f-21fb-64bb-9e2f4b7ac0d1)"],
    "248a:0703:009c:1b4a": ["node_guid: 248a:0703:009c:1b4a"],
    "0x248a0703009c1b4b": ["port GUID 0x248a0703009c1b4b"],
    "1655524088122": ["Serial Number : 1655524088122"],
    "zoe@corp-canary.com": ["mail zoe@corp-canary.com"],
    "gpu-7.hpc-canary.internal": ["gpu-7.hpc-canary.internal is down"],
}  # fmt: skip
SECRET_LINES = {
    SECRETS[0]: ["HF_TOKEN=" + SECRETS[0], "login --token " + SECRETS[0], "https://user:" + SECRETS[0] + "@huggingface.co/x"],
    SECRETS[1]: ["key is " + SECRETS[1], "'api_key': '" + SECRETS[1] + "'"],
    SECRETS[2]: ["git clone https://" + SECRETS[2] + "@github.com/a/b"],
    SECRETS[3]: ["AWS_ACCESS_KEY_ID=" + SECRETS[3]],
    SECRETS[4]: ["Authorization: Bearer " + SECRETS[4]],
    SECRETS[5]: ["--password hunter2-canary", "redis://:hunter2-canary@cache:6379", "DB_PASSWORD: hunter2-canary", "api_key=['hunter2-canary']", "curl -u bob:hunter2-canary https://x.example.org/",
                 "the password is 'hunter2-canary'.", "postgres://svc:hunter2-canary@10.0.0.9:5432/db"],
    SECRETS[6]: ["AWS_SECRET_ACCESS_KEY=s3cr3t/Canary+Value", "https://x.example.org/f?signature=s3cr3t/Canary+Value&a=1"],
    SECRETS[7]: ["WANDB_API_KEY='wandbCanary0123456789abcdef'"],
}  # fmt: skip
INNOCENT = (
    "driver 550.90.07, NCCL version 2.21.5, cudnn 9.1.0.70, nvidia-cublas-cu12==12.4.5.8, nvidia-curand-cu12==10.3.5.147",
    "at 12:34:56.789 on 2026-11-21T12:00:00Z the step took 0:00:10",
    "torch.distributed.run main.py:1234 model_runner.py:812 c10::Error std::string a::b",
    "max_num_batched_tokens=32768 max-num-batched-tokens: 32768 eos_token='</s>' pad_token_id=0 kv_cache_tokens=870000",
    "meta-llama/Llama-3.1-70B-Instruct Qwen/Qwen2.5-14B-Instruct org/model",
    "127.0.0.1 ::1 0.0.0.0 172.17.0.1 169.254.1.2 localhost:29500 fe80::1",
    "mlx5_0:1 eth0 ib0 rank3 cuda:0 GPU 3 worker died on node 2 PCI 0000:65:00.0",
    "https://github.com/vllm-project/vllm/issues/17167 https://docs.nvidia.com/x",
    "tokenizer=Qwen token budget key=value sort_key=3 auth=auth threading.local() self.net = net",
    "docker run -u 1000:1000 --user 0:0 image; the password is wrong; password was rejected",
    "kubectl exec POD -- getent hosts HEAD_POD.SERVICE.NAMESPACE.svc.cluster.local",
    "0x7f931ac13bb3 commId 0x5d8c0a1b2c3d4e5f ncclUniqueId 8589934592",
)


def report_with(text: str) -> Report:
    """A report that holds a text at every place that takes one."""
    return Report(
        "run", Verdict.FAIL, WHEN, "0", exit_code=1,
        diagnoses=(
            Diagnosis(
                "shm-too-small", text, Strength.LIKELY, Role.ROOT, text, Culprit(process=text, component=text),
                (Evidence(text, 1, text, None, None, text),), ("worker-died",),
                (Fix(text, {"NCCL_SOCKET_IFNAME": text}, text, text, "none", text, text),), (text,), text,
            ),
        ),
        findings=(Finding("host.shm", text, Status.FAIL, text, data={"argv": ["x", text], "nested": {text: [text]}, "remedy": text}),),
        facts={"launch": {"command": text, "status": text}, "network": {"routes": {text: text}}, "software": {"id": text, "kind": text}},
        gaps=(Gap(text, text, text),), inputs=(InputFile(text, "log", 1, 1),), notes=(text,),
        unexplained=Unexplained((text,), text, None, (text,)),
    )  # fmt: skip


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("canary", [*LINES, *SECRET_LINES])
def test_no_canary_leaves_by_any_door(canary: str, fmt: str) -> None:
    lines = {**LINES, **SECRET_LINES}[canary]
    for line in lines:
        text = render(redact(report_with(f"{lines[0]}\n{line}")), fmt)

        assert canary not in text, line


@given(
    st.lists(
        st.sampled_from([line for lines in [*LINES.values(), *SECRET_LINES.values()] for line in lines]),
        min_size=1,
        max_size=6,
    )
)
@settings(deadline=None, max_examples=60)
def test_no_canary_leaves_in_any_company(lines: list[str]) -> None:
    text = render(redact(report_with("\n".join(lines))), "json")
    for canary, sown in {**LINES, **SECRET_LINES}.items():
        if sown[0] in lines:
            assert canary not in text


@pytest.mark.parametrize("line", INNOCENT)
def test_ordinary_text_is_left_alone(line: str) -> None:
    report = report_with(line)

    assert to_json(redact(report))["notes"] == [line]


def test_ids_and_closed_sets_are_left_alone() -> None:
    data = to_json(redact(replace(explained(), facts={"network": {"hostname": "shm-too-small"}})))

    assert data["diagnoses"][0]["id"] == "shm-too-small"
    assert data["facts"]["network"]["hostname"] == "host-3"


def test_a_name_known_from_one_place_is_replaced_at_all_places() -> None:
    report = Report(
        "explain", Verdict.FAIL, WHEN, "0", facts={"network": {"hostname": "dgx-a17.hpc.acme.com"}},
        notes=("dgx-a17 and DGX-A17.hpc.acme.com are one", "dgx-a18 is another", "xdgx-a17y is none", "logs/dgx-a17_rank0.log"),
        inputs=(InputFile("out/dgx-a17.log", "log", 1),),
    )  # fmt: skip
    clean = redact(report)

    assert clean.notes == (
        "host-1 and host-1 are one",
        "dgx-a18 is another",
        "xdgx-a17y is none",
        "logs/host-1_rank0.log",
    )
    assert clean.inputs[0].path == "out/host-1.log"
    assert clean.redaction.counts == {"hosts": 1}


def test_a_host_with_an_ordinary_name_goes_only_where_the_place_says_so() -> None:
    report = replace(explained(), notes=("worker:812:901 [0] NCCL INFO x", "a worker died"), diagnoses=())
    clean = redact(report)

    assert clean.notes[0].startswith("host-")
    assert clean.notes[1] == "a worker died"


def test_model_names_stay_even_if_a_user_is_called_like_their_maker() -> None:
    report = Report("explain", Verdict.OK, WHEN, "0", facts={"launch": {"model": "meta-llama/Llama-3-8B"}}, notes=("meta-llama/Llama-3-8B by llama",),
                    findings=(Finding("host.user", "", Status.OK, "x", data={"hostname": "llama"}),))  # fmt: skip

    assert redact(report).notes == ("meta-llama/Llama-3-8B by host-1",)


def test_secret_fields_vanish_by_name() -> None:
    facts = {
        "software": {
            "env": {
                "HF_TOKEN": "canaryvalue",
                "OPENAI_API_KEY": "canaryvalue",
                "VLLM_MAX_TOKENS": "4096",
                "MY_PASSWORD": "canaryvalue",
            },
            "argv": ["vllm", "serve", "--api-key", "canaryvalue", "--port", "8000"],
            "list": [{"name": "HF_TOKEN", "value": "canaryvalue"}],
            "gpus": [{"serial": "1655524088122", "name": "H100"}],
        }
    }
    text = render(redact(Report("run", Verdict.OK, WHEN, "0", facts=facts)), "json")

    assert "canaryvalue" not in text
    assert "1655524088122" not in text
    assert '"4096"' in text
    assert '"8000"' in text


def test_a_redacted_report_is_not_changed_again() -> None:
    once = redact(explained())

    assert redact(once) == once


def test_stand_ins_of_an_earlier_report_stay_what_they_are() -> None:
    once = replace(redact(explained()), redaction=Report("x", Verdict.OK, "", "").redaction)
    twice = redact(once)

    assert twice.diagnoses[0].culprit.host == once.diagnoses[0].culprit.host


def test_nodes_of_one_incident_agree_on_stand_ins_and_others_do_not() -> None:
    one, two = (
        redact(explained(), incident=phrase).diagnoses[0].culprit.host for phrase in ("job 7", "job 7")
    )
    other = redact(explained(), incident="job 8").diagnoses[0].culprit.host

    assert one == two
    assert one != other
    assert one
    assert re.fullmatch(r"host-[0-9a-f]{6}", one)


def test_two_reports_redacted_together_share_stand_ins() -> None:
    good, bad = redact_together((explained(), replace(explained(), notes=("dgx-b02 and dgx-a17",))))

    assert good.diagnoses[0].culprit.host == bad.diagnoses[0].culprit.host
    assert "dgx" not in render(bad, "json")


@given(
    st.lists(st.ip_addresses(v=4), min_size=2, max_size=8, unique=True), st.binary(min_size=1, max_size=16)
)
def test_addresses_share_as_many_leading_bits_after_as_before(addresses: list[object], key: bytes) -> None:
    private = [ip_address((10 << 24) | (int(str(int(address))) & 0xFFFFFE) | 1) for address in addresses]  # type: ignore[call-overload]
    book = AddressBook(key)
    mapped = [ip_address(book.replace(str(address))[0]) for address in private]
    for left, right in zip(range(len(private)), range(1, len(private)), strict=False):
        assert _shared(private[left], private[right]) == _shared(mapped[left], mapped[right])
        assert mapped[left] in ip_network("10.0.0.0/8")


def _shared(one: object, two: object) -> int:
    return 32 - (int(one) ^ int(two)).bit_length()  # type: ignore[call-overload]


def test_a_network_keeps_looking_like_one() -> None:
    text, _ = AddressBook(b"key").replace("10.4.8.0/24 holds 10.4.8.17")
    network, host = re.findall(r"[\d.]+(?:/\d+)?", text)

    assert ip_address(host) in ip_network(network)


def test_a_leak_that_survives_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check at the end is the last door: with the sweep broken, nothing gets out."""
    module = sys.modules["diag.report.redact"]
    monkeypatch.setattr(module._Redactor, "_text", lambda self, text: text)
    monkeypatch.setattr(module._Redactor, "_sweep", lambda self, text: text)
    with pytest.raises(RedactionError, match="a host name"):
        redact(explained())


def test_a_failure_inside_redaction_is_a_refusal_not_a_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules["diag.report.redact"]

    def broken(self: object, text: str) -> str:
        raise ValueError(text)

    monkeypatch.setattr(module._Redactor, "_text", broken)
    with pytest.raises(RedactionError) as caught:
        redact(explained())

    assert "dgx" not in str(caught.value)


@pytest.mark.parametrize("name", ALL)
def test_every_example_is_redacted_without_changing_its_verdict(name: str) -> None:
    report = ALL[name]()
    clean = redact(report)

    assert clean.redaction.applied
    assert (clean.verdict, clean.exit_code, len(clean.findings)) == (
        report.verdict,
        report.exit_code,
        len(report.findings),
    )


def test_a_long_report_is_redacted_in_linear_time() -> None:
    line = "node42:812:901 [3] NCCL WARN x HF_TOKEN=hf_abcDEF123456 /home/zoe/x 10.1.2.3 " * 40
    report = replace(explained(), notes=(line,) * 100)

    assert "zoe" not in json.dumps(to_json(redact(report)))


@pytest.mark.parametrize("unit", ["a.", "a-", "a:", "1.", "a@", "/a", "a=", "x_"])
def test_a_hostile_line_costs_seconds_not_minutes(unit: str) -> None:
    report = replace(explained(), notes=((unit * 20_000)[:20_000],))
    begin = time.monotonic()
    redact(report)

    assert time.monotonic() - begin < 20
