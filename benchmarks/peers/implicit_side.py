"""implicit's side of ``benchmarks/peers.py --closed-form``; runs where implicit is installed, prints one JSON line.

Its alternating least squares on the matrix that the other side left, by its defaults (three conjugate gradient steps a row) and
by its exact solver, and its recommendations for every user.
"""

from __future__ import annotations

import argparse
import json
import os
import time

import implicit
import numpy as np
from scipy.sparse import csr_matrix


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--matrix", required=True)
    parser.add_argument("--factors", type=int, default=100)
    parser.add_argument("--sweeps", type=int, default=15)
    options = parser.parse_args()
    threads = int(os.environ.get("OMP_NUM_THREADS", "1"))
    held = np.load(options.matrix)
    ones = np.ones(len(held["indices"]), np.float32)
    users = csr_matrix((ones, held["indices"], held["indptr"]), shape=tuple(held["shape"]))
    report = {"version": implicit.__version__, "threads": threads}
    for name, gradient in (("als", True), ("als_exact", False)):
        model = implicit.als.AlternatingLeastSquares(
            factors=options.factors,
            regularization=0.05,
            alpha=10.0,
            iterations=options.sweeps,
            use_cg=gradient,
            num_threads=threads,
            random_state=0,
        )
        wall, cpu = time.perf_counter(), time.process_time()
        model.fit(users, show_progress=False)
        report[name] = {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
    wall, cpu = time.perf_counter(), time.process_time()
    found, _ = model.recommend(np.arange(1, users.shape[0]), users[1:], N=20, filter_already_liked_items=True)
    report["recommend"] = {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu, "users": len(found)}
    print(json.dumps(report))


if __name__ == "__main__":
    main()
