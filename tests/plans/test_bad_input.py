"""Broken, hostile and empty plans: one located sentence, nothing executed, the rest still judged."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diag.diagnose.plans import check_plans, parse_gpus
from diag.observe.plans import read_plan, read_plan_text, read_plans
from diag.observe.plans.shell_words import commands
from diag.system import UserError

BOMB = (
    "a: &a [x,x,x,x,x,x,x,x,x]\n"
    + "".join(
        f"{chr(98 + i)}: &{chr(98 + i)} [{','.join('*' + chr(97 + i) for _ in range(9))}]\n" for i in range(9)
    )
    + "VllmWorker:\n  ServiceArgs: *j\n"
)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("VllmWorker:\n  ServiceArgs:\n    workers: [1\n", "yaml-unsound"),
        ("VllmWorker:\n  ServiceArgs:\n\tworkers: 1\n", "yaml-unsound"),
        (BOMB, "yaml-bomb"),
        ("VllmWorker:\n  ServiceArgs:\n    workers: {{ .Values.workers }}\n", "yaml-templated"),
        (
            "apiVersion: v1\nkind: Pod\nspec:\n  {{- if .Values.x }}\n  containers: []\n  {{- end }}\n",
            "yaml-templated",
        ),
        ("title: holidays\n", "plan-unknown"),
        ("VllmWorker:\n  ServiceArgs: " + "[" * 5000 + "]" * 5000 + "\n", "yaml-too-deep yaml-unsound"),
    ],
)
def test_bad_yaml_is_said_in_one_located_sentence(text: str, code: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(text, "utf-8")
    begin = time.process_time()
    with pytest.raises(UserError) as caught:
        read_plan(str(path))

    assert caught.value.code in code.split()
    assert caught.value.where.startswith(str(path))
    assert "\n" not in str(caught.value)
    assert time.process_time() - begin < 10


def test_a_template_is_located() -> None:
    with pytest.raises(UserError) as caught:
        read_plan_text("VllmWorker:\n  ServiceArgs:\n    workers: {{ .Values.workers }}\n", "p.yaml")

    assert caught.value.where == "p.yaml:3"


def test_the_rest_of_the_files_is_still_read(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("")
    (tmp_path / "binary.yaml").write_bytes(b"\0\1\2")
    (tmp_path / "good.sh").write_text("vllm serve Qwen/Qwen3-8B\n")
    os.mkfifo(tmp_path / "pipe.yaml")
    paths = [str(tmp_path / name) for name in ("empty.yaml", "missing.yaml", "binary.yaml", "good.sh")]
    plans, errors = read_plans([*paths, str(tmp_path)])

    assert [plan.services[0].model for plan in plans] == ["Qwen/Qwen3-8B", "Qwen/Qwen3-8B"]
    assert len(errors) == 4 or {error.code for error in errors} >= {
        "plan-empty",
        "plan-unreadable",
        "plan-binary",
    }


@pytest.mark.parametrize(
    "text",
    [
        "VllmWorker:\n",
        "VllmWorker: 3\nPrefillWorker:\n  ServiceArgs: none\n",
        "VllmWorker:\n  ServiceArgs: [1]\n",
        "VllmWorker:\n  tensor-parallel-size: {a: b}\n  ServiceArgs:\n    workers: x\n    resources: []\n",
        "Common: []\nVllmWorker:\n  common-configs: 7\n  ServiceArgs: {workers: -1, resources: {gpu: none}}\n",
        "apiVersion: v1\nkind: DynamoGraphDeployment\nspec:\n  services: [a]\n",
        "apiVersion: x\nkind: DynamoGraphDeployment\nspec: {components: {a: 1}}\n",
        "apiVersion: v1\nkind: List\nitems: 3\n",
        "apiVersion: v1\nkind: Pod\nspec:\n  containers:\n  - args: {a: b}\n    resources: 3\n    command: 7\n    env: [1, {name: x}]\n",
        "services:\n  a:\n    image: 3\n    command: [1, {a: b}]\n    deploy: []\n    ulimits: 3\n    environment: 7\n",
        "model: [1]\ntensor-parallel-size: []\n",
        "vllm serve\n",
        "vllm serve --tensor-parallel-size\n",
        "torchrun\n",
        "vllm serve $(cat /etc/passwd) -tp $((2*4)) --port ${PORT}\n",
        "docker run\n",
        "docker run --gpus\nvllm serve x",
    ],
)
def test_wrong_types_break_nothing(text: str) -> None:
    try:
        plan = read_plan_text(
            text, "p.sh" if "vllm serve" in text or "torchrun" in text or "docker" in text else "p.yaml"
        )
    except UserError:
        return
    check_plans([plan], parse_gpus("8xH100"))


def test_commands_in_a_plan_are_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    read_plan_text(f"X=$(touch {mark})\nvllm serve a/b --port `touch {mark}` $(touch {mark})\n", "p.sh")

    assert not mark.exists()


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet=" \n\t'\"\\$(){}`;&|#<>-=aevlms1.", max_size=200))
def test_no_script_breaks_the_word_cutter(text: str) -> None:
    for command in commands(text):
        for word in command.words:
            assert word.start == -1 or 0 <= word.start <= word.end <= len(text)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [
                "vllm",
                "serve",
                "--tensor-parallel-size",
                "-tp",
                "2",
                "--port=8000",
                "--",
                "-",
                "",
                "--model",
                "{}",
                "--x.y",
                "3",
                "--no-enable-x",
                "=",
                "--=",
            ]
        ),
        max_size=12,
    )
)
def test_no_argument_list_breaks_the_reader(words: list[str]) -> None:
    from diag.observe.plans import plan_from_arguments

    plan = plan_from_arguments(["vllm", "serve", *words], {})

    assert plan is not None
    check_plans([plan], parse_gpus("8xH100"))
