"""Object questions: what animal, what sport, what is being ridden, held, carried, sat on, climbed, worn.

Each question has its list of answers with the words that say them. Two captions must say the answer; a
photograph whose captions say two of the answers is skipped, unless one is said by two more captions than the
other. Questions about something someone does ("What is the dog carrying?") look for the thing just behind the
verb.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from .captions import Photo
from .facts import Fact, sentence
from .lexicon import DOG, PEOPLE, word_set

_PERSON_WORDS = PEOPLE - {"hand", "hands", "arm", "legs", "he", "she", "his", "him", "her", "they", "others"}


@dataclass(frozen=True)
class Choice:
    """A question with a closed list of answers: phrase ("a ball") -> the words that say it.

    With `verbs` the word must stand at most `reach` words behind one of them. `subject` words must be said
    by two captions, `never` words by none.
    """

    topic: str
    questions: tuple[str, ...]
    sentence: str
    answers: dict[str, str]
    verbs: str = ""
    reach: int = 6
    subject: frozenset[str] = frozenset()
    never: frozenset[str] = frozenset()
    votes: int = 2


_CARRIED = {
    "a ball": "ball balls tennis-ball soccer-ball football basketball", "a stick": "stick sticks branch log twig",
    "a frisbee": "frisbee disc disk", "a toy": "toy teddybear toys", "a bone": "bone", "a bird": "bird duck goose",
    "a rope": "rope", "a shoe": "shoe", "a bottle": "bottle water-bottle", "a newspaper": "newspaper paper",
    "a rabbit": "rabbit", "a glove": "glove", "a fish": "fish", "a sock": "sock", "an apple": "apple",
}  # fmt: skip

CHOICES: tuple[Choice, ...] = (
    Choice("animal", ("What animal is in the photo?", "Which animal can you see?", "What kind of animal is this?"),
           "The animal is {}.",
           {"a dog": " ".join(DOG), "a horse": "horse horses pony",
               "a bird": "bird birds seagull seagulls duck ducks "
            "pigeon pigeons goose geese swan eagle parrot", "a cat": "cat cats kitten", "a cow": "cow cows cattle",
            "a sheep": "sheep lamb lambs", "a goat": "goat goats", "a camel": "camel camels", "a bull": "bull bulls",
            "an elephant": "elephant elephants", "a monkey": "monkey monkeys", "a fish": "fish", "a snake": "snake",
            "a rabbit": "rabbit rabbits", "a deer": "deer", "a turtle": "turtle", "a zebra": "zebra zebras",
            "a butterfly": "butterfly butterflies", "a llama": "llama", "a donkey": "donkey mule"},
           never=frozenset({"teddybear", "statue", "costume", "sculpture", "mask", "fishing", "dressed"})),
    Choice("sport", ("What sport is this?", "Which sport are they playing?", "What sport can you see?"),
           "The sport is {}.",
           {"soccer": "soccer soccer-ball", "football": "football quarterback", "basketball": "basketball",
            "baseball": "baseball", "tennis": "tennis", "hockey": "hockey", "volleyball": "volleyball",
            "rugby": "rugby", "golf": "golf golfer", "skateboarding": "skateboard skateboarder skateboarding "
            "skateboarders skateboards", "snowboarding": "snowboard snowboarder snowboarding snowboarders",
            "skiing": "ski skis skier skiing skiers", "surfing": "surfer surfing surfboard surfers surfs",
            "climbing": "climber climbing climbs climbers climb", "cycling": "bicycle bicyclist bicyclists cyclist "
            "cyclists bike cycling biking biker", "motocross": "motorcycle motorcyclist",
            "kayaking": "kayak kayaker kayaking", "karate": "karate martial", "wrestling": "wrestlers wrestler",
            "gymnastics": "gymnast gymnastics", "lacrosse": "lacrosse", "sledding": "sled sledding sleds"},
           never=frozenset({"dog", "dogs", "puppy", "tennis-ball", "watching", "slide", "playground"}),
           subject=PEOPLE),
    Choice("riding", ("What is the person riding?", "What are they riding?", "What does the person ride?"),
           "The person is riding {}.",
           {"a bicycle": "bicycle bike bicycles bikes", "a motorcycle": "motorcycle motorcycles motorbike",
            "a horse": "horse horses pony horseback", "a skateboard": "skateboard skateboards",
            "a wave": "wave waves", "a surfboard": "surfboard", "a snowboard": "snowboard", "a scooter": "scooter",
            "a sled": "sled sleds", "a bull": "bull bronco", "an ATV": "atv four-wheeler wheeler quad",
            "a raft": "raft rafts",
            "a tricycle": "tricycle", "a roller coaster": "coaster rollercoaster", "a unicycle": "unicycle",
            "a camel": "camel", "a tube": "tube innertube", "a cart": "cart",
            "a carousel": "carousel"},
           verbs="ride rides riding rode on", reach=5, subject=PEOPLE),
    Choice("dog carries", ("What is the dog carrying?", "What does the dog have in its mouth?",
                           "What is in the dog's mouth?", "What is the dog holding?"),
           "The dog is carrying {}.", _CARRIED,
           verbs="carrying carries holding holds with has biting retrieving retrieves fetching fetches chewing bites",
           subject=DOG, never=frozenset({"child"})),
    Choice("dog chases", ("What is the dog chasing?", "What does the dog run after?",
        "What is the dog trying to catch?"),
           "The dog is chasing {}.",
           {"a ball": "ball tennis-ball soccer-ball", "a frisbee": "frisbee", "another dog": "dog dogs",
               "a toy": "toy",
            "a bird": "bird birds duck seagull goose geese seagulls", "a stick": "stick", "a cow": "cow cows bull",
            "a rabbit": "rabbit", "a squirrel": "squirrel", "a sheep": "sheep"},
           verbs="chasing chases chase after catch catches catching", reach=4, subject=DOG),
    Choice("holding", ("What is the person holding?", "What does the person have in the hands?",
                       "What is being held?"), "The person is holding {}.",
           {"a camera": "camera", "a guitar": "guitar", "an umbrella": "umbrella umbrellas", "a baby": "baby infant",
            "a ball": "ball balls football basketball", "a sign": "sign signs", "a flag": "flag flags",
            "a stick": "stick sticks", "a book": "book", "a bag": "bag bags purse",
            "a drink": "drink beer coffee glass cup",
            "a microphone": "microphone", "a rope": "rope", "a balloon": "balloon balloons", "a bat": "bat",
            "a racket": "racket racquet", "a toy": "toy", "a child": "child toddler", "a bottle": "bottle",
            "a phone": "phone cellphone", "a cigarette": "cigarette", "a dog": "dog puppy", "a cat": "cat kitten",
            "a fish": "fish", "a flower": "flower flowers", "a sword": "sword", "a snowboard": "snowboard",
            "a surfboard": "surfboard", "a skateboard": "skateboard", "a snake": "snake", "a bird": "bird parrot",
            "a newspaper": "newspaper", "a hose": "hose", "a paddle": "paddle oar", "a gun": "gun rifle",
            "a bucket": "bucket", "a spoon": "spoon", "a knife": "knife", "a box": "box",
            "a paintbrush": "paintbrush"},
           verbs="holding holds hold carrying carries", reach=4, subject=_PERSON_WORDS),
    Choice("sitting on", ("What is the person sitting on?", "What does the person sit on?",
        "Where is the person sitting?"),
           "The person is sitting on {}.",
           {"a bench": "bench benches", "a chair": "chair chairs stool", "a couch": "couch sofa",
               "a rock": "rock rocks boulder",
            "the grass": "grass lawn", "the floor": "floor", "a bed": "bed", "a swing": "swing",
            "steps": "steps stairs",
            "the ground": "ground sidewalk pavement", "a wall": "wall", "the beach": "beach sand", "a horse": "horse",
            "a motorcycle": "motorcycle", "a bicycle": "bicycle bike", "a log": "log", "a table": "table",
            "a dock": "dock pier", "a fence": "fence railing rail", "a hill": "hill cliff ledge",
            "a blanket": "blanket"},
           verbs="sitting sits sit seated", subject=_PERSON_WORDS, never=frozenset({"standing", "stands"})),
    Choice("climbing", ("What is the person climbing?", "What do they climb?", "What is being climbed?"),
           "The person is climbing {}.",
           {"a rock": "rock rocks boulder", "a wall": "wall", "a cliff": "cliff", "a mountain": "mountain mountains",
            "a tree": "tree", "stairs": "stairs steps staircase", "a ladder": "ladder", "a rope": "rope ropes",
            "a hill": "hill", "ice": "ice icy", "a fence": "fence"},
           verbs="climbing climbs climb scaling scales up", reach=5,
           subject=word_set("climbing climbs climb climber climbers scaling")),
    Choice("jumping over", ("What is the dog jumping over?", "What does the dog jump over?"),
           "The dog is jumping over {}.",
           {"a hurdle": "hurdle hurdles obstacle", "a log": "log tree trunk", "a fence": "fence",
               "a bar": "bar bars pole poles",
            "a wall": "wall", "water": "water stream creek puddle", "another dog": "dog", "a barrier": "barrier"},
           verbs="over", reach=5, subject=DOG),
    Choice("instrument", ("What instrument is being played?", "Which instrument can you see?",
                          "What instrument does the person play?"), "The instrument is {}.",
           {"a guitar": "guitar guitars guitarist", "a drum": "drum drums drummer",
               "a violin": "violin violins fiddle",
            "an accordion": "accordion", "a saxophone": "saxophone", "a trumpet": "trumpet", "a flute": "flute",
            "a piano": "piano keyboard", "a cello": "cello", "bagpipes": "bagpipes", "a harmonica": "harmonica",
            "a trombone": "trombone", "a tuba": "tuba", "a banjo": "banjo"}, votes=1),
    Choice("vehicle", ("What vehicle is in the photo?", "Which vehicle can you see?",
        "What kind of vehicle is this?"),
           "The vehicle is {}.",
           {"a car": "car cars", "a motorcycle": "motorcycle motorcycles motorcyclist",
               "a boat": "boat boats sailboat",
            "a bicycle": "bicycle bicycles bike bikes bicyclist", "a kayak": "kayak kayaker kayaks",
            "a canoe": "canoe canoes",
            "a bus": "bus", "a truck": "truck", "a train": "train subway", "an airplane": "airplane plane jet",
            "an ATV": "atv", "a raft": "raft", "a helicopter": "helicopter", "a tractor": "tractor"},
           never=frozenset({"toy-car", "toy-truck", "toy-train", "teddybear", "train-car", "station", "tracks"})),
    Choice("headwear", ("What is the person wearing on the head?", "What does the person have on the head?",
                        "What kind of headwear can you see?"), "The person is wearing {}.",
           {"a hat": "hat hats", "a helmet": "helmet helmets", "a cap": "cap caps",
               "a headband": "headband headbands",
            "a hood": "hood", "a bandana": "bandana bandanna", "a headscarf": "headscarf turban", "a wig": "wig",
            "a crown": "crown tiara", "a headdress": "headdress", "a mask": "mask masks", "a beanie": "beanie"},
           subject=PEOPLE),
    Choice("eyewear", ("What is the person wearing on the eyes?", "What kind of eyewear can you see?"),
           "The person is wearing {}.",
           {"sunglasses": "sunglasses shades", "glasses": "glasses eyeglasses",
               "goggles": "goggles"}, subject=PEOPLE),
    Choice("eating", ("What is the person eating?", "What food can you see?", "What are they eating?"),
           "It is {}.",
           {"ice cream": "icecream", "cake": "cake cupcake", "pizza": "pizza", "an apple": "apple",
               "a banana": "banana",
            "watermelon": "watermelon", "a sandwich": "sandwich", "candy": "candy lollipop", "a hot dog": "hotdog",
            "popcorn": "popcorn", "spaghetti": "spaghetti noodles pasta", "corn": "corn", "a popsicle": "popsicle",
            "bread": "bread", "cotton candy": "cotton-candy", "chicken": "chicken", "cookies": "cookie cookies"},
           verbs="eating eats eat licking licks bites biting chewing enjoying enjoys", subject=PEOPLE),
)  # fmt: skip


def _said(words: list[str], options: frozenset[str], verbs: frozenset[str], reach: int) -> bool:
    """Whether any option is in the caption, close behind one of the verbs if there are any."""
    if not verbs:
        return not options.isdisjoint(words)
    return any(
        word in options and not verbs.isdisjoint(words[max(0, at - reach) : at])
        for at, word in enumerate(words)
    )


def choice_facts(
    photos: Sequence[Photo], choices: Sequence[Choice] = CHOICES, kind: str = "object"
) -> list[Fact]:
    """Every answer that the captions of a photograph agree on (before balancing)."""
    options = {c.topic: {a: frozenset(w.split()) for a, w in c.answers.items()} for c in choices}
    facts = []
    for photo in photos:
        for choice in choices:
            if photo.mentions(choice.never) or (choice.subject and photo.mentions(choice.subject) < 2):
                continue
            verbs, votes = frozenset(choice.verbs.split()), Counter()
            for answer, words in options[choice.topic].items():
                votes[answer] = sum(_said(t, words, verbs, choice.reach) for t in photo.token_lists)
            (best, first), (_, second) = votes.most_common(2)
            if first >= choice.votes and (second == 0 or first - second >= 2):
                others = tuple(a for a, n in votes.items() if n and a != best)
                facts.append(choice_fact(photo.file, choice, best, others, kind))
    return facts


def choice_fact(image: str, choice: Choice, phrase: str, others: tuple[str, ...], kind: str) -> Fact:
    """The fact that `phrase` answers the question; the words that say it are accepted too."""
    accepted = sorted(choice.answers.get(phrase, "").split())
    accepted += [bare(other) for other in others]
    long = (choice.sentence.format(phrase),) if choice.sentence else ()
    return Fact(
        image,
        kind,
        f"{kind}:{choice.topic}",
        bare(phrase),
        choice.questions,
        sentence(phrase),
        long,
        tuple(accepted),
    )


def bare(phrase: str) -> str:
    """A noun phrase without its article."""
    return phrase.split(" ", 1)[1] if phrase.startswith(("a ", "an ", "the ")) else phrase
