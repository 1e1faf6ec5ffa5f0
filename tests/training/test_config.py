from __future__ import annotations

import subprocess
import sys

import pytest

from bertwright.config import config_from_dict, config_to_dict
from bertwright.errors import ConfigError
from bertwright.training.config import TrainingConfig


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("epochs", 0), ("lr", 0), ("warmup", 1), ("warmup", -0.1), ("weight_decay", -1)),
        *(("batch_size", 0), ("batch_tokens", 0), ("accumulate", 0), ("clip_norm", -1)),
        *(("evals_per_epoch", 0), ("patience", 0), ("max_steps", 0), ("minutes", 0)),
        *(("max_length", 1), ("checkpoint_steps", 0), ("adam_beta2", 1), ("adam_eps", 0)),
        *(("threads", 0), ("seed", -1), ("lr", float("nan"))),
    ],
)
def test_values_out_of_range_name_the_option(field, value):
    with pytest.raises(ConfigError, match="--" + field.replace("_", "-")):
        TrainingConfig(**{field: value})


def test_it_survives_the_way_through_a_recipe():
    config = TrainingConfig(epochs=0.5, batch_size=None, precision="fp32", minutes=3)
    assert config_from_dict(TrainingConfig, config_to_dict(config)) == config


def test_the_options_alone_do_not_import_torch():
    code = "import bertwright.training.config, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
