"""Whole models of this task, one per file."""
