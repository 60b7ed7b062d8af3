"""Number formats, quantization and attention kernels against the GPU's architecture."""

from __future__ import annotations

import re
from collections.abc import Iterator

from diag.diagnose.plans.case import Case, absent, judged, where
from diag.diagnose.plans.settings import engine_of, setting_of, text_of
from diag.diagnose.plans.weights import quantization_of
from diag.model import Finding, Status
from diag.model.launch import Service

NEEDS: dict[str, tuple[float, str]] = {
    # method -> lowest compute capability and what happens below; vLLM docs, quantization/supported_hardware
    "awq": (7.5, "AWQ needs Turing or later"),
    "awq_marlin": (8.0, "Marlin kernels need Ampere or later"),
    "gptq_marlin": (8.0, "Marlin kernels need Ampere or later"),
    "marlin": (8.0, "Marlin kernels need Ampere or later"),
    "gptq": (6.0, "GPTQ needs Pascal or later"),
    "squeezellm": (7.0, "SqueezeLLM needs Volta or later"),
    "bitsandbytes": (7.0, "bitsandbytes needs Volta or later"),
    "fp8": (8.0, "FP8 weights need Ampere (weight-only) or Ada and later (whole)"),
    "fbgemm_fp8": (8.0, "FBGEMM FP8 needs Ampere or later"),
    "modelopt": (8.9, "ModelOpt FP8 needs Ada or later"),
    "modelopt_fp4": (10.0, "NVFP4 needs Blackwell"),
    "mxfp4": (8.0, "MXFP4 kernels need Ampere or later"),
    "aqlm": (6.0, "AQLM needs Pascal or later"),
    "gguf": (6.0, "GGUF kernels need Pascal or later"),
    "deepspeedfp": (6.0, "needs Pascal or later"),
}


def judge_dtype(case: Case) -> Iterator[Finding]:
    """bfloat16 on a GPU that has none."""
    spec = case.spec
    if spec is None or spec.bfloat16:
        return
    for service in case.engines:
        if absent(service):
            continue
        dtype = (text_of(service, "dtype") or "auto").lower()
        facts = case.facts(service)
        if dtype in ("bfloat16", "bf16"):
            yield judged(
                "dtype-unsupported",
                service,
                Status.FAIL,
                f"{service.name}: dtype bfloat16 on {spec.name} (compute capability {spec.capability}); it needs 8.0 or later",
                setting=where(service, "dtype"),
                capability=spec.capability,
                do="Set dtype: float16 (half)",
                settings={"dtype": "float16"},
                alternatives=["float32, at twice the memory"],
            )
        elif (
            dtype == "auto"
            and engine_of(service) == "vllm"
            and facts.dtype in (None, "bfloat16")
            and facts.method is None
        ):
            # vLLM of 2024 and 2025 refuses a bf16 checkpoint under dtype auto here; later ones cast to float16 by themselves.
            yield judged(
                "dtype-unsupported",
                service,
                Status.WARN,
                f"{service.name}: dtype is not set, so a bfloat16 checkpoint asks for bfloat16, which {spec.name} (compute capability {spec.capability}) lacks",
                setting=where(service, "dtype", "model"),
                certain=False,
                capability=spec.capability,
                do="Set dtype: float16 (half)",
                settings={"dtype": "float16"},
            )


def judge_cache_dtype(case: Case) -> Iterator[Finding]:
    """An FP8 cache on a GPU without FP8."""
    spec = case.spec
    if spec is None or spec.fp8:
        return
    for service in case.engines:
        dtype = (text_of(service, "kv-cache-dtype") or "auto").lower()
        if dtype.startswith("fp8") and not spec.bfloat16:
            yield judged(
                "dtype-unsupported",
                service,
                Status.FAIL,
                f"{service.name}: kv-cache-dtype {dtype} on {spec.name} (compute capability {spec.capability})",
                setting=where(service, "kv-cache-dtype"),
                do="Leave kv-cache-dtype at auto",
                settings={"kv-cache-dtype": "auto"},
            )


def judge_quantization(case: Case) -> Iterator[Finding]:
    """The quantization method against the architecture."""
    spec = case.spec
    if spec is None or spec.capability is None:
        return
    for service in case.engines:
        method, bits = quantization_of(service, case.facts(service))
        if method is None or absent(service):
            continue
        option = text_of(service, "quantization")
        key = (
            "fp8"
            if method == "compressed-tensors" and "fp8" in (service.model or "").lower()
            else "modelopt_fp4"
            if method == "nvfp4"
            else method
        )
        lowest, sentence = NEEDS.get(key, (0.0, ""))
        if key == "nvfp4" or not sentence or spec.capability >= lowest:
            continue
        if key == "modelopt_fp4" and spec.bfloat16:
            continue  # engines of 2026 run FP4 weights with weight-only kernels on Ampere and later
        yield judged(
            "quantization-unsupported",
            service,
            Status.FAIL,
            f"{service.name}: {method} weights on {spec.name} (compute capability {spec.capability}); {sentence}",
            setting=where(service, "quantization", "model"),
            capability=spec.capability,
            bits=bits,
            do="Take the model's AWQ, GPTQ or 16-bit files, or another GPU"
            if not option
            else "Use a method this GPU has",
            settings={"quantization": "gptq"} if option in ("gptq_marlin", "awq_marlin") else {},
        )


