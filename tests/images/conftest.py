from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    """The tests write thousands of files; what happens when fsync fails has a test of its own."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
