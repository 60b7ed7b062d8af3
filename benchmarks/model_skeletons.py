"""Parameters counted from config.json files against real skeletons of the same models.

Usage: PYTHONPATH=. python benchmarks/model_skeletons.py CONFIG.json...     (in an environment with torch and transformers)

The skeleton is built by transformers on the meta device, without weights and without a network. Configurations that this
transformers does not build are left out and counted.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

from diag.diagnose.plans.model_facts import facts_of_config

LIMIT = 0.006


def skeleton_parameters(config: dict[str, Any]) -> int | None:
    """Elements of all parameters, None where no class builds it."""
    torch, transformers = import_module("torch"), import_module("transformers")
    plain = {key: value for key, value in config.items() if key not in ("quantization_config", "auto_map")}
    if isinstance(plain.get("text_config"), dict):
        plain["text_config"] = {k: v for k, v in plain["text_config"].items() if k != "quantization_config"}
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text(json.dumps(plain), "utf-8")
        for name in ("AutoModelForImageTextToText", "AutoModelForCausalLM", "AutoModel"):
            try:
                read = transformers.AutoConfig.from_pretrained(folder)
                with torch.device("meta"):
                    model = getattr(transformers, name).from_config(read)
            except Exception:  # noqa: BLE001  # any refusal means: not with this class
                continue
            return sum(parameter.numel() for parameter in model.parameters())
    return None


def main(paths: list[str]) -> None:
    """One line a configuration, then how many agree."""
    good = built = 0
    for path in paths:
        config = json.loads(Path(path).read_text("utf-8"))
        counted, real = facts_of_config(config).total, skeleton_parameters(config)
        if not real:
            print(f"{Path(path).name:70} counted {counted / 1e9:9.3f}, not built")
            continue
        built += 1
        error = counted / real - 1
        good += abs(error) <= LIMIT
        print(
            f"{Path(path).name:70} counted {counted / 1e9:9.3f}, skeleton {real / 1e9:9.3f} {error:+.2%}",
            flush=True,
        )
    print(f"{good} of {built} within {LIMIT:.1%}; {len(paths) - built} not built")


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    if len(sys.argv) < 2:
        sys.exit("usage: python benchmarks/model_skeletons.py CONFIG.json...")
    main(sys.argv[1:])
