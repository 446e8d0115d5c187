"""Sequence encoders, one model per file.  They own no item table: item vectors go in, states come out."""
