"""Whole models, one per file, each fitted at once."""
