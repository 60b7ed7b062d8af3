"""Launch plans: files, command lines and printed configurations made into `LaunchPlan`s, every setting with its place."""

from diag.observe.plans.reading import (
    is_plan,
    plan_from_arguments,
    plan_from_engine_args,
    plan_from_mapping,
    read_plan,
    read_plan_text,
    read_plans,
)

__all__ = [
    "is_plan",
    "plan_from_arguments",
    "plan_from_engine_args",
    "plan_from_mapping",
    "read_plan",
    "read_plan_text",
    "read_plans",
]
