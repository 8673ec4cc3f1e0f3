"""Measuring networks: complexity, timing, memory, parity."""
