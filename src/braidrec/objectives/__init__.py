"""Losses and estimators, as plain functions and small modules."""
