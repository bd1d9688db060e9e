"""The configurations for several devices are Accelerate's own; attention is chosen by what the device can do."""

from pathlib import Path

import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser

from trainer.devices import choose_attention, start_accelerator

FILES = sorted((Path(__file__).parents[2] / "trainer" / "recipes" / "accelerate").glob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_accelerate_knows_every_key_of_a_configuration(path):
    config = load_config_from_file(str(path))
    kinds = {"ddp": "MULTI_GPU", "fsdp": "FSDP", "zero2": "DEEPSPEED"}
    assert config.distributed_type == kinds[path.stem] and config.mixed_precision == "no"
    options = {action.dest for action in launch_command_parser()._actions}
    raw = yaml.safe_load(path.read_text())
    for section in ("fsdp_config", "deepspeed_config"):
        assert set(raw.get(section, {})) <= options
    assert f"trainer/recipes/accelerate/{path.name} " in path.read_text()


def test_a_cpu_takes_eager_attention_and_no_flash_attention(caplog):
    with caplog.at_level("INFO", "trainer.devices"):
        assert choose_attention("auto", torch.device("cpu")) == "eager"
    assert "attention: eager (for cpu)" in caplog.text
    assert choose_attention("sdpa", torch.device("cpu")) == "sdpa"
    with pytest.raises(ValueError, match="needs an NVIDIA GPU"):
        choose_attention("flash_attention_2", torch.device("cpu"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_an_error():
    with pytest.raises(ValueError, match="finds no CUDA device"):
        start_accelerator("cuda", 1, 1.0)
