"""Additions to braidrec from outside: one file each, found by entry points."""
