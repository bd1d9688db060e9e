"""`plan` at full size without weights, and its step against a real one of a tiny model."""

import json
import math
from dataclasses import replace

import pytest
from transformers import CLIPConfig

from shared.checkpoint import build_model, save_checkpoint
from shared.config import load_preset
from shared.lora import attach_lora
from trainer.cli import main
from trainer.config import PrepareConfig, TrainConfig
from trainer.data.prepare import prepare
from trainer.data.prepared import PreparedData
from trainer.objective import Objective
from trainer.planning.fit import usable
from trainer.planning.model import visual_tokens
from trainer.planning.simulate import Setup, make_batch, parameters, simulate
from trainer.planning.tracker import StepTracker


@pytest.mark.parametrize(
    ("preset", "stage", "trained", "frozen_language"),
    [
        ("phi2", "pretrain", {"projector": 15_086_080}, 2_779_683_840),
        # LoRA of rank 16 on q, k, v, dense (2560 to 2560) and fc1, fc2 (2560 to 10240), 32 layers:
        # 32 * 16 * (4 * (2560 + 2560) + 2 * (2560 + 10240))
        ("phi2", "finetune", {"projector": 15_086_080, "adapters": 23_592_960}, 2_779_683_840),
        ("phi3", "pretrain", {"projector": 21_249_024}, 3_821_079_552),
        # qkv (3072 to 9216), o (3072 to 3072), gate_up (3072 to 16384), down (8192 to 3072):
        # 32 * 16 * (12288 + 6144 + 19456 + 11264)
        ("phi3", "finetune", {"projector": 21_249_024, "adapters": 25_165_824}, 3_821_079_552),
    ],
)
def test_parameters_at_full_size(preset, stage, trained, frozen_language):
    counts = parameters(Setup(load_preset(preset), stage, rows=1, row_tokens=64, label_share=0.4))
    assert {part: learned for part, (learned, _) in counts.items() if learned} == trained
    assert counts["language model"] == (0, frozen_language)
    assert counts["vision tower"] == (0, 87_456_000)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_phi2_fits_ten_gib(stage, tmp_path, capsys):
    out = tmp_path / "plan.json"
    assert main(["plan", "--stage", stage, "--gpu-memory", "10", "--price", "2", "--out", str(out)]) == 0
    made = json.loads(out.read_text())
    assert sum(made["step"]["memory"].values()) < usable(10)
    assert made["setup"]["rows"] >= 4 and made["accumulation"] >= 1
    assert made["cost"] == pytest.approx(2 * made["hours"])
    settings = tmp_path / "run.toml"
    settings.write_text("\n".join(made["settings"]))
    TrainConfig.model_validate({"data": tmp_path, "out": tmp_path} | _toml(settings))
    said = capsys.readouterr().out
    assert all(line in said for line in made["settings"])


def _toml(path):
    import tomllib

    return tomllib.loads(path.read_text())


def test_settings_of_a_run_are_taken(tmp_path, capsys):
    run = tmp_path / "run.toml"
    run.write_text('preset = "embedded"\nbatch_tokens = 128\nmax_tokens = 64\nlora_rank = 4\nseed = 3\n')
    out = tmp_path / "plan.json"
    assert main(["plan", "--run", str(run), "--max-tokens", "32", "--out", str(out)]) == 0
    made = json.loads(out.read_text())
    assert made["setup"]["model"] == "embedded"
    assert (made["setup"]["rows"], made["setup"]["row_tokens"], made["setup"]["lora"][0]) == (4, 32, 4)
    said = capsys.readouterr().out
    assert "assumed" in said and f"{made['step']['parameters']['adapters'][0]:,}" in said
    assert made["accumulation"] == 1  # the trainer's default, not plan's


def test_a_run_is_planned_with_the_model_that_it_starts_from_and_to_its_end(tmp_path, tiny_preset):
    model = build_model(load_preset(str(tiny_preset("phi"))), dtype="float32")
    save_checkpoint(model, tmp_path / "first")
    run = tmp_path / "run.toml"
    run.write_text(
        f'init = "{tmp_path / "first"}"\nmax_steps = 17\nattention = "flash_attention_2"\nmax_tokens = 64\n'
    )
    out = tmp_path / "plan.json"
    assert main(["plan", "--run", str(run), "--gradient-checkpointing", "--out", str(out)]) == 0
    made = json.loads(out.read_text())
    assert made["setup"]["model"] == model.config.name and made["steps"] == 17
    assert made["setup"]["gradient_checkpointing"]
    run.write_text("max_stepps = 17\n")
    assert main(["plan", "--run", str(run)]) == 2


