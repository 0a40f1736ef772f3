"""Benchmarks of the science, on data whose masks are known."""
