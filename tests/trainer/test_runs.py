"""A run's surroundings: what it refuses, what it says, what it writes down. In one process, to be quick."""

import json
import logging

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from shared.checkpoint import CheckpointError
from trainer.cli import main
from trainer.config import PrepareConfig, TrainConfig
from trainer.data.prepare import prepare
from trainer.stages import finetune, pretrain

COMMON = {
    "dtype": "float32", "batch_tokens": 200, "max_tokens": 128, "device": "cpu", "log_every": 1, "max_steps": 4,
    "checkpoint_every": 2, "validate_every": 2, "samples": 2, "lora_rank": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tiny_preset, colour_records, tmp_path_factory):
    records, images = colour_records
    out = tmp_path_factory.mktemp("prepared")
    prepare(
        PrepareConfig(
            annotations=[records], images=[images], out=out, preset=str(tiny_preset()), validation=0.2
        )
    )
    return out


@pytest.fixture(scope="module")
def first(data, tiny_preset, tmp_path_factory):
    """A finished stage 1, tracked in every way."""
    out = tmp_path_factory.mktemp("runs") / "first"
    assert pretrain(TrainConfig(**COMMON, data=data, out=out, preset=str(tiny_preset()), wandb="offline"))
    return out


@pytest.fixture(scope="module")
def second(data, first, tmp_path_factory):
    """A finished stage 2."""
    out = tmp_path_factory.mktemp("runs") / "second"
    assert finetune(TrainConfig(**COMMON, data=data, out=out, init=first / "final"))
    return out


def again(data, first, second, **changes) -> TrainConfig:
    settings = COMMON | {"data": data, "out": second, "init": first / "final", "resume": True}
    return TrainConfig(**(settings | changes))


