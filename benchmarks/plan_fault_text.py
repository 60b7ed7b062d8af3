"""Finding and changing options in the text of a plan with plain expressions, without diag's readers."""

from __future__ import annotations

import re

from plan_text import in_command, plain_lines

VALUE = r"(?:[= ]+[\"']?|[\"']?,?[ \t]*\n\s*-\s+[\"']?|[\"']\s*,\s*[\"']?)"
"""What may stand between an option and its value: blank, `=`, the next item of a YAML or JSON list."""
PROGRAMS = (
    # what a text says where a program starts -> the engine
    (
        r"dynamo\.vllm|vllm serve|vllm\.entrypoints|vllm-openai|\"vllm\",? *\"serve|- vllm\s*\n\s*- serve",
        "vllm",
    ),
    (r"dynamo\.sglang|sglang\.launch_server|sglang serve", "sglang"),
    (r"dynamo\.trtllm|trtllm-serve", "trtllm"),
    (r"torchrun|torch\.distributed\.(?:run|launch)", "torchrun"),
    (
        r"dynamo\.(?:frontend|router|planner|mocker)|sglang_router|aiperf|genai-perf|bench serve|benchmark_serving|bench_serving|curl ",
        "",
    ),
)


def option(text: str, names: str, value: str = r"[^\s\"',\\]+") -> re.Match[str] | None:
    """The first place on a command line where an option (an expression of names) has a plain value: groups name, value."""
    for match in re.finditer(rf"(--(?:{names}))(?![\w-]){VALUE}({value})", plain_lines(text)):
        if in_command(text, match) and not match.group(2).startswith(("-", "$", "{", "<")):
            return match
    return None


def engine(text: str, at: int) -> str:
    """The program whose arguments stand at this place: the one named last before it, else the only one of the file."""
    plain = plain_lines(text)
    last, name = -1, ""
    for pattern, program in PROGRAMS:
        for match in re.finditer(pattern, plain):
            if last < match.start() <= at:
                last, name = match.start(), program
    return name


def only_engine(text: str) -> str:
    """The one engine that a text starts, or nothing."""
    plain = plain_lines(text)
    found = {name for pattern, name in PROGRAMS[:3] if re.search(pattern, plain)}
    return found.pop() if len(found) == 1 else ""


def put(text: str, match: re.Match[str], value: str) -> str:
    """Another value for an option."""
    return text[: match.start(2)] + value + text[match.end(2) :]


def rename(text: str, match: re.Match[str], name: str) -> str:
    """Another name for an option."""
    return text[: match.start(1)] + name + text[match.end(1) :]


def add(text: str, match: re.Match[str], name: str, value: str | None = None) -> str:
    """One more option behind another one, written as that one is."""
    between = text[match.end(1) : match.start(2)]
    end = match.end(2)
    line = text[text.rfind("\n", 0, match.start()) + 1 : match.start()]
    if "\n" in between:  # - --tp / - "4"
        end = text.find("\n", end)
        end = len(text) if end < 0 else end
        dash = re.match(r"\s*-\s+", line)
        start = dash.group() if dash else "- "
        quoted = "" if value is None else f"\n{start}{_quoted(value)}"
        return text[:end] + f"\n{start}{name}{quoted}" + text[end:]
    if re.search(r"[\"']\s*,\s*[\"']?$", between):  # "--tp", "4"
        end += 1 if text[end : end + 1] in "\"'" else 0
        words = [name] if value is None else [name, value.replace('"', '\\"')]
        return text[:end] + "".join(f', "{word}"' for word in words) + text[end:]
    if re.match(r"\s*-\s+[\"']?$", line):  # - --tp=4, or - "--tp 4"
        end = text.find("\n", end)
        end = len(text) if end < 0 else end
        dash = re.match(r"\s*-\s+", line)
        start = dash.group() if dash else "- "
        item = name if value is None else f"{name}={value}"
        return text[:end] + f"\n{start}{_quoted(item)}" + text[end:]
    end += 1 if text[end : end + 1] in "\"'" and "'" not in line and '"' in between else 0
    quoted = "" if value is None else f" '{value}'" if re.search(r"[{\"]", value) else f" {value}"
    return text[:end] + f" {name}{quoted}" + text[end:]


def _quoted(word: str) -> str:
    return f"'{word}'" if re.search(r"[{\":#]|^\d", word) else word
