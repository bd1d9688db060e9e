"""The rules that turn captions and boxes into dialogues, on captions with a known right outcome."""

from collections import Counter

import pytest

from trainer.data.dialogues.activity import activity_facts
from trainer.data.dialogues.boxes import Box, BoxedPhoto, balance_sides, box_side_facts, box_yesno_facts
from trainer.data.dialogues.captions import Photo, clean, tokens
from trainer.data.dialogues.colour import colour_facts, colour_yesno_facts
from trainer.data.dialogues.count import count_facts
from trainer.data.dialogues.facts import cap, to_record
from trainer.data.dialogues.indoors import indoors_facts
from trainer.data.dialogues.retention import RETENTION_QUESTIONS
from trainer.data.dialogues.text import text_records, whole_sentences
from trainer.data.dialogues.text_prompts import prompts
from trainer.data.dialogues.things import choice_facts
from trainer.data.dialogues.views import crop_boxes, mirror_boxes
from trainer.data.dialogues.who import who_facts
from trainer.data.dialogues.yesno import yesno_facts


def photo(*captions: str, file: str = "photo.jpg") -> Photo:
    return Photo(file, captions)


def answers(facts) -> dict[str, str]:
    return {fact.topic: fact.answer for fact in facts}


@pytest.mark.parametrize(
    ("caption", "cleaned"),
    [
        ("a dog runs on the beach .", "A dog runs on the beach."),
        ("Two men , one in a hat , talk", "Two men, one in a hat, talk."),
        ("The man 's hat is red .", "The man's hat is red."),
        ('A sign says " stop " .', "A sign says stop."),
        ("A t - shirt with number # 7 .", "A t-shirt with number 7."),
        ("Dogs run", ""),
    ],
)
def test_captions_become_sentences(caption, cleaned):
    assert clean(caption) == cleaned


def test_words_that_mislead_are_joined():
    assert "dog" not in tokens("A woman eats a hot dog .")
    assert "bike" not in tokens("A man on a dirt bike .")
    assert tokens("The man 's t - shirt") == ["the", "man", "'s", "tshirt"]


def test_colour_needs_agreement():
    agreed = photo("A black dog runs .", "A black dog in the grass .", "A dog runs .")
    assert answers(colour_facts([agreed])) == {"colour:dog": "black"}
    split = photo("A black dog runs .", "A white dog runs .")
    assert answers(colour_facts([split])) == {}
    two = photo("A black dog and a brown dog play .", "A black dog plays with another dog .")
    assert answers(colour_facts([two])) == {}


def test_two_colours_are_one_answer():
    spotted = photo("A black and white dog jumps .", "The white and black dog jumps .")
    assert answers(colour_facts([spotted])) == {"colour:dog": "black and white"}


def test_brown_and_tan_do_not_conflict():
    (fact,) = colour_facts([photo("A brown dog runs .", "A tan dog runs .", "The brown dog runs .")])
    assert fact.answer == "brown"
    assert "tan" in fact.accepted


def test_a_shirt_in_a_group_needs_two_witnesses():
    once = photo("Two men , one in a red shirt , talk .", "Two men talk .")
    assert answers(colour_facts([once])) == {}
    twice = photo("Two men , one in a red shirt , talk .", "A man in a red shirt talks to another .")
    assert answers(colour_facts([twice])) == {"colour:shirt": "red"}


def test_count_takes_numerals_and_articles():
    pair = photo("Two dogs run .", "A black dog and a white dog run .", "Dogs run in the snow .")
    assert answers(count_facts([pair]))["count:dogs"] == "two"
    unsure = photo("Two dogs run .", "Three dogs run .", "Two dogs play .")
    assert "count:dogs" not in answers(count_facts([unsure]))
    alone = photo(*["A dog runs ."] * 5)
    assert answers(count_facts([alone])) == {"count:dogs": "one"}
    crowd = photo("A man in a crowd .", *["A man talks ."] * 4)
    assert "count:people" not in answers(count_facts([crowd]))


def test_things_stand_behind_their_verbs():
    carries = photo("A dog carries a stick .", "The dog is holding a large stick .", "A dog runs .")
    assert answers(choice_facts([carries]))["object:dog carries"] == "stick"
    beside = photo("A dog runs past a stick .", "A dog near a stick .")
    assert "object:dog carries" not in answers(choice_facts([beside]))
    riding = photo("A man rides a horse .", "A cowboy riding a brown horse .")
    assert answers(choice_facts([riding]))["object:riding"] == "horse"


def test_place_and_indoors():
    beach = photo("A dog runs on the beach .", "A dog on a sandy beach .", "A dog runs .")
    assert answers(choice_facts([beach]))["place:place"] == "on the beach"
    assert answers(indoors_facts([beach])) == {"place:indoors": "outdoors"}
    kitchen = photo("A man cooks in a kitchen .", "A man in the kitchen .")
    assert answers(indoors_facts([kitchen])) == {"place:indoors": "indoors"}


def test_activity_of_the_only_actor():
    running = photo("A dog runs .", "A brown dog running .", "A dog sprints .", "The dog plays .")
    assert answers(activity_facts([running])) == {"activity:dog": "running"}
    mixed = photo(*["A man walks while a dog runs ."] * 5)
    assert answers(activity_facts([mixed])) == {}


