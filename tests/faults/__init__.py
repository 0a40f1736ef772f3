"""Faults on purpose: what is done to the backend, and what must hold after it. `python -m tests.faults` measures."""
