from __future__ import annotations

import signal

import pytest

from xyscan_cli import stopping
from xyscan_cli.stopping import ENDING, StopOnSignal


@pytest.mark.parametrize("first", ENDING)
def test_what_a_launcher_forwards_is_the_first_signal_again(
    first: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = [signal.getsignal(number) for number in ENDING]
    stop = StopOnSignal()
    assert not stop.asked() and stop.number is None
    with stop:
        for number in (first, first, signal.SIGTERM):
            signal.raise_signal(number)
        assert stop.asked() and stop.number == first
        monkeypatch.setattr(stopping, "FORWARDED", 0)  # as if the time had gone
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert stop.number == first
    assert [signal.getsignal(number) for number in ENDING] == before