def test_who_only_where_unambiguous():
    boy = photo("A boy jumps .", "A little boy jumps .", "A child jumps .", "The boy is in the air .")
    assert answers(who_facts([boy])) == {"who": "boy", "who:child": "boy"}
    pair = photo(*["A man and a boy walk ."] * 5)
    assert answers(who_facts([pair])) == {}
    dogs = photo(*["Two dogs play ."] * 5)
    assert answers(who_facts([dogs])) == {"who": "no one"}


def test_yes_and_no_are_balanced_and_no_is_sure():
    dogs = [photo(*["A dog runs in a yard ."] * 5, file=f"dog{i}.jpg") for i in range(6)]
    pets = [
        photo("A pet sleeps .", *["Something sleeps on a sofa ."] * 4, file=f"pet{i}.jpg") for i in range(6)
    ]
    women = [photo(*["A woman reads a book ."] * 5, file=f"woman{i}.jpg") for i in range(4)]
    facts = [f for f in yesno_facts(dogs + pets + women, 0) if f.topic == "yesno:dog"]
    assert Counter(f.answer for f in facts) == {"yes": 4, "no": 4}
    assert {f.image for f in facts if f.answer == "no"} == {w.file for w in women}


def test_colour_yes_and_no_are_balanced():
    colours = ["black"] * 4 + ["white"] * 3 + ["brown"] * 2
    photos = [photo(f"A {c} dog .", f"The {c} dog .", file=f"{i}.jpg") for i, c in enumerate(colours)]
    facts = colour_yesno_facts(colour_facts(photos), 0)
    for topic in {f.topic for f in facts}:
        assert Counter(f.answer for f in facts if f.topic == topic)["yes"] * 2 == sum(
            f.topic == topic for f in facts
        )


def test_no_answer_outweighs_the_others():
    colours = ["black"] * 50 + ["white"] * 20 + ["brown"] * 10 + ["gray"] * 3
    photos = [photo(f"A {c} dog .", f"The {c} dog .", file=f"{i}.jpg") for i, c in enumerate(colours)]
    kept = Counter(f.answer for f in cap(colour_facts(photos), seed=0))
    assert kept == {"black": 10, "white": 10, "brown": 10, "gray": 3}


def test_wording_depends_on_the_seed_alone():
    (fact,) = colour_facts([photo("A black dog .", "The black dog .")])
    assert to_record(fact, 1) == to_record(fact, 1)
    assert len({str(to_record(fact, seed)) for seed in range(20)}) > 3
    replies = Counter(to_record(fact, seed)["conversations"][1]["value"] for seed in range(300))
    assert set(replies) == {"Black.", "The dog is black."}
    assert 0.2 < replies["The dog is black."] / 300 < 0.47


def test_boxes_give_true_absence_and_sides():
    left = BoxedPhoto("left.jpg", (Box("cat", 0.2, 0.5, 0.3, 0.5), Box("chair", 0.5, 0.5, 0.2, 0.2)))
    right = BoxedPhoto("right.jpg", mirror_boxes(left.boxes))
    empty = BoxedPhoto("empty.jpg", (), cut=frozenset({"chair"}))
    facts = box_yesno_facts([left, right, empty], 0)
    assert {(f.topic, f.answer, f.image) for f in facts if f.answer == "no"} == {
        ("yesno:cat", "no", "empty.jpg")
    }
    sides = box_side_facts([left, right])
    assert {(f.image, f.answer) for f in sides} == {("left.jpg", "left"), ("right.jpg", "right")}
    assert len(balance_sides(sides[:1], 0, limit=10)) == 0
    assert len(balance_sides(sides, 0, limit=10)) == 2


def test_crops_carry_boxes_and_name_what_they_cut():
    boxes = (Box("dog", 0.25, 0.5, 0.2, 0.4), Box("cat", 0.5, 0.5, 0.2, 0.2), Box("bird", 0.9, 0.5, 0.1, 0.1))
    kept, cut = crop_boxes(boxes, 0.0, 0.0, 0.5, 1.0)
    assert [b.name for b in kept] == ["dog"]
    assert kept[0].x == pytest.approx(0.5)
    assert kept[0].width == pytest.approx(0.4)
    assert cut == {"cat"}


def test_text_answers_end_with_a_sentence():
    assert whole_sentences("It is red. It was", finished=False) == "It is red."
    assert whole_sentences("Steps: 1. Boil water. 2. Add", finished=False) == "Steps: 1. Boil water."
    assert whole_sentences("no end", finished=False) == ""
    assert whole_sentences(" Paris ", finished=True) == "Paris"


def test_text_records_leave_the_held_out_questions_alone():
    records = text_records(lambda questions: ["" if q == "Hello!" else "Fine." for q in questions])
    asked = {r["conversations"][0]["value"] for r in records}
    assert "image" not in records[0]
    assert len(asked) == len(records) == len(prompts()) - 1
    assert not asked & {question for question, _ in RETENTION_QUESTIONS}
    assert len(RETENTION_QUESTIONS) == 60
