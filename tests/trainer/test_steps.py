"""Every batch is computed once, at any number of processes and from any position; nothing waits for ever."""

from collections import Counter

import pytest

from shared.checkpoint import build_model
from shared.config import load_preset
from trainer.config import PrepareConfig, TrainConfig
from trainer.data.features import build_features
from trainer.data.loader import PackLoader
from trainer.data.prepare import prepare
from trainer.data.prepared import PreparedData
from trainer.data.steps import BatchMaker, deal_steps, prefetch
from trainer.state import Position

STEPS = 23  # more than three epochs


@pytest.fixture(scope="module")
def data(tiny_preset, colour_records, tmp_path_factory) -> PreparedData:
    records, images = colour_records
    out = tmp_path_factory.mktemp("prepared")
    prepare(PrepareConfig(annotations=[records], images=[images], out=out, preset=str(tiny_preset())))
    return PreparedData(out)


@pytest.fixture(scope="module")
def model(tiny_preset):
    return build_model(load_preset(str(tiny_preset())), dtype="float32")


def load(data, model, split="train", **options) -> PackLoader:
    return PackLoader(
        data,
        split,
        model.prompt,
        **({"batch_tokens": 150, "max_tokens": 128, "shares": {}, "seed": 0} | options),
    )


@pytest.fixture(scope="module")
def dealt(data, model):
    """`dealt(processes, process, start)`: (step, labels of its real batches) of one process."""
    loader = load(data, model)
    features = build_features(model.vision, loader.images, data.images, data.folder, mirror=True)
    maker = BatchMaker(model, features)
    config = TrainConfig(
        data=data.folder, out=data.folder, accumulation=4, mirror=True, teacher_forcing="linear"
    )

    def deal(processes=1, process=0, start=None):
        return list(
            deal_steps(
                loader, maker, config, start or Position(), STEPS, process=process, processes=processes
            )
        )

    return deal


def contents(step):
    """What a step learns, batch by batch: tokens, which image views, which tokens are replaced."""
    return Counter(
        (
            tuple(batch.packed.input_ids.flatten().tolist()),
            round(float(batch.features.double().sum()), 4),
            tuple([] if batch.replaced is None else batch.replaced.tolist()),
        )
        for batch in step.batches
        if batch.weight
    )


@pytest.mark.parametrize("processes", [2, 3, 4])
def test_processes_share_every_step_without_overlap_or_loss(dealt, processes):
    single = dealt()
    shares = [dealt(processes, process) for process in range(processes)]
    for index, step in enumerate(single):
        parts = [share[index] for share in shares]
        assert sum((contents(part) for part in parts), Counter()) == contents(step)
        assert {len(part.batches) for part in parts} == {-(-4 // processes)}
        assert all((part.labels, part.position, part.epoch) == (step.labels, step.position, step.epoch)
                   for part in parts)  # fmt: skip
    labels = sum(int(batch.weight) * len(batch.packed.labels) for step in single for batch in step.batches)
    assert labels == single[-1].position.labels_seen == sum(step.labels for step in single)


def test_any_position_continues_at_another_number_of_processes(dealt):
    single = dealt()
    assert single[-1].epoch > 3
    for stop in (1, 7, 15):
        rest = [dealt(2, process, single[stop - 1].position) for process in range(2)]
        again = [sum((contents(part) for part in parts), Counter()) for parts in zip(*rest, strict=True)]
        assert again == [contents(step) for step in single[stop:]]
        assert rest[0][-1].position == single[-1].position


def test_a_whole_epoch_holds_every_label_once(data, model):
    loader = load(data, model)
    labels = sum(label >= 0 for dialogue in loader.dialogues for label in dialogue.encoded.labels)
    for epoch in range(3):
        batches = loader.batches(epoch)
        assert sum(len(pack.labels) for rows in batches for row in rows for pack in row) == labels


def test_without_trees_every_dialogue_is_alone_and_nothing_is_padding(data, model):
    loader = load(data, model, trees=False)
    batches = loader.batches(0)
    assert all(len(rows) == 1 for rows in batches)
    assert sum(len(row) for rows in batches for row in rows) == len(loader.dialogues)
    assert all(sum(map(len, row)) <= 150 for rows in batches for row in rows)


def test_shares_that_draw_nothing_and_unknown_kinds_are_errors(data, model, tmp_path):
    with pytest.raises(ValueError, match="draw no record"):
        load(data, model, shares={"colour": 0.0, "text": 0.0}).batches(0)
    with pytest.raises(ValueError, match="of the kind sound; it has colour, text"):
        load(data, model, shares={"sound": 0.5}).check_shares()
    with pytest.raises(ValueError, match="less than or equal to 1"):
        TrainConfig(data=tmp_path, out=tmp_path, shares={"colour": 1.5})


def test_prefetch_keeps_the_order_and_passes_errors_on():
    assert list(prefetch(iter(range(50)))) == list(range(50))

    def fail():
        yield 1
        raise OSError("disk gone")

    items = prefetch(fail())
    assert next(items) == 1
    with pytest.raises(OSError, match="disk gone"):
        next(items)
