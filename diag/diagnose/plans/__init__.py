"""Launch plans judged: GPUs, memory, disaggregation, number formats, addresses; and corrected. Pure over `LaunchPlan`s."""

from diag.diagnose.plans.case import Case
from diag.diagnose.plans.checking import check_plans
from diag.diagnose.plans.correcting import Correction, correct
from diag.diagnose.plans.hardware import GpuSpec, gpu_spec, parse_gpus
from diag.diagnose.plans.memory import MemoryEstimate, estimate
from diag.diagnose.plans.model_facts import ModelFacts
from diag.diagnose.plans.models import facts_of_folder, facts_of_model, facts_of_size, parse_parameters
from diag.diagnose.plans.summary import launch_facts

__all__ = [
    "Case",
    "Correction",
    "GpuSpec",
    "MemoryEstimate",
    "ModelFacts",
    "check_plans",
    "correct",
    "estimate",
    "facts_of_folder",
    "facts_of_model",
    "facts_of_size",
    "gpu_spec",
    "launch_facts",
    "parse_gpus",
    "parse_parameters",
]