def test_memory_finds_what_a_run_leaves_open_and_its_data_is_counted(tmp_path, tiny_preset, colour_records):
    records, images = colour_records
    preset, data, out = str(tiny_preset()), tmp_path / "data", tmp_path / "plan.json"
    prepare(PrepareConfig(annotations=[records], images=[images], out=data, preset=preset, validation=0.2))
    run = tmp_path / "run.toml"
    run.write_text(f'preset = "{preset}"\ndata = "{data}"\nmax_tokens = 64\n')
    arguments = ["plan", "--stage", "pretrain", "--run", str(run), "--out", str(out)]
    assert main(arguments) == 0
    assert json.loads(out.read_text())["setup"]["rows"] == 16  # the trainer's 1,024 tokens
    assert main([*arguments, "--gpu-memory", "1"]) == 0
    made = json.loads(out.read_text())
    assert made["setup"]["rows"] > 16
    count, setup = sum(bool(record.image) for record in PreparedData(data).records("train")), made["setup"]
    assert made["steps"] == math.ceil(count * setup["image_every"] / made["tokens_per_step"])
    run.write_text(run.read_text() + "batch_tokens = 128\n")
    assert main([*arguments, "--gpu-memory", "1"]) == 0
    assert json.loads(out.read_text())["setup"]["rows"] == 2


def test_a_batch_that_is_given_is_made_to_fit_by_checkpointing(tmp_path):
    out = tmp_path / "plan.json"
    arguments = ["plan", "--preset", "phi2", "--gpu-memory", "24", "--out", str(out), "--batch-tokens"]
    for wanted, checkpointing in ((1536, False), (12288, True)):
        assert main([*arguments, str(wanted)]) == 0
        setup = json.loads(out.read_text())["setup"]
        assert setup["rows"] * setup["row_tokens"] == wanted
        assert setup["gradient_checkpointing"] == checkpointing


def test_gpus_share_the_batches_of_a_step(tmp_path, tiny_preset, capsys):
    out = tmp_path / "plan.json"
    flags = ["plan", "--preset", str(tiny_preset()), "--gpus", "4", "--out", str(out)]
    assert main([*flags, "--batch-tokens", "16384"]) == 0
    assert json.loads(out.read_text())["accumulation"] == 4
    assert main([*flags, "--accumulation", "2"]) == 2
    assert "4 gpus share the 2 batches" in capsys.readouterr().err


def test_the_dimensions_of_a_whole_clip_repository_are_its_vision_tower_s(tmp_path):
    CLIPConfig(vision_config={"hidden_size": 48, "image_size": 28, "patch_size": 14}).save_pretrained(
        tmp_path
    )
    preset = load_preset("phi2")
    vision = preset.vision.model_copy(update={"source": str(tmp_path), "image_size": 28})
    assert visual_tokens(preset.model_copy(update={"vision": vision})) == 4


def test_gradients_of_the_passes_before_stay_in_memory(tiny_preset):
    config = load_preset(str(tiny_preset()))
    one = Setup(
        config, "finetune", rows=3, row_tokens=50, label_share=0.4, dtype="float32", lora=(64, 64, 0.0)
    )
    several = simulate(replace(one, accumulates=True))
    trained = 4 * sum(count for count, _ in several.parameters.values())
    assert several.memory["gradients"] == trained
    assert simulate(one).peak < several.peak <= simulate(one).peak + trained * 1.01


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("kind", ["llama", "phi"])
def test_a_simulated_step_takes_what_a_real_one_takes(kind, checkpointing, tiny_preset):
    """The same tracker around a real step of the real model, tensor by tensor."""
    config = load_preset(str(tiny_preset(kind)))
    setup = Setup(
        config, "finetune", rows=3, row_tokens=50, label_share=0.4, dtype="float32", attention="eager", gpu=False,
        gradient_checkpointing=checkpointing, lora=(4, 8, 0.1),
    )  # fmt: skip
    planned = simulate(setup)
    model = build_model(config, dtype="float32", attn_implementation="eager")
    if checkpointing:
        model.language.activation_checkpointing_enable({"use_reentrant": False})
    model.language = attach_lora(model.language, config.language.lora_targets, rank=4, alpha=8, dropout=0.1)
    batch = make_batch(model, setup)
    tracker = StepTracker(model.causal_lm.config.vocab_size)
    with tracker:
        Objective(model).train()(batch).backward()
    real = sum(tracker.peak_parts().values())
    resident = ("weights", "optimizer")
    assert sum(v for k, v in planned.memory.items() if not k.startswith(resident)) == pytest.approx(
        real, rel=0.03
    )
    learned = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert sum(count for count, _ in planned.parameters.values()) == learned
    assert planned.memory["optimizer"] == 8 * learned


def test_checkpointing_and_four_bits_save_memory(tiny_preset):
    def peak(**changes):
        base = {"rows": 8, "row_tokens": 64, "label_share": 0.3, "attention": "sdpa", "layers": 8}
        return simulate(Setup(load_preset(str(tiny_preset("phi"))), "finetune", **base | changes))

    plain, checkpointed, packed = peak(), peak(gradient_checkpointing=True), peak(quantization="nf4")
    assert checkpointed.memory["activations"] < 0.4 * plain.memory["activations"]
    assert checkpointed.flops > plain.flops
    assert packed.memory["weights: language model"] < plain.memory["weights: language model"]
    assert packed.parameters == plain.parameters


def test_mistakes_are_said(tiny_preset, capsys):
    for memory in ("0.64", "0.64GiB"):
        flags = ["--quantization", "none", "--no-gradient-checkpointing", "--gpu-memory", memory]
        assert main(["plan", "--preset", str(tiny_preset()), *flags]) == 2
        assert "smaller" in capsys.readouterr().err
    assert main(["plan", "--gpu", "abacus"]) == 2
    assert "A100" in capsys.readouterr().err
