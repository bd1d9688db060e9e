"""The plain-text prompts that keep a multimodal model able to talk.

About 1,500 distinct prompts from templates and word lists: facts, definitions, small arithmetic, how-to,
stories, translations, opinions, greetings, instructions. Nobody writes answers to them: the base model
answers (see `text.py`), so that fine-tuning on photographs does not move what the model says without one.
No prompt here is one of the held-out questions of `retention.py`.
"""

from __future__ import annotations

from .retention import RETENTION_QUESTIONS

CAPITALS = """Portugal|Norway|Sweden|Denmark|Finland|Poland|Austria|Switzerland|Belgium|Ireland|Iceland
Hungary
Romania|Bulgaria|Croatia|Ukraine|Turkey|Iran|Iraq|Thailand|Vietnam|Indonesia|Malaysia|South Korea|Pakistan
Nepal
Mongolia|Argentina|Chile|Peru|Colombia|Cuba|Morocco|Nigeria|South Africa|Ethiopia|Ghana|New Zealand|Netherlands"""

WORKS = """The Great Gatsby|Don Quixote|War and Peace|Moby Dick|Frankenstein|Dracula|The Odyssey|Jane Eyre
Emma
Oliver Twist|The Hobbit|Faust|Macbeth|Othello|Crime and Punishment|Wuthering Heights|Peter Pan|Treasure Island
The Jungle Book|Alice's Adventures in Wonderland|Animal Farm|The Divine Comedy|Les Misérables|Brave New World"""

TERMS = """gravity|photosynthesis|democracy|inflation|evaporation|a metaphor|a noun|an adjective|a verb
a volcano
an earthquake|a tornado|the water cycle|a black hole|a comet|a galaxy|an atom|a molecule|DNA|a virus|bacteria
a vaccine
an ecosystem|biodiversity|climate change|renewable energy|electricity|magnetism|friction|momentum|an algorithm
a database|a computer virus|open source software|machine learning|a neural network|the internet|a web browser
encryption
a budget|compound interest|a mortgage|supply and demand|a monopoly|the Renaissance|the Industrial Revolution
the Cold War|a constitution|a republic|a sonnet|a haiku|a fable|a biography|a symphony|jazz|an opera
a fossil|a mammal
a reptile|an amphibian|an insect|a prime number|a fraction|a triangle|a circle|the Pythagorean theorem
probability
an average|meditation|empathy|patience|courage|creativity|a habit|a hypothesis|an experiment|a theory"""

HOW_TO = """boil an egg|make a cup of tea|bake bread|cook rice|make pancakes|make a salad|tie a tie
tie shoelaces
ride a bicycle|learn to swim|plant a tree|grow tomatoes|water house plants|clean a window|wash a car
iron a shirt
fold a shirt|remove a coffee stain|paint a wall|change a light bulb|change a flat tire|write a letter
write a resume
prepare for an interview|give a speech|learn a new language|improve my memory|sleep better|wake up early
reduce stress
save money|make a budget|start a blog|take a good photo|draw a cat|play chess|play the guitar|train a dog
take care of a kitten|feed birds in winter|build a snowman|make a paper plane|pack a suitcase|plan a trip
stay safe online|choose a password|back up a computer|learn to code|run faster|stretch before running
stay motivated|make new friends|say sorry|solve a conflict|study for an exam|read more books|write a poem"""

ENGLISH_WORDS = """hello|goodbye|thank you|please|good morning|good night|water|bread|friend|house|book
love|sun|moon
cat|dog|school|family|yes|no"""
LANGUAGES = ["French", "Spanish", "German", "Italian"]

STORY_HEROES = """a brave mouse|a lonely robot|a talking tree|a lost kitten|an old sailor|a clever fox
a shy dragon
a young painter|a magic hat|two best friends|a rainy day|a secret garden|a small village|a girl who could fly
a boy and his grandfather|a kind giant|the last star|a baker|a lighthouse keeper|a time machine|a winter night
a curious owl|a journey to Mars|a forgotten letter|a blue balloon"""

SENTENCE_TOPICS = """the rain|autumn|friendship|music|the sea|a train journey|coffee|a quiet library|mountains
a birthday party|hope|the city at night|a bicycle|my grandmother|football|a winter morning|an old clock
teachers
happiness|the moon|a market|honesty|a garden|a dream|the future|kindness|the wind|breakfast|a new job|silence"""

