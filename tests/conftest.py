"""Before anything imports torch: tiny tensors are computed faster on one thread, and much faster on a busy machine."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # child processes inherit it