def rows(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_a_run_never_starts_over_the_checkpoints_of_another(data, first, second):
    before = sorted((second / "checkpoints").iterdir())
    with pytest.raises(ValueError, match="continue it with --resume, or choose another --out"):
        finetune(again(data, first, second, resume=False))
    assert sorted((second / "checkpoints").iterdir()) == before


def test_a_finished_run_can_be_resumed_to_a_later_end_but_not_to_an_earlier_one(data, first, second):
    with pytest.raises(CheckpointError, match=r"step-000004 is beyond the end of this run, step 3"):
        finetune(again(data, first, second, max_steps=3))
    assert finetune(again(data, first, second))


def test_resuming_with_other_settings_is_refused_or_said(data, first, second, caplog):
    recorded = (second / "config.json").read_text()
    with pytest.raises(CheckpointError, match="trained with lora_rank = 2, not 8"):
        finetune(again(data, first, second, lora_rank=8))
    assert (second / "config.json").read_text() == recorded
    with pytest.raises(CheckpointError, match="trained with accumulation = 1, not 2"):
        finetune(again(data, first, second, accumulation=2))
    with caplog.at_level(logging.WARNING, "trainer.state"):
        assert finetune(again(data, first, second, adapter_learning_rate=7e-4))
    assert "adapter_learning_rate is 0.0007 from here on; it was None" in caplog.text


def test_a_run_that_fails_leaves_its_curves(data, tiny_preset, tmp_path):
    (tmp_path / "checkpoints").write_text("in the way")
    with pytest.raises(OSError, match="checkpoints"):
        pretrain(TrainConfig(**COMMON, data=data, out=tmp_path, preset=str(tiny_preset())))
    assert (tmp_path / "curves.png").stat().st_size > 10_000


def test_features_are_computed_once_whatever_fits_a_row(data, first, tiny_preset, tmp_path):
    before = list(data.glob("features-*.f16"))
    settings = COMMON | {"max_steps": 1, "max_tokens": 24, "data": data, "out": tmp_path}
    assert pretrain(TrainConfig(**settings, preset=str(tiny_preset())))
    assert len(before) == 1 and list(data.glob("features-*.f16")) == before


def test_rows_longer_than_the_language_model_reads_are_refused(data, tiny_preset, tmp_path):
    settings = COMMON | {"max_tokens": 100_000, "data": data, "out": tmp_path}
    with pytest.raises(ValueError, match="max_tokens is 100000, the language model reads"):
        pretrain(TrainConfig(**settings, preset=str(tiny_preset())))


def test_an_adapter_that_is_there_keeps_its_shape(data, second, tmp_path, caplog):
    settings = COMMON | {"lora_rank": 16, "max_steps": 1, "data": data, "out": tmp_path / "third"}
    assert finetune(TrainConfig(**settings, init=second / "final"))
    assert "lora_rank stays 2" in caplog.text
    stored = json.loads((tmp_path / "third" / "final" / "adapter" / "adapter_config.json").read_text())
    assert stored["r"] == 2


def test_a_run_without_a_validation_split_validates_nothing(tiny_preset, colour_records, tmp_path, caplog):
    records, images = colour_records
    alone = [record for record in json.loads(records.read_text()) if "image" in record][:12]
    (tmp_path / "records.json").write_text(json.dumps(alone))
    prepare(
        PrepareConfig(annotations=[tmp_path / "records.json"], images=[images], out=tmp_path / "data",
                      preset=str(tiny_preset()), validation=0)
    )  # fmt: skip
    settings = COMMON | {"max_steps": 1, "data": tmp_path / "data", "out": tmp_path / "run"}
    assert pretrain(TrainConfig(**settings, preset=str(tiny_preset())))
    assert not any("val_loss" in row for row in rows(tmp_path / "run"))


def test_a_validation_split_that_the_shares_leave_empty_is_passed_over(data, tiny_preset, tmp_path, caplog):
    """With images only and no colour, nothing is left to learn; with little of it, perhaps only in validation."""
    settings = COMMON | {"max_steps": 1, "data": data, "out": tmp_path / "run", "shares": {"colour": 0.0}}
    with pytest.raises(ValueError, match="draw no record"):
        pretrain(TrainConfig(**settings, preset=str(tiny_preset())))
    assert "no validation: " in caplog.text and "val: the shares draw no record" in caplog.text


def test_every_step_is_tracked_in_jsonl_tensorboard_and_wandb(first):
    logged = [row for row in rows(first) if "loss" in row]
    assert [row["step"] for row in logged] == [1, 2, 3, 4]
    for row in logged:
        assert {"epoch", "grad_norm", "lr_projector", "tokens_per_second", "labels_per_second"} <= row.keys()
        assert 0 <= row["data_share"] <= 1 and row["memory_gib"] > 0 and row["mfu"] > 0
    board = EventAccumulator(str(first / "tensorboard")).Reload()
    assert {"loss", "val_loss", "mfu"} <= set(board.Tags()["scalars"])
    samples = [row["samples"] for row in rows(first) if "samples" in row]
    pictured = [index for index, row in enumerate(samples[-1]) if row["image"] != "(text)"]
    assert {f"samples/{index}" for index in pictured} == set(board.Tags()["images"]) and pictured
    [run] = (first / "wandb").glob("offline-run-*")
    assert list(run.glob("*.wandb")) and run.name.endswith((first / "wandb-id").read_text().strip())
    assert list((run / "files" / "media").rglob("*.png")), "sample images and curves"
    assert (first / "curves.png").stat().st_size > 10_000


def test_llavas_projector_starts_at_random_without_being_told(data, tiny_preset, tmp_path, caplog):
    preset = tmp_path / "mlp.toml"
    preset.write_text(tiny_preset().read_text() + '\n[projector]\nkind = "mlp2x_gelu"\n')
    with caplog.at_level(logging.INFO, "trainer.stages"):
        assert pretrain(TrainConfig(**COMMON, data=data, out=tmp_path / "run", preset=str(preset)))
    assert "only that with the residual block can be aligned" in caplog.text


def test_a_disk_error_is_a_message_and_exit_2(data, tiny_preset, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    code = main(["pretrain", "--data", str(data), "--out", str(tmp_path / "file" / "run"),
                 "--preset", str(tiny_preset()), "--max-steps", "1", "--device", "cpu"])  # fmt: skip
    assert code == 2
    assert "Not a directory" in capsys.readouterr().err


def test_flash_attention_says_what_it_needs(data, tiny_preset, tmp_path):
    settings = COMMON | {"data": data, "out": tmp_path / "run", "attention": "flash_attention_2"}
    with pytest.raises(ValueError, match=r"capability 8\.0"):
        pretrain(TrainConfig(**settings, preset=str(tiny_preset())))


@pytest.mark.slow
def test_compiled_layers_learn_the_same(data, first, second, tmp_path):
    settings = again(data, first, second, resume=False, out=tmp_path / "run", compile=True, lora_dropout=0.0)
    assert finetune(settings)
    plain = again(data, first, second, resume=False, out=tmp_path / "plain", lora_dropout=0.0)
    assert finetune(plain)
    ours, theirs = (
        [row["loss"] for row in rows(tmp_path / name) if "loss" in row] for name in ("run", "plain")
    )
    assert ours == pytest.approx(theirs, rel=1e-3)


def test_a_4_bit_run_with_8_bit_optimizer_and_checkpointing_goes_on_after_validations(data, first, tmp_path):
    settings = COMMON | {
        "data": data, "out": tmp_path / "run", "init": first / "final", "quantization": "nf4", "dtype": "bfloat16",
        "optimizer": "adamw8bit", "gradient_checkpointing": True, "lora_dropout": 0.0, "learning_rate": 3e-3,
    }  # fmt: skip
    assert finetune(TrainConfig(**settings))
    assert finetune(TrainConfig(**(settings | {"max_steps": 8, "resume": True})))
    logged = [row for row in rows(tmp_path / "run") if "loss" in row]
    assert [row["step"] for row in logged] == list(range(1, 9))
    assert all(row["grad_norm"] > 0 for row in logged)
    assert sum(row["loss"] for row in logged[-2:]) < 0.95 * sum(row["loss"] for row in logged[:2])