OPINIONS = """reading books|learning history|working from home|eating breakfast|sports in school|social media
space exploration|electric cars|public libraries|living in a big city|having a pet|travelling alone
school uniforms
homework|cooking at home|learning music|waking up early|online learning|teamwork|recycling"""

ANIMAL_FACTS = """elephants|dolphins|penguins|owls|bees|ants|spiders|sharks|whales|tigers|lions|giraffes
kangaroos
koalas|pandas|camels|wolves|foxes|bears|horses|cows|sheep|cats|dogs|parrots|eagles|frogs|snakes|turtles|octopuses"""

OPPOSITES = """hot|big|happy|fast|light|early|strong|rich|full|clean|easy|loud|open|young|near|high|soft|brave
begin|arrive|buy|win|remember|laugh|push"""
SYNONYMS = (
    "happy|sad|big|small|fast|smart|beautiful|angry|tired|brave|quiet|rich|old|strange|begin|help|look|walk"
)

THINGS = """a hammer|a compass|a thermometer|a telescope|a microscope|a ladder|a map|a calendar|an umbrella
a blanket
a candle|a pencil|a ruler|a calculator|a bridge|a lighthouse|a battery|a camera|a bicycle|a helmet|a rope
a whistle
soap|salt|sugar|wood|cotton|wool|silk|rubber|plastic|copper|gold|coal|oil|flour"""

LISTS = """fruits|vegetables|colors|planets|continents|oceans|musical instruments|sports|farm animals
wild animals
birds|flowers|trees|countries in Europe|countries in Asia|countries in Africa|American states|languages
school subjects
jobs|healthy snacks|board games|kitchen tools|pieces of furniture|types of weather|metals
programming languages
ways to relax|things to take on a picnic|good habits|famous scientists|famous painters|famous composers|inventions"""

PEOPLE = """Albert Einstein|Isaac Newton|Marie Curie|Charles Darwin|Galileo Galilei|Nikola Tesla|Ada Lovelace
Alan Turing|Leonardo da Vinci|Vincent van Gogh|Pablo Picasso|Claude Monet|Wolfgang Amadeus Mozart
Johann Sebastian Bach
Ludwig van Beethoven|Frédéric Chopin|Jane Austen|Charles Dickens|Mark Twain|Homer|Aristotle|Plato|Confucius
Julius Caesar
Cleopatra|Napoleon Bonaparte|Abraham Lincoln|Nelson Mandela|Mahatma Gandhi|Martin Luther King Jr.|Rosa Parks
Amelia Earhart|Neil Armstrong|Florence Nightingale|Louis Pasteur|Thomas Edison|Christopher Columbus|Marco Polo"""

SINGLE_QUESTIONS = """Why is the sky blue?|Why do leaves change color in autumn?|Why do we dream?
Why is the sea salty?
Why do cats purr?|Why do birds migrate?|Why do we need sleep?|Why does ice float on water?
Why do we have seasons?
Why is exercise good for you?|Why is it important to drink water?|How do airplanes fly?|How do fish breathe?
How does a refrigerator work?|How does a microwave oven heat food?|How do plants make food?
How are rainbows formed?
How do magnets work?|How does the heart work?|How do vaccines protect us?|How does a bicycle stay upright?
How many months are in a year?|How many minutes are in an hour?|How many letters are in the English alphabet?
How many sides does a triangle have?|How many sides does a square have?|What is the boiling point of water?
What is the chemical formula for water?|What is the chemical symbol for oxygen?
What is the chemical symbol for silver?
What is the longest river in Africa?|What is the largest desert in the world?|What is the smallest continent?
What is the highest mountain in Africa?|What is the tallest animal in the world?|What is the fastest bird?
Which planet is closest to the Sun?|Which planet has rings?|Which gas do humans breathe in?
Which season comes after winter?
Which day comes after Monday?|Which month comes before May?|When did World War I begin?
When did the Titanic sink?
When was the Declaration of Independence signed?|Who was the first woman to win a Nobel Prize?
Who invented the light bulb?
Who discovered penicillin?|Who painted The Starry Night?|Who composed The Four Seasons?
Where is the Colosseum?
Where is the Statue of Liberty?|Where do polar bears live?|Where do kangaroos live?
What language is spoken in Mexico?
What language is spoken in Austria?|What is the currency of the United States?|What is the currency of India?
What do cows eat?|What do bees make?|What is a baby cat called?|What is a baby cow called?
What is a group of lions called?
What is steel made of?|What is glass made of?|What is paper made from?|What is cheese made from?
What is bread made from?"""

