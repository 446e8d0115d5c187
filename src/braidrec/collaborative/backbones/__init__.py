"""Backbones of node vectors, one per file."""
