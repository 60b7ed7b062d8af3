"""Frozen types; imports nothing of ours but itself."""

from diag.model.diagnosis import Culprit, Diagnosis, Evidence, Fix
from diag.model.evidence import Finding, Gap, InputFile, Observation, Origin
from diag.model.launch import Hardware, LaunchPlan, Service, Setting
from diag.model.report import SCHEMA, Redaction, Report, Unexplained
from diag.model.status import Phase, Reason, Role, Status, Strength, Verdict

__all__ = [
    "SCHEMA",
    "Culprit",
    "Diagnosis",
    "Evidence",
    "Finding",
    "Fix",
    "Gap",
    "Hardware",
    "InputFile",
    "LaunchPlan",
    "Observation",
    "Origin",
    "Phase",
    "Reason",
    "Redaction",
    "Report",
    "Role",
    "Service",
    "Setting",
    "Status",
    "Strength",
    "Unexplained",
    "Verdict",
]
