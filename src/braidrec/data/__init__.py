"""Interaction logs, catalogues, vocabularies, splits and typed batches."""