CHAT = """Hello!|Hi there.|Good morning!|Good evening.|How are you?|How are you doing today?
What is your name?
Who are you?
What can you do?|Can you help me?|Are you a robot?|Do you like music?|Do you sleep?|Where do you live?
How old are you?
What is your favorite color?|What is your favorite food?|Tell me something interesting.|Tell me a joke.
Tell me a joke about cats.|Tell me a riddle.|Tell me a fun fact.|I am bored. What should I do?
I feel sad today.
I am happy today!|I cannot sleep.|I am learning English.|I am nervous about my exam tomorrow.|I lost my keys.
I have a headache.|It is raining outside.|I would like to learn to paint.|I have a new puppy. Any advice?
Thank you for your help!|Thanks, that was useful.|That is not right.|Can you explain that again?|Goodbye!
See you later.
Have a nice day!|What time is it?|What day is it today?|What is the weather like?|Sing me a song.
Can you keep a secret?
Give me some advice.|Motivate me.|Wish me luck!|Say something in Latin.|Do you know any poems?|What is love?
What is the meaning of life?|Are you human?|Can you see?|Can you hear me?|Do you speak Spanish?|Who made you?"""

INSTRUCTIONS = """Write a short poem about the stars.|Write a haiku about snow.|Write a limerick about a cat.
Write a birthday message for a friend.|Write a thank-you note to a teacher.
Write a short email asking for a day off.
Write an email to cancel a meeting.|Write an apology to a customer.|Write a slogan for a coffee shop.
Write a title for a story about a lost dog.|Write a short dialogue between a cat and a mouse.
Write a short advertisement for a bicycle.|Write a product review of a pair of shoes.
Write a message to invite friends to dinner.
Write three questions for a job interview.|Write a tongue twister.
Write a Python function that adds two numbers.
Write a Python function that reverses a string.|Write a Python loop that prints the numbers from 1 to 10.
Write a SQL query that selects all users.|Write a hello world program in C.|Explain what a for loop is.
Explain what a variable is in programming.|Explain recursion in simple words.|Explain the rules of tennis.
Explain the rules of basketball.|Explain how chess pieces move.|Explain photosynthesis to a child.
Explain why the moon changes shape.|Explain the difference between weather and climate.
Explain the difference between a fruit and a vegetable.|Explain the difference between a virus and bacteria.
Explain the difference between a frog and a toad.|Explain the difference between speed and velocity.
Summarize the story of Cinderella.|Summarize the story of Little Red Riding Hood.
Summarize the story of Pinocchio.
Summarize the plot of Hamlet.|Correct this sentence: She go to school every day.
Correct this sentence: He have two cat.
Correct this sentence: I has went to the store.|Make this sentence polite: Give me the book.
Make this sentence shorter: The weather today is really very nice and pleasant.
Rewrite in the past tense: I eat an apple.
Rewrite in the future tense: She sings a song.|Rewrite in the plural: The child has a toy.
Complete the sentence: The early bird|Complete the sentence: Once upon a time
Complete the sentence: If I were rich,
Continue the list: 2, 4, 6, 8|Continue the list: Monday, Tuesday, Wednesday
Put these words in order: apple, zebra, mango.
Count from one to ten.|Count backwards from ten.|Say the alphabet.|Name the days of the week.
Name the months of the year.
Name the four seasons.|Name the colors of the rainbow.|Give me a recipe for tomato soup.
Give me a recipe for banana bread.
Give me a healthy breakfast idea.|Give me three tips for public speaking.|Give me a name for a cat.
Give me a name for a boat.
Suggest a movie for tonight.|Suggest a book for a child.|Suggest a gift for my mother.
Suggest a weekend activity.
Plan a day in Rome.|Plan a birthday party.|Plan a week of dinners.|Describe a sunset.
Describe a forest in winter.
Describe the taste of chocolate.|Describe a busy market.|Describe your perfect day."""

