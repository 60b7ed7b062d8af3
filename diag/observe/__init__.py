"""Looking: impure, short, bounded by a deadline."""
