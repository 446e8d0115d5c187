"""A process that lets profiles be written until it ends or is killed: python profile_worker.py <data> <folder> <writer.toml>"""

from __future__ import annotations

import signal
import sys

from braidrec.runs.knowledge import write_profiles

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever started this process ignores
    print(write_profiles(sys.argv[1], sys.argv[2], sys.argv[3], "tfidf"), flush=True)
