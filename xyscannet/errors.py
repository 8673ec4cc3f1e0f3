"""Errors a user can act on. Each message says what was wrong, with which file, and what to do."""

from __future__ import annotations


class XYScanError(Exception):
    """Base of every error this package raises on purpose."""


class InputError(XYScanError):
    """An input file cannot be read or its result cannot be written; other inputs are unaffected."""


class ConfigError(XYScanError):
    """A wrong option, configuration value or combination of them."""


class UnavailableError(XYScanError):
    """Something the environment lacks: a backend, weights, a data set, an optional package."""