MORE_COUNTRIES = """Saudi Arabia|Israel|Jordan|Lebanon|Syria|Afghanistan|Bangladesh|Sri Lanka|Myanmar
Cambodia|Laos
the Philippines|North Korea|Taiwan|Kazakhstan|Uzbekistan|Georgia|Armenia|Serbia|Slovenia|Slovakia
the Czech Republic
Estonia|Latvia|Lithuania|Belarus|Luxembourg|Malta|Cyprus|Albania|Scotland|Wales|Bolivia|Ecuador|Paraguay
Uruguay
Venezuela|Panama|Costa Rica|Guatemala|Honduras|Jamaica|Haiti|Algeria|Tunisia|Libya|Sudan|Uganda|Tanzania
Zambia
Zimbabwe|Angola|Senegal|Mali|Cameroon|Rwanda|Somalia|Madagascar|Namibia|Botswana|Fiji"""

STATES = """California|Texas|Florida|New York|Illinois|Ohio|Georgia|Michigan|Arizona|Massachusetts|Colorado
Oregon|Utah
Nevada|Hawaii|Alaska|Tennessee|Louisiana|Virginia|Minnesota"""

INVENTIONS = """the airplane|the steam engine|the radio|the television|the printing press|the microscope
the telescope
dynamite|the battery|the camera|the automobile|the computer|the World Wide Web|the phonograph|the telegraph
the bicycle
the thermometer|the sewing machine|the zipper|the vaccine|the periodic table|the assembly line
the helicopter|paper
gunpowder|the compass|the piano|basketball|the pencil|the elevator"""

DISCOVERIES = """radium|oxygen|electricity|X-rays|the electron|America|the circulation of blood
the structure of DNA
the planet Uranus|radioactivity|the law of floating bodies|the moons of Jupiter|the neutron|insulin|dinosaurs"""

SUBSTANCES = "iron|gold|mercury|alcohol|milk|salt water|butter|chocolate|wax|lead|aluminum|honey|oil|glass"

SYMBOLS = """iron|carbon|hydrogen|nitrogen|sodium|copper|helium|calcium|lead|mercury|potassium|chlorine
zinc|tin
uranium|neon"""

COUNTS = """seconds are in a minute|weeks are in a year|days are in a year|days are in June
days are in February
years are in a century|years are in a decade|cents are in a dollar|meters are in a kilometer
grams are in a kilogram
inches are in a foot|centimeters are in a meter|items are in a dozen|players are on a soccer team
strings does a guitar have
players are on a basketball team|keys does a piano have|colors are in a rainbow
planets are in the solar system
legs does an insect have|legs does a dog have|legs does an octopus have|wings does a bee have
eyes does a person have
fingers does a person have|teeth does an adult have|bones are in the human body|hearts does an octopus have
sides does a hexagon have|sides does a pentagon have|sides does an octagon have|degrees are in a right angle
wheels does a tricycle have|wheels does a car have|states are in the United States|oceans are there
vowels are in English
senses do people have|cards are in a deck|squares are on a chessboard|zeros are in a million"""

COLOURS_OF = """a lemon|a strawberry|an orange|snow|coal|a polar bear|the sky|blood|a carrot|an eggplant
a flamingo|milk
a lime|chocolate|a fire truck|the sun|a stop sign|a tomato|cabbage|a crow|a ruby|an emerald|a blueberry|sand"""

CALLED = """a baby cat|a baby horse|a baby sheep|a baby chicken|a baby duck|a baby kangaroo|a baby bear
a baby goat|a baby pig
a baby frog|a baby deer|a group of wolves|a group of fish|a group of birds|a female horse|a male chicken
a female lion
a person who bakes bread|a person who flies planes|a person who fixes teeth|a person who writes books
a person who studies stars|a shop that sells medicine|a house made of snow|a place where books are kept
water that falls from the sky|water in the form of gas|a dried grape|a scientist who studies plants
melted rock
the shape with three sides|the study of living things|the study of the past|a doctor for animals"""

ORGANS = """filters the blood|digests food|takes in oxygen|controls the body|lets us see|lets us hear
lets us smell
covers the body|stores urine|makes bile"""

GASES = "humans breathe out|plants give off|fills balloons|makes soda fizzy|burns in stoves|makes up most of the air"

SUPERLATIVES = """the smallest planet|the hottest planet|the largest island|the largest lake
the longest river in the world
the largest continent|the smallest country in the world|the largest city in the United States|the largest bird
the largest fish|the largest land animal|the slowest animal|the longest snake
the tallest building in the world
the deepest ocean|the coldest place on Earth|the brightest star in the night sky|the hardest natural substance
the largest organ of the human body|the smallest bone in the human body|the most common gas in the air
the lightest element|the largest moon of Saturn|the highest waterfall|the largest state in the United States
the oldest university in England|the second largest country in the world|the largest rainforest|the driest desert"""

