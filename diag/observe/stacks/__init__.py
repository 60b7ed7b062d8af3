"""Stacks of the launch's processes."""
