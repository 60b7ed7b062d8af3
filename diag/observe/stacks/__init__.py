"""The launch's processes as they stand: states, stacks, sockets, environment."""

from diag.observe.stacks.attach import Look, look_at_launches

__all__ = ["Look", "look_at_launches"]
