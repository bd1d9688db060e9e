"""Things that photographs show, with the words that say so and the words that make their absence doubtful.

A noun is present where enough captions say one of its `words`; it is absent only where no caption says any
of its `words` or its `doubt` words (hypernyms, parts, scenes and sports that come with it).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Noun:
    """`phrase` is the noun with its article ("a dog"), `name` the noun without."""

    name: str
    phrase: str
    words: frozenset[str]
    doubt: frozenset[str] = frozenset()


def word_set(text: str) -> frozenset[str]:
    """The words of `text`."""
    return frozenset(text.split())


def _noun(phrase: str, words: str, doubt: str = "") -> Noun:
    name = phrase.split(" ", 1)[1] if phrase.startswith(("a ", "an ")) else phrase
    return Noun(name, phrase, word_set(words), word_set(doubt))


MALE = word_set("man men guy guys gentleman male males father dad groom businessman fisherman cowboy")
FEMALE = word_set("woman women lady ladies female females mother mom bride gal")
BOY = word_set("boy boys")
GIRL = word_set("girl girls")
CHILD = word_set("child children kid kids toddler toddlers baby babies infant infants")
NEUTRAL = word_set(
    """person people someone somebody player players rider riders biker bikers surfer surfers skier skiers
    snowboarder snowboarders skateboarder skateboarders swimmer swimmers climber climbers hiker hikers runner
    runners team crowd group couple family cyclist cyclists bicyclist bicyclists motorcyclist worker workers
    performer dancer dancers adult adults teen teens teenager teenagers youth youths friend friends driver racer
    racers soldier soldiers police officer officers skater skaters boarder kayaker artist musician band wrestler
    gymnast individual individuals human humans they he she his her him owner audience spectators pedestrian
    pedestrians student students persons lone others everyone hand hands arm legs quarterback goalie batter
    pitcher referee cheerleader cheerleaders jogger joggers athlete athletes shopper musicians singer tourists
    onlookers fan fans parent parents brother sister twins"""
)
PEOPLE = MALE | FEMALE | BOY | GIRL | CHILD | NEUTRAL
DOG = word_set(
    """dog dogs puppy puppies greyhound greyhounds poodle poodles terrier retriever labrador lab collie dalmatian
    beagle dachshund bulldog pug chihuahua canine canines doggy pup pups husky rottweiler doberman mutt hound
    hounds boxer spaniel shepherd corgi"""
)
_WATERY = """lake ocean sea pool river swim swims swimming swimmer water wave waves beach pond stream surf surfer
surfing surfs boat raft rafting kayak canoe splash splashes splashing fountain shore wet wading wades dive dives
diving underwater waterfall puddle rain rainy hose sprinkler dock pier island coast bay creek rapids bath rowing
sailing fishing fish water-ski water-skier water-skiing water-fountain water-slide tub harbor"""
_BALLGAMES = """soccer football basketball baseball tennis volleyball rugby golf softball cricket hockey game match
player players team toy toys racket bat bowling pitcher goal goalie lacrosse ping-pong kicks kick kicking catch
catches catching snow-ball object something fetch fetches"""

YESNO_NOUNS: tuple[Noun, ...] = (
    _noun("a dog", " ".join(DOG), "animal animals pet pets dog-park dog-sled dog-house leash fur furry"),
    _noun("a person", " ".join(PEOPLE), "face"),
    _noun("a man", " ".join(MALE), " ".join(NEUTRAL | {"boy", "boys"})),
    _noun("a woman", " ".join(FEMALE), " ".join(NEUTRAL | {"girl", "girls"})),
    _noun("a boy", "boy boys", " ".join(CHILD | NEUTRAL | {"man", "men", "guy", "guys", "male"})),
    _noun("a girl", "girl girls", " ".join(CHILD | NEUTRAL | {"woman", "women", "lady", "female", "ladies"})),
    _noun("a baby", "baby babies infant infants", "toddler child children kid kids little young boy girl"),
    _noun("a crowd of people", "crowd crowds audience spectators",
          "group people many fans players team concert parade children men women onlookers street stadium game "
          "match race"),
    _noun("a ball", "ball balls basketball volleyball baseball snow-ball tennis-ball soccer-ball golf-ball",
          _BALLGAMES),
    _noun("a bicycle", "bicycle bicycles bike bikes bicyclist bicyclists cyclist cyclists bicycling bmx",
          "motorcycle motorcyclist biker bikers biking rider riders ride riding rides cycle wheel wheels race "
          "street tricycle scooter unicycle trick stunt"),
    _noun("a motorcycle", "motorcycle motorcycles motorcyclist motorcyclists motorbike motorbikes",
          "bike bikes biker bikers rider riders vehicle vehicles atv scooter race racer cycle moped "
          "street road wheel wheels helmet"),
    _noun("a car", "car cars", "vehicle vehicles truck van taxi traffic street road parking race racing suv jeep "
          "police city auto automobile bus windshield drive driving drives driver toy-car garage seat"),
    _noun("a horse", "horse horses pony ponies horseback", "animal animals rodeo cowboy bull cart carriage polo "
          "jockey donkey mule stable ride rider riding rides bronco carousel equestrian"),
    _noun("a cat", "cat cats kitten kittens", "animal animals pet feline"),
    _noun("a bird", "bird birds seagull seagulls duck ducks pigeon pigeons goose geese swan swans parrot eagle "
          "gull gulls chicken chickens hawk crane heron", "animal animals flying flock wings feathers fowl beak"),
    _noun("a boat", "boat boats canoe canoes kayak kayaks sailboat raft rafts ship ships rowboat kayaker",
          "paddle paddling paddles dock harbor sail sailing row rowing vessel ferry pier rapids rafting river lake "
          "ocean fishing inflatable tube oar oars"),
    _noun("snow", "snow snowy snowboard snowboarder snowboarding snowboarders", "ice icy winter ski skier skiing "
          "skiers skis sled sledding cold slope frozen mountain white hill snow-ball ramp glacier hockey"),
    _noun("water", "water ocean sea lake river pond pool stream waves surfing swimming swims swim underwater "
          "waterfall creek surfer rapids", _WATERY),
    _noun("a beach", "beach beaches", "sand sandy ocean sea shore water waves wave surf surfer surfing coast lake "
          "surfboard island bikini dunes swimsuit pier river shoreline"),
    _noun("a swimming pool", "pool pools", "swim swimming swims swimmer water splash splashes splashing dive dives "
          "diving wet underwater slide inflatable goggles water-slide bathing float floats swimsuit fountain "
          "sprinkler tub"),
    _noun("grass", "grass grassy lawn", "field yard park meadow green hill outside ground garden soccer football "
          "baseball golf pasture backyard trees plants bushes weeds lot leaves frisbee trail path outdoors woods "
          "forest country area playground brush vegetation land outdoor dog dogs hillside dirt ball game"),
    _noun("sand", "sand sandy sandbox", "beach dirt desert dune dunes ocean sea shore volleyball ground playground "
          "surf surfer surfboard coast waves lake camel camels waters mud"),
    _noun("a mountain", "mountain mountains", "hill hills cliff rock rocks rocky climb climber climbing snow snowy "
          "ski skier snowboard slope peak hike hiker hiking hikers valley canyon landscape ledge terrain summit "
          "scenery background top snowboarder trail overlooking hillside skiing glacier volcano"),
    _noun("a forest", "forest woods wooded", "tree trees path trail leaves hiking branch branches nature log grass "
          "bushes park camping jungle outdoors brush plants wood mountain stream river"),
    _noun("a tree", "tree trees palm", "forest woods wooded branch branches leaves park yard outside garden field "
          "log trunk outdoors street city path trail hill lawn jungle grass bushes christmas snow snowy lake river "
          "playground mountain hiking bench backyard outdoor background swing road plants hammock"),
    _noun("a skateboard", "skateboard skateboards skateboarder skateboarders skateboarding", "board skate skater "
          "skaters skating skates trick ramp rail stunt boarder scooter railing tricks boarding wheels grinding"),
    _noun("a surfboard", "surfboard surfboards surfer surfers surfing surfs", "board wave waves ocean surf "
          "bodyboard boogieboard boogie wakeboard wakeboarder boarding sea beach boarder paddle wetsuit"),
    _noun("a snowboard", "snowboard snowboarder snowboarders snowboards snowboarding", "board snow ski skier skis "
          "slope boarder snowy skiing sled skiers"),
    _noun("a frisbee", "frisbee frisbees", "disc disk toy catch catches catching throwing object something ring "
          "throw plate saucer mouth playing plays"),
    _noun("a swing", "swingset", "swing swings swinging playground rope hammock tire"),
    _noun("a slide", "slide", "slides sliding playground water-slide inflatable bounce tube jungle equipment"),
    _noun("a guitar", "guitar guitars guitarist", "band music musician musicians instrument instruments concert "
          "stage singing singer sings musical microphone plays playing perform performing performer bass"),
    _noun("a camera", "cameras photographer", "camera picture pictures photo photos photograph photographs film "
          "phone taking cellphone photographing tripod video lens binoculars filming"),
    _noun("an umbrella", "umbrella umbrellas parasol", "rain rainy beach tent canopy shade raining hold holds"),
    _noun("a hat", "hat hats", "cap caps helmet helmets hood headband beanie hooded bandana costume head cowboy "
          "visor headdress turban uniform wig wearing wears dressed beret winter people men women crowd "
          "hair scarf man snow coat"),
    _noun("a helmet", "helmet helmets", "bike bicycle motorcycle biker rider riders hat football hockey baseball "
          "racing racer race player players bikes gear motorcyclist cyclist climbing skateboard skateboarder "
          "skier snowboarder horse uniform ski batter riding kayak rides jockey head team cap wearing softball "
          "rugby soldier game construction worker firefighter armor"),
    _noun("a bench", "bench benches", "seat park sit sits sitting seated chair bus"),
    _noun("a fence", "fence fences fenced", "gate railing rail yard barrier wall bars farm tennis baseball pen "
          "court obstacle hurdle picket rodeo playground barricade wire post pole horse"),
    _noun("a rock", "rock rocks rocky boulder boulders", "cliff stone stones climb climber climbing mountain "
          "mountains canyon ledge hill wall beach shore river ocean terrain waterfall pebbles gravel hike hiker "
          "hiking stream sea climbs hillside creek path formation"),
    _noun("a bus", "bus buses", "vehicle street traffic city truck train van trolley tram station"),
    _noun("a train", "subway trains locomotive", "train station tracks track railroad platform rail railway "
          "vehicle metro trolley"),
    _noun("a fountain", "fountain fountains water-fountain", "water spray sprays sprinkler splash splashing wet jets "
          "squirting spraying park pool hose"),
    _noun("a trampoline", "trampoline trampolines", "bounce bouncing bounces inflatable jump jumping jumps midair "
          "flip air"),
    _noun("a soccer ball", "soccer soccer-ball", "ball balls football kick kicks kicking game rugby player players "
          "goal team field"),
    _noun("a stick", "stick sticks", "branch pole wood log twig hockey bat toy object something mouth club rod "
          "cane paddle carries carrying wooden poles fetch"),
    _noun("a bed", "bed beds", "bedroom sleep sleeping sleeps laying lying couch blanket pillow mattress room "
          "lays nap bunk crib sofa covers"),
    _noun("food", "food eating eats eat pizza cake sandwich meal dinner lunch icecream fruit hotdog",
          "restaurant table kitchen snack cook cooking cooks grill bread candy cookie dessert plate bowl treat "
          "picnic drink chef bbq market vendor apple banana watermelon bite biting chewing mouth popcorn spoon"),
)  # fmt: skip
