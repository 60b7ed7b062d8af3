"""A GPU that somebody uses, and a probe that would touch it."""