LANDMARKS = """the Great Pyramid|the Taj Mahal|Big Ben|the Leaning Tower|the Acropolis|the Grand Canyon
Mount Fuji
the Louvre|Niagara Falls|the Kremlin|Machu Picchu|Stonehenge|the Golden Gate Bridge|the Sydney Opera House
the White House|Buckingham Palace|the Sagrada Familia|the Brandenburg Gate|Mount Kilimanjaro
the Amazon rainforest
the Sahara|the Panama Canal|Loch Ness|the Vatican|the Alps"""

YEARS = """did World War I end|did World War II begin|did the Berlin Wall fall|did Columbus reach America
did people first land on the Moon|did the French Revolution begin|did the American Civil War end
was Shakespeare born
was the United Nations founded|did the Soviet Union end|was the first iPhone released|did Queen Victoria die
was Albert Einstein born|did the Great Depression begin|was the Eiffel Tower built"""

ARTS = """painted The Last Supper|painted Guernica|painted The Scream|painted Water Lilies
painted The Night Watch
sculpted David|composed the Moonlight Sonata|composed Swan Lake|composed The Magic Flute|wrote The Odyssey
wrote The Raven
wrote The Old Man and the Sea|wrote Les Fleurs du mal|wrote The Republic
wrote On the Origin of Species|wrote The Communist Manifesto|wrote Gulliver's Travels|wrote Robinson Crusoe
wrote Great Expectations|wrote Sense and Sensibility|wrote The Lord of the Rings
wrote The Chronicles of Narnia
wrote A Christmas Carol|wrote Anna Karenina|wrote The Metamorphosis|wrote Ulysses|wrote Brave New World
directed Jaws|directed Psycho|created Mickey Mouse|created Sherlock Holmes|sang Thriller|sang Yesterday"""

LEADERS = """president of South Africa after apartheid|emperor of Rome|queen of ancient Egypt
president of France
king of England|president during the American Civil War|prime minister of Britain during World War II
leader of the Soviet Union in World War II|general at Waterloo|chancellor of Germany|first man in space
first woman in space|second president of the United States|third president of the United States
founder of Microsoft
founder of Apple|founder of Amazon|founder of Facebook"""

YES_NO = """Is the Earth round?|Is the Sun a star?|Is a whale a fish?|Is a tomato a fruit?|Is water wet?
Can penguins fly?
Can fish live out of water?|Do plants need sunlight?|Do spiders have six legs?|Is ice cold?|Is fire hot?
Is the moon a planet?
Is Australia a continent?|Is Africa a country?|Is seven a prime number?|Is ten an odd number?
Do cats lay eggs?
Do birds have feathers?|Is gold a metal?|Is coffee a drink?|Is winter warmer than summer?|Is a bat a bird?"""


def _items(block: str) -> list[str]:
    return [item.strip() for line in block.splitlines() for item in line.split("|") if item.strip()]


