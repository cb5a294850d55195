"""Loops over tokens, compiled by numba and cached; imported only by the metrics that run them."""
