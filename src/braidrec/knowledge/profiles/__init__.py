"""Profiles: what a language model writes of who would like an item and of what a person likes, to be encoded as their text."""
