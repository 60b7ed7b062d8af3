"""What broke a multi-node GPU launch, where, and what to change."""

__version__ = "0.1.0"
