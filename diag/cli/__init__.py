"""Typer commands; thin."""
