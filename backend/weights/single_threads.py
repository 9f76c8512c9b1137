"""Threads that do not divide their work further: where there are as many of them as there is work for."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import torch


def single_threaded_pool(workers: int, name: str) -> ThreadPoolExecutor:
    """Workers in each of which PyTorch computes with one thread. Threads of two kinds would wait for each other.

    A thread takes the number that is set when it first asks, and keeps it, so all of them begin here.
    """
    pool = ThreadPoolExecutor(workers, thread_name_prefix=name)
    before = torch.get_num_threads()
    have_asked = threading.Barrier(workers + 1)

    def ask() -> None:
        torch.get_num_threads()
        have_asked.wait()

    torch.set_num_threads(1)
    try:
        for _ in range(workers):
            pool.submit(ask)
        have_asked.wait()
    finally:
        torch.set_num_threads(before)
    return pool