def prompts() -> list[str]:
    """Every prompt once, in a fixed order."""
    made: list[str] = []
    made += [f"What is the capital of {c}?" for c in _items(CAPITALS)]
    made += [f"Tell me about {c}." for c in _items(CAPITALS)[::2]]
    made += [f"Who wrote {w}?" for w in _items(WORKS)]
    for i, term in enumerate(_items(TERMS)):
        made.append(("What is {}?", "Define {}.", "Explain {} in simple words.")[i % 3].format(term))
    for i, task in enumerate(_items(HOW_TO)):
        made.append(("How do I {}?", "Give me tips to {}.", "How can I {}?")[i % 3].format(task))
    for i, word in enumerate(_items(ENGLISH_WORDS)):
        for language in (LANGUAGES[i % 4], LANGUAGES[(i + 1) % 4]):
            form = ('How do you say "{}" in {}?', 'Translate "{}" into {}.')[i % 2]
            made.append(form.format(word, language))
    for i, hero in enumerate(_items(STORY_HEROES)):
        made.append(("Write a short story about {}.", "Tell me a story about {}.")[i % 2].format(hero))
    made += [f"Write a sentence about {t}." for t in _items(SENTENCE_TOPICS)]
    made += [f"What do you think about {o}?" for o in _items(OPINIONS)]
    made += [f"Give one advantage of {o}." for o in _items(OPINIONS)[::2]]
    made += [f"Tell me a fact about {a}." for a in _items(ANIMAL_FACTS)]
    made += [f"Where do {a} live?" for a in _items(ANIMAL_FACTS)[::3] if a not in ("kangaroos",)]
    made += [f'What is the opposite of "{w}"?' for w in _items(OPPOSITES)]
    made += [f'Give me a synonym for "{w}".' for w in _items(SYNONYMS)]
    made += [f"{('List', 'Name')[i % 2]} three {thing}." for i, thing in enumerate(_items(LISTS))]
    made += [f"What is {t} used for?" for t in _items(THINGS)]
    made += [f'Use the word "{t.split()[-1]}" in a sentence.' for t in _items(THINGS)]
    made += [f"Give me three facts about {c}." for c in _items(CAPITALS)[1::2]]
    made += [f"What food is {c} known for?" for c in _items(CAPITALS)[::3]]
    made += [f"What are some popular {thing}?" for thing in _items(LISTS)[1::2]]
    made += [f"Who was {p}?" for p in _items(PEOPLE)]
    made += [f"Why is {p} famous?" for p in _items(PEOPLE)[::3]]
    made += [
        f"What is {a} plus {b}?"
        for a, b in ((1, 2), (4, 5), (6, 3), (7, 8), (10, 5), (12, 9), (20, 15), (9, 9))
    ]
    made += [
        f"What is {a} minus {b}?" for a, b in ((5, 2), (9, 4), (10, 7), (15, 5), (20, 8), (8, 8), (30, 12))
    ]
    made += [f"What is {a} times {b}?" for a, b in ((2, 3), (3, 4), (5, 5), (6, 7), (8, 9), (10, 10), (4, 6))]
    made += [
        f"What is {a} divided by {b}?" for a, b in ((6, 2), (9, 3), (20, 4), (100, 10), (18, 6), (42, 7))
    ]
    made += _items(SINGLE_QUESTIONS) + _items(CHAT) + _items(INSTRUCTIONS) + _items(YES_NO)
    made += _short_facts()
    held_out = {question for question, _ in RETENTION_QUESTIONS}
    return [prompt for prompt in dict.fromkeys(made) if prompt not in held_out]


def _short_facts() -> list[str]:
    """Facts asked as a quiz asks them, with short answers: what fine-tuning forgets first."""
    countries, places = _items(MORE_COUNTRIES), _items(CAPITALS) + _items(MORE_COUNTRIES)
    made = [f"What is the capital of {c}?" for c in countries + _items(STATES)]
    made += [f"What is the main language spoken in {c}?" for c in places[::2]]
    made += [f"What is the currency of {c}?" for c in places[1::2]]
    made += [f"On which continent is {c}?" for c in places[::3]]
    made += [f"Who invented {i}?" for i in _items(INVENTIONS)]
    made += [f"Who discovered {d}?" for d in _items(DISCOVERIES)]
    made += [f"What is the melting point of {s}?" for s in _items(SUBSTANCES)[::2]]
    made += [f"What is the freezing point of {s}?" for s in _items(SUBSTANCES)[1::2]]
    made += [f"What is the chemical symbol for {s}?" for s in _items(SYMBOLS)]
    made += [f"How many {c}?" for c in _items(COUNTS)]
    made += [f"What color is {c}?" for c in _items(COLOURS_OF)]
    made += [f"What is {c} called?" for c in _items(CALLED)]
    made += [f"What organ {o}?" for o in _items(ORGANS)] + [f"What gas {g}?" for g in _items(GASES)]
    made += [f"What is {s}?" for s in _items(SUPERLATIVES)]
    made += [f"Where is {place}?" for place in _items(LANDMARKS)]
    made += [f"What year {y}?" for y in _items(YEARS)]
    made += [f"Who {a}?" for a in _items(ARTS)] + [f"Who was the {one}?" for one in _items(LEADERS)]
    made += [f"What is {a} plus {b}?" for a in (2, 3, 5, 8, 11) for b in (1, 4, 6, 7)]
    made += [f"What is {a} minus {b}?" for a in (9, 12, 14) for b in (1, 3, 5)]
    return made
