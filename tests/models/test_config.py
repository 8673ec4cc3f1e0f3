"""The network's configuration is validated, frozen and survives being written down."""

from __future__ import annotations

import dataclasses
import json

import pytest

from xyscannet.errors import ConfigError
from xyscannet.models import XYScanNetConfig, zoo


def test_config_round_trips_through_json():
    config = XYScanNetConfig(width=24, encoder_blocks=(1, 2, 6), scanners=("inter", "inter"), gate="mean")
    assert XYScanNetConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_config_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        XYScanNetConfig().width = 3


def test_unknown_key_names_the_nearest_known_one():
    with pytest.raises(ConfigError, match="bidirectional"):
        XYScanNetConfig.from_dict({"bidirectionl": True})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("width", 0),
        ("width", 7),
        ("width", 4.0),
        ("width", True),
        ("encoder_blocks", (1, 2)),
        ("encoder_blocks", (1, 2, -1)),
        ("decoder_blocks", "123"),
        ("d_state", "16"),
        ("ffn_expansion", 0.0),
        ("scanners", ("intra",)),
        ("scanners", ("intra", "outer")),
        ("bidirectional", "yes"),
        ("fusion", "sum"),
        ("gate", "max"),
    ],
)
def test_bad_values_are_refused_by_name(key, value):
    with pytest.raises(ConfigError, match=key):
        XYScanNetConfig(**{key: value})


def test_unknown_network_names_the_nearest_known_one():
    with pytest.raises(ConfigError, match="'xyscannet-plus'"):
        zoo.info("xyscannet-pls")
