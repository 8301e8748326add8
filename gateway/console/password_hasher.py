"""Argon2 that leaves the processors and the memory to the data plane: one hash at a time in a process.

The library computes without Python's lock, and Django's own parameters would take 8 threads and 100 MiB for each hash.
"""

import threading

from django.contrib.auth.hashers import Argon2PasswordHasher

_HASHING = threading.Semaphore(1)


class BoundedArgon2PasswordHasher(Argon2PasswordHasher):
    """46 MiB, one pass, one thread: the first of the equal choices in OWASP's Password Storage Cheat Sheet."""

    time_cost = 1
    memory_cost = 47104
    parallelism = 1

    def encode(self, password: str, salt: str) -> str:
        with _HASHING:
            return super().encode(password, salt)

    def verify(self, password: str, encoded: str) -> bool:
        with _HASHING:
            return super().verify(password, encoded)