def judge_half_only(case: Case) -> Iterator[Finding]:
    """vLLM's plain AWQ kernels (asked for by name, so that Marlin's are not taken) know float16 only."""
    for service in case.engines:
        dtype = (text_of(service, "dtype") or "").lower()
        if (
            engine_of(service) == "vllm"
            and text_of(service, "quantization") == "awq"
            and dtype in ("bfloat16", "bf16")
        ):
            yield judged(
                "quantization-unsupported",
                service,
                Status.FAIL,
                f"{service.name}: quantization awq takes float16 only, dtype is {dtype}",
                setting=where(service, "dtype", "quantization"),
                do="Set dtype: float16 (half), or quantization: awq_marlin, which takes both",
                settings={"dtype": "float16"},
            )


FAMILIES = {
    "awq": "awq",
    "awq_marlin": "awq",
    "auto_awq": "awq",
    "gptq": "gptq",
    "gptq_marlin": "gptq",
    "auto_gptq": "gptq",
    "gptq_bitblas": "gptq",
}


def judge_contradiction(case: Case) -> Iterator[Finding]:
    """A method asked for that the files, by their own name, do not have."""
    for service in case.engines:
        asked = FAMILIES.get(text_of(service, "quantization") or "")
        name = (service.model or "").lower()
        has = next((each for each in ("awq", "gptq") if re.search(rf"[-_/]{each}\b", name)), None)
        if asked is None or has is None or asked == has:
            continue
        yield judged(
            "quantization-unsupported",
            service,
            Status.FAIL,
            f"{service.name}: quantization {asked} for a model whose files are {has.upper()} by their name; the engine compares the two and refuses",
            setting=where(service, "quantization"),
            do=f"Take the option out (the files tell it), or write {has}",
            settings={"quantization": has},
        )


def judge_attention(case: Case) -> Iterator[Finding]:
    """An attention backend that was asked for against the architecture; a fallback is a note."""
    spec = case.spec
    if spec is None or spec.capability is None:
        return
    noted = False
    for service in case.engines:
        if absent(service):
            continue
        asked = (
            str(service.env["VLLM_ATTENTION_BACKEND"].value)
            if "VLLM_ATTENTION_BACKEND" in service.env
            else text_of(service, "attention-backend") or ""
        )
        found = _backend(service, asked.upper().replace("-", "_"), case)
        if found is not None:
            yield found
        elif not spec.flash_attention_2 and not noted and not asked and engine_of(service) == "vllm":
            noted = True
            yield judged(
                "attention-backend-unsupported",
                service,
                Status.OK,
                f"FlashAttention-2 does not run on {spec.name} (compute capability {spec.capability}); vLLM falls back to XFormers or Triton by itself: slower, no failure",
                note=True,
                capability=spec.capability,
            )


def _backend(service: Service, asked: str, case: Case) -> Finding | None:
    spec = case.spec
    if spec is None or spec.capability is None or not asked:
        return None
    setting = service.env.get("VLLM_ATTENTION_BACKEND") or setting_of(service, "attention-backend")
    bad = None
    if asked in ("FLASH_ATTN", "FA3", "FA2", "FLASH_ATTN_VLLM_V1") and not spec.flash_attention_2:
        bad = "FlashAttention needs compute capability 8.0 or later"
    elif asked == "FA3" and not (spec.flash_attention_3 or (8.0 <= spec.capability < 9.0)):
        bad = "FlashAttention-3 in SGLang needs Ampere to Hopper"
    elif asked == "FA3" and 8.0 <= spec.capability < 9.0 and case.facts(service).kv_lora_rank:
        bad = "with latent attention (MLA) FlashAttention-3 needs Hopper"
    elif asked in ("FLASHMLA", "CUTLASS_MLA", "TRTLLM_MLA", "TRTLLM_MHA") and spec.capability < (
        9.0 if asked == "FLASHMLA" else 10.0
    ):
        bad = f"{asked} needs {'Hopper' if asked == 'FLASHMLA' else 'Blackwell'} or later"
    elif asked.startswith("FLASHINFER") and not spec.flashinfer:
        bad = "FlashInfer needs compute capability 7.5 or later"
    if bad is None:
        return None
    return judged(
        "attention-backend-unsupported",
        service,
        Status.FAIL,
        f"{service.name}: attention backend {asked} on {spec.name} (compute capability {spec.capability}); {bad}",
        setting=setting,
        capability=spec.capability,
        do="Leave the backend to the engine",
        remove=setting.key if setting is not None else None,
    )


JUDGES = (
    judge_contradiction,
    judge_dtype,
    judge_cache_dtype,
    judge_quantization,
    judge_half_only,
    judge_attention,
)
