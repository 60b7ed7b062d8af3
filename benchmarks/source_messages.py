"""What does diag make of every message that a program's sources can print while a launch starts?

    python benchmarks/source_messages.py /tmp/vllm-0.10.2 [MORE...] [--paths REGEX] [--kinds raise,assert] > table.tsv

Each TREE is an unpacked wheel or source tree. Every `raise X(...)`, `assert ..., "..."` and `logger.error/critical/
exception/warning(...)` below the chosen paths is rendered with plausible values and put into the log that it would
stand in: a raise as a traceback with the function's own name and file followed by the engine's usual echo, a logger's
line in that program's line head. The table has one row per distinct message: program, place, kind, the ids found
(the first is the answer; `=` marks an echo), and the message. For warnings a second column tells what is said if the
launch comes up afterwards (anything there is a false alarm).
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from diag.diagnose.knowledge import diagnose_text
from diag.model import Role
from diag.observe.logs.reading import LogReader, build_reader
from diag.playbooks.base import Base, load_base

PATHS = (
    r"config|arg_utils|server_args|envs|engine|executor|worker|distributed|parallel|platform|loader|weight|model_config|"
    r"attention|quantiz|kv_transfer|kv_connector|connector|disagg|nixl|mooncake|transfer|lmcache|device|communicat|"
    r"cuda_graph|cudagraph|compil|launch|scheduler|model_runner|memory|mem_cache|utils|ray|mpi|registry|layers|models?/|"
    r"fused_moe|moe|spec|lora|tokenizer|entrypoints|runtime|components|cli|serve|_ipc|p2p|llmapi|pyexecutor|_torch|tuner|jit"
)
SKIPPED = re.compile(
    r"(?:^|/)(?:tests?|benchmarks?|examples?|docs|third_party|multimodal_gen|diffusion|tool_parsers|reasoning)/|/test_|"
    r"_test\.py$|conftest|openai/(?:protocol|serving_|adapter|responses|chat_completion|completion|speech)|chat_utils|"
    r"function_call|logits_process|sampling_params|multimodal/|multimodal_processor|conversation|transformers_utils/processors|"
    r"/bench/|/benchmark|structured_output/|guided_decoding|beam_search|logits_processor"
)
LEVELS = ("error", "critical", "exception", "warning", "warning_once", "warn", "error_once", "fatal")

VALUES: tuple[tuple[str, str], ...] = (
    (r"tp_size|tensor\w*parallel\w*size|\btp\b|tp_rank", "8"),
    (r"pp_size|pipeline\w*parallel_size", "2"),
    (r"device_str|device_name|ray_device_key", "GPU"),
    (r"device_control_env_var|visible_devices", "CUDA_VISIBLE_DEVICES"),
    (r"shm|/dev/shm", "/dev/shm"),
    (r"world_size|num_gpus|device_count|nnodes|dp_size|ep_size", "16"),
    (r"rank|device_id|gpu_id|index\b|idx", "3"),
    (r"port", "29500"),
    (r"heads", "40"),
    (r"hidden_size|intermediate|vocab", "3696"),
    (r"head_size|head_dim|group_size|block_size|page_size", "96"),
    (r"capability|\bsm\b|arch_?(?:num|version)", "75"),
    (r"util|fraction", "0.92"),
    (r"max_model_len|context_len|seq_len|num_tokens|max_num", "32768"),
    (r"quant", "awq_marlin"),
    (r"backend", "FLASHINFER"),
    (r"dtype", "torch.bfloat16"),
    (r"arch", "['FooForCausalLM']"),
    (r"addr|host|\bip\b|\burl\b|endpoint", "10.0.0.5"),
    (r"path|file|dir\b|folder", "/models/llama/model-00001.safetensors"),
    (r"model", "/models/llama"),
    (r"device", "cuda"),
    (r"mem|bytes|gib|gb\b", "12.5"),
    (r"layer|name|key|prefix", "model.layers.0.self_attn.qkv_proj"),
    (r"version", "0.5.1"),
    (r"time", "300"),
    (r"shape", "torch.Size([4096, 1024])"),
    (r"\be\b|\berr|\bex\b|\bexc|error|msg|message|reason", "unexpected value"),
    (r"cls|type|class", "Foo"),
    (r"len\(|num_|size|count|max|min", "16"),
)


@dataclass(frozen=True, slots=True)
class Message:
    """One message that the sources can print."""

    program: str
    file: str
    line: int
    function: str
    kind: str
    exception: str
    text: str


def value_of(node: ast.expr) -> str:
    """A plausible value for an expression, from its words."""
    words = ast.unparse(node)
    for pattern, value in VALUES:
        if re.search(pattern, words, re.IGNORECASE):
            return value
    return "7" if re.search(r"\bn\b|number|total|required|available", words) else "foo"


def render(node: ast.expr, constants: dict[str, ast.expr]) -> str | None:
    """The text of a message expression, or None if it is not text."""
    if isinstance(node, ast.Constant):
        return str(node.value) if isinstance(node.value, str) else None
    if isinstance(node, ast.JoinedStr):
        parts = []
        for part in node.values:
            if isinstance(part, ast.Constant):
                parts.append(str(part.value))
            elif isinstance(part, ast.FormattedValue):
                inner = (
                    render(part.value, constants)
                    if isinstance(part.value, (ast.JoinedStr, ast.BinOp))
                    else None
                )
                name = part.value.id if isinstance(part.value, ast.Name) else ""
                if inner is None and name in constants:
                    inner = render(constants[name], {})
                value = inner if inner is not None else value_of(part.value)
                parts.append(repr(value) if part.conversion == ord("r") else value)
        return "".join(parts)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = render(node.left, constants), render(node.right, constants)
        if left is None and right is None:
            return None
        return (left if left is not None else value_of(node.left)) + (
            right if right is not None else value_of(node.right)
        )
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mod):
        left = render(node.left, constants)
        values = list(node.right.elts) if isinstance(node.right, ast.Tuple) else [node.right]
        return None if left is None else fill(left, values)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "format":
        left = render(node.func.value, constants)
        if left is None:
            return None
        rest = list(node.args)
        return re.sub(r"\{[^}]*\}", lambda _: value_of(rest.pop(0)) if rest else "foo", left)
    if isinstance(node, ast.Name) and node.id in constants:
        return render(constants[node.id], {})
    return None


def fill(template: str, values: list[ast.expr]) -> str:
    """%-formatting with plausible values."""
    rest = list(values)
    return re.sub(
        r"%(?:\(\w+\))?[-+ 0-9.]*[sdrfgx]", lambda _: value_of(rest.pop(0)) if rest else "foo", template
    )


class Collector(ast.NodeVisitor):
    """Walks one module and keeps its messages."""

    def __init__(self, program: str, file: str) -> None:
        self.program, self.file = program, file
        self.functions: list[str] = ["<module>"]
        self.constants: list[dict[str, ast.expr]] = [{}]
        self.found: list[Message] = []

    def _inside(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self.functions.append(node.name)
        names: dict[str, ast.expr] = {}
        for child in ast.walk(node):
            if (
                isinstance(child, ast.Assign)
                and len(child.targets) == 1
                and isinstance(child.targets[0], ast.Name)
            ):
                names[child.targets[0].id] = child.value
        self.constants.append({**self.constants[0], **names})
        self.generic_visit(node)
        self.functions.pop()
        self.constants.pop()

    visit_FunctionDef = _inside
    visit_AsyncFunctionDef = _inside

    def visit_Assign(self, node: ast.Assign) -> None:
        if len(self.constants) == 1 and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            self.constants[0][node.targets[0].id] = node.value
        self.generic_visit(node)

    def _keep(self, node: ast.AST, kind: str, exception: str, text: str | None) -> None:
        if text and text.strip():
            line = getattr(node, "lineno", 0)
            self.found.append(
                Message(self.program, self.file, line, self.functions[-1], kind, exception, text.strip())
            )

    def visit_Raise(self, node: ast.Raise) -> None:
        if isinstance(node.exc, ast.Call):
            name = ast.unparse(node.exc.func).rsplit(".", 1)[-1]
            text = render(node.exc.args[0], self.constants[-1]) if node.exc.args else None
            if text is None and node.exc.keywords:
                text = render(node.exc.keywords[0].value, self.constants[-1])
            self._keep(node, "raise", name, text)

    def visit_Assert(self, node: ast.Assert) -> None:
        if node.msg is not None:
            self._keep(node, "assert", "AssertionError", render(node.msg, self.constants[-1]))

    def visit_Call(self, node: ast.Call) -> None:
        func = node.func
        if isinstance(func, ast.Attribute) and func.attr in LEVELS and node.args:
            owner = ast.unparse(func.value).lower()
            if "log" in owner or owner == "warnings":
                text = render(node.args[0], self.constants[-1])
                if text is not None:
                    self._keep(node, func.attr, "", fill(text, list(node.args[1:])))
        elif isinstance(func, ast.Name) and func.id == "log_info_on_rank0":
            return
        self.generic_visit(node)


def messages(tree: Path, paths: re.Pattern[str]) -> Iterator[Message]:
    """All messages of one source tree."""
    for path in sorted(tree.rglob("*.py")):
        file = str(path.relative_to(tree))
        if SKIPPED.search(file) or not paths.search(file):
            continue
        try:
            module = ast.parse(path.read_text(errors="replace"))
        except SyntaxError:
            continue
        collector = Collector(tree.name, file)
        collector.visit(module)
        yield from collector.found


def traceback_log(one: Message) -> str:
    """The log in which an uncaught exception would stand."""
    site = "/usr/local/lib/python3.12/dist-packages"
    name = one.exception
    body = one.text.splitlines() or [""]
    lines = ["Traceback (most recent call last):"]
    if one.program.startswith("sglang"):
        lines[0] = "[2026-05-11 08:00:00 TP0] Scheduler hit an exception: " + lines[0]
        lines += [f'  File "{site}/sglang/srt/managers/scheduler.py", line 2310, in run_scheduler_process']
    elif one.program.startswith("vllm"):
        lines += [f'  File "{site}/vllm/v1/executor/multiproc_executor.py", line 710, in worker_main']
    else:
        lines += [f'  File "{site}/{one.file.split("/")[0]}/main.py", line 88, in main']
    lines += [f'  File "{site}/{one.file}", line {one.line}, in {one.function}', f"    raise {name}("]
    lines += [f"{name}: {body[0]}", *body[1:]]
    if one.program.startswith("vllm"):
        head = "(EngineCore_DP0 pid=713) ERROR 05-11 08:00:00 [core.py:857] "
        lines = [head + line for line in lines]
        lines += [
            "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}"
        ]
    elif one.program.startswith("sglang"):
        lines += [
            "",
            "[2026-05-11 08:00:01] Received sigquit from a child process. It usually means the child failed.",
        ]
    return "\n".join(lines) + "\n"


def plain_log(one: Message) -> str:
    """The line that a logger would print."""
    level = {"warning_once": "WARNING", "warn": "WARNING", "exception": "ERROR", "error_once": "ERROR"}.get(
        one.kind, one.kind.upper()
    )
    file = one.file.rsplit("/", 1)[-1]
    if one.program.startswith("vllm"):
        head = f"(EngineCore_DP0 pid=713) {level} 05-11 08:00:00 [{file}:{one.line}] "
    elif one.program.startswith("sglang"):
        head = "[2026-05-11 08:00:00 TP0] "
    elif one.program.startswith("tensorrt"):
        head = f"[05/11/2026-08:00:00] [TRT-LLM] [{level[0]}] "
    else:
        head = f"2026-05-11 08:00:00,120 {level} {file}:{one.line} "
    return "\n".join(head + line for line in one.text.splitlines()) + "\n"


DEATH = {
    "vllm": "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}\n",
    "sglang": "[2026-05-11 08:00:01] Received sigquit from a child process. It usually means the child failed.\n",
}
LIFE = (
    "INFO 05-11 08:01:00 [launcher.py:29] Started server\nINFO:     Application startup complete.\n"
    "INFO 05-11 08:01:10 [loggers.py:80] Avg prompt throughput: 100.0 tokens/s, Avg generation throughput: 40.0 tokens/s\n"
)


def ids_of(base: Base, reader: LogReader, text: str) -> str:
    """Ids in order, echoes marked."""
    found = diagnose_text(base, reader, text)
    return " ".join(("=" if one.role is Role.ECHO else "") + one.id for one in found) or "-"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("trees", nargs="+", type=Path)
    parser.add_argument("--paths", default=PATHS, help="only files whose path matches")
    parser.add_argument("--kinds", default="", help="comma list of raise, assert, error, warning ...")
    args = parser.parse_args()
    base = load_base()
    reader = build_reader(base)
    kinds = set(filter(None, args.kinds.split(",")))
    seen: set[tuple[str, str]] = set()
    print("program\tplace\tfunction\tkind\tids\tids if it then works\tmessage")
    for tree in args.trees:
        for one in messages(tree, re.compile(args.paths)):
            key = (one.exception or one.kind, re.sub(r"\d+", "0", one.text))
            if key in seen or (kinds and one.kind not in kinds):
                continue
            seen.add(key)
            if one.exception:
                first, second = ids_of(base, reader, traceback_log(one)), ""
            else:
                death = DEATH.get(one.program.split("-")[0], "Segmentation fault (core dumped)\n")
                first = ids_of(base, reader, plain_log(one) + death)
                second = ids_of(base, reader, plain_log(one) + LIFE)
            text = f"{one.exception}: {one.text}" if one.exception else one.text
            row = (one.program, f"{one.file}:{one.line}", one.function, one.kind, first, second, text)
            print("\t".join(part.replace("\t", " ").replace("\n", " ⏎ ") for part in row))
    return 0


if __name__ == "__main__":
    sys.exit(main())
