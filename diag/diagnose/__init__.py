"""Observations and playbooks to ranked diagnoses. Pure."""
