"""Encoded dialogues come back out of their flat arrays as they went in."""

import random

import pyarrow as pa

from shared.prompt import IGNORE_INDEX, IMAGE_TOKEN_ID, EncodedPrompt
from trainer.data.encoded import EncodedDialogues
from trainer.data.records import parse_record
from trainer.data.shards import RECORDS, Rows, new_shard


def test_every_dialogue_comes_back_with_its_record(tmp_path):
    rng = random.Random(0)
    records, encoded = [], []
    for number in range(50):
        turns = [
            {"from": "human", "value": f"Question {number}?"},
            {"from": "gpt", "value": f"Answer {number}."},
        ]
        image = rng.choice([None, "a.jpg", "b.jpg"])
        raw = {"id": number, "image": image, "kind": rng.choice(["caption", "yesno"]), "conversations": turns}
        records.append(parse_record(raw))
        ids = [IMAGE_TOKEN_ID] * 4 * (image is not None) + rng.choices(range(50_000), k=rng.randint(1, 9))
        labels = [token if token >= 0 and rng.random() < 0.5 else IGNORE_INDEX for token in ids]
        encoded.append(EncodedPrompt(ids, labels, int(image is not None)))
    with new_shard(tmp_path / "train-00000.arrow", RECORDS) as writer:
        for start in range(0, 50, 20):
            part = [record.to_json() for record in records[start : start + 20]]
            writer.write_batch(pa.RecordBatch.from_pylist(part, RECORDS))

    dialogues = EncodedDialogues(Rows([tmp_path / "train-00000.arrow"]))
    kept = [number for number in range(50) if number % 7]
    for number in kept:
        dialogues.append(number, records[number], encoded[number], number % 2 == 0)
    assert len(dialogues) == len(kept) and len(list(dialogues)) == len(kept)
    for index, number in enumerate(kept):
        dialogue = dialogues[index]
        assert dialogue.record == records[number] and dialogue.encoded == encoded[number]
        assert (dialogue.image, dialogue.kind) == (records[number].image, records[number].kind)
        assert dialogue.mirrorable == (number % 2 == 0) and dialogues.tokens(index) == len(encoded[number])
    assert dialogues.images == list(dict.fromkeys(records[n].image for n in kept if records[n].image))
