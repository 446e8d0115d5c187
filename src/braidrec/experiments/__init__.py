"""The papers' tables as data, the runs they need, and what came out of them here."""
