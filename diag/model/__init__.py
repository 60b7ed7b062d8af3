"""Frozen types; imports nothing of ours but itself."""

from diag.model.diagnosis import Culprit, Diagnosis, Evidence, Fix
from diag.model.evidence import Finding, Gap, InputFile, Observation, Origin
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
    "InputFile",
    "Observation",
    "Origin",
    "Phase",
    "Reason",
    "Redaction",
    "Report",
    "Role",
    "Status",
    "Strength",
    "Unexplained",
    "Verdict",
]
