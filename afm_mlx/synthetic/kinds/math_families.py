"""The stories of math word problems, as data: numbers, sentences, steps, and what is asked.

In sentences `{a}` is a number, `{who}` a person, `{she}` and `{her}` words for that person, and
`{thing}` or another name a word drawn from `words`. A step is a result's name, the computation that
gives it, and a sentence in which `{name}` becomes "2 + 3 = 5".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

Range = tuple[int, int] | tuple[int, int, int]
"""First, last, and the distance of values."""

Step = tuple[str, str, str]

ITEMS, MONEY, PLAIN = "items", "money", "plain"
"""What can be done with an answer: things one can give away or pack, dollars, or neither."""


@dataclass(frozen=True)
class Family:
    """One story."""

    name: str
    numbers: Mapping[str, Range]
    says: Sequence[Sequence[str]]
    """Sentences in order, each in several wordings."""
    steps: Sequence[Step]
    ask: Sequence[str]
    """Questions."""
    phrase: str
    """What is asked for, as a noun phrase."""
    unit: str
    """Of the answer; may hold words. Empty: none; `$`: dollars."""
    sort: str = PLAIN
    words: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Words to draw, by name."""
    whole: bool = True
    """All results are whole numbers."""


FRUIT = ("apples", "pears", "oranges", "plums", "peaches", "lemons", "figs", "mangoes")
SMALL = ("stickers", "marbles", "beads", "stamps", "postcards", "badges", "seashells", "coins")
BAKED = ("muffins", "cookies", "rolls", "pretzels", "cupcakes", "scones", "bagels")
MADE = ("scarves", "bracelets", "candles", "bowls", "paper lanterns", "tote bags", "bookmarks")
PLANTS = ("tomato plants", "rose bushes", "bean plants", "sunflowers", "strawberry plants")
SHOPS = ("bakery", "bookshop", "toy shop", "flower shop", "hardware store", "music store")

FAMILIES = (
    Family(
        "bought-and-shared",
        {"a": (4, 15), "b": (6, 24), "c": (3, 40)},
        (
            (
                "{who} bought {a} bags with {b} {thing} in each bag.",
                "There are {b} {thing} in a bag, and {who} bought {a} such bags.",
                "{who} came home with {a} bags of {thing}; every bag held {b} of them.",
            ),
            (
                "{She} gave {c} of the {thing} to a neighbor.",
                "A neighbor got {c} of them.",
                "{c} of the {thing} went to {her} neighbor.",
            ),
        ),
        (
            ("all", "a * b", "In all, {who} bought {all} {thing}."),
            ("left", "all - c", "After the gift, {left} {thing} are left."),
        ),
        ("How many {thing} does {who} have left?", "How many {thing} remain with {who}?"),
        "the number of {thing} that {who} has left",
        "{thing}",
        ITEMS,
        {"thing": FRUIT},
    ),
    Family(
        "collection-grows",
        {"a": (20, 120), "b": (3, 15), "c": (2, 9)},
        (
            (
                "{who} owns {a} {thing}.",
                "In {who}'s collection there are {a} {thing}.",
                "{who} has collected {a} {thing} so far.",
            ),
            (
                "{She} gets {b} new ones every week for {c} weeks.",
                "For {c} weeks, {b} new {thing} are added each week.",
                "Each week brings {b} more, and this goes on for {c} weeks.",
            ),
        ),
        (
            ("new", "b * c", "The new {thing} come to {new}."),
            ("total", "a + new", "Together with the old ones that is {total} {thing}."),
        ),
        ("How many {thing} does {who} have then?", "How large is {who}'s collection in the end?"),
        "the number of {thing} that {who} has in the end",
        "{thing}",
        ITEMS,
        {"thing": SMALL},
    ),
    Family(
        "shelves",
        {"a": (4, 12), "b": (15, 40), "c": (20, 90)},
        (
            (
                "A library has {a} shelves, and each shelf holds {b} books.",
                "There are {a} shelves of {b} books each in a small library.",
            ),
            (
                "Readers have borrowed {c} of the books.",
                "At the moment {c} of the books are lent out.",
            ),
        ),
        (
            ("all", "a * b", "The shelves hold {all} books."),
            ("left", "all - c", "Without the borrowed ones, {left} books are there."),
        ),
        ("How many books are in the library now?", "How many books can be found on the shelves?"),
        "the number of books that are in the library now",
        "books",
        ITEMS,
    ),
    Family(
        "bakery-day",
        {"a": (12, 40), "b": (3, 8), "c": (2, 6), "d": (1, 4)},
        (
            (
                "{who} bakes {a} trays of {thing}, with {b} {thing} on a tray.",
                "On every tray there are {b} {thing}, and {who} bakes {a} trays.",
            ),
            (
                "A box is filled with {c} {thing} and sold for ${d}.",
                "{She} packs them in boxes of {c} and asks ${d} for a box.",
            ),
        ),
        (
            ("all", "a * b", "{who} bakes {all} {thing}."),
            ("boxes", "all / c", "They fill {boxes} boxes."),
            ("money", "boxes * d", "The boxes bring in {money} dollars."),
        ),
        (
            "How many dollars does {who} take in if all boxes are sold?",
            "If every box is sold, how much money is that in dollars?",
        ),
        "the money that {who} takes in",
        "$",
        MONEY,
        {"thing": BAKED},
    ),
    Family(
        "savings",
        {"a": (20, 150, 5), "b": (5, 30), "c": (3, 12), "d": (10, 80, 5)},
        (
            ("{who} has ${a} in {her} savings box.", "In {who}'s savings box there are ${a}."),
            (
                "Every week {she} puts in ${b}, for {c} weeks.",
                "For {c} weeks {she} adds ${b} a week.",
            ),
            ("Then {she} spends ${d} on a gift.", "After that, a gift costs {who} ${d}."),
        ),
        (
            ("added", "b * c", "{who} adds {added} dollars."),
            ("before", "a + added", "So there are {before} dollars in the box."),
            ("rest", "before - d", "The gift leaves {rest} dollars."),
        ),
        ("How many dollars are in the box now?", "How much money does {who} still have in the box?"),
        "the money left in {who}'s savings box",
        "$",
        MONEY,
    ),
    Family(
        "hourly-pay",
        {"a": (9, 32), "b": (3, 9), "c": (2, 6), "d": (10, 60, 5)},
        (
            (
                "{who} earns ${a} an hour and works {b} hours a day.",
                "Working {b} hours a day, {who} is paid ${a} for each hour.",
            ),
            (
                "{She} works {c} days a week and pays ${d} a week for the train.",
                "That makes {c} working days a week, and the train costs {her} ${d} a week.",
            ),
        ),
        (
            ("day", "a * b", "In a day {who} earns {day} dollars."),
            ("week", "day * c", "In a week that is {week} dollars."),
            ("rest", "week - d", "After the train, {rest} dollars remain."),
        ),
        (
            "How many dollars of a week's pay remain after the train?",
            "What is left of {her} weekly pay, in dollars?",
        ),
        "what remains of {who}'s weekly pay",
        "$",
        MONEY,
    ),
    Family(
        "discount",
        {"a": (40, 400, 20), "p": (5, 50, 5), "c": (3, 25)},
        (
            (
                "A {thing} costs ${a}. In the sale it is {p}% cheaper.",
                "The price of a {thing} is ${a}, and today there is a discount of {p}%.",
            ),
            (
                "Delivery costs ${c} more.",
                "To have it delivered, {who} pays another ${c}.",
            ),
        ),
        (
            ("off", "a * p / 100", "The discount is {off} dollars."),
            ("price", "a - off", "So the {thing} costs {price} dollars."),
            ("pay", "price + c", "With delivery that makes {pay} dollars."),
        ),
        (
            "How many dollars does {who} pay for the {thing} in all?",
            "What does the {thing} cost {who} in the end, in dollars?",
        ),
        "what {who} pays for the {thing} in all",
        "$",
        MONEY,
        {"thing": ("desk", "bicycle", "winter coat", "lamp", "camera", "tent", "guitar", "carpet")},
    ),
    Family(
        "shopping",
        {"a": (2, 9), "b": (2, 12), "c": (2, 7), "d": (3, 15), "e": (100, 200, 10)},
        (
            (
                "{who} buys {a} {thing} at ${b} each and {c} {other_thing} at ${d} each.",
                "In a shop, {who} takes {a} {thing} for ${b} each and {c} {other_thing} for ${d} each.",
            ),
            ("{She} pays with ${e}.", "{who} hands over ${e}."),
        ),
        (
            ("first", "a * b", "The {thing} cost {first} dollars."),
            ("second", "c * d", "The {other_thing} cost {second} dollars."),
            ("sum", "first + second", "Together that is {sum} dollars."),
            ("change", "e - sum", "The change is {change} dollars."),
        ),
        ("How much change does {she} get, in dollars?", "How many dollars does {who} get back?"),
        "the change that {who} gets",
        "$",
        MONEY,
        {
            "thing": ("notebooks", "pens", "folders", "erasers"),
            "other_thing": ("mugs", "plants", "puzzles", "T-shirts"),
        },
    ),
    Family(
        "trip",
        {"a": (70, 110, 5), "b": (2, 6), "c": (30, 65, 5), "d": (2, 5)},
        (
            (
                "A {thing} travels for {b} hours at {a} kilometers an hour.",
                "For {b} hours a {thing} goes at a steady {a} kilometers an hour.",
            ),
            (
                "Then it slows down to {c} kilometers an hour for {d} more hours.",
                "It covers the rest of the way in {d} hours at {c} kilometers an hour.",
            ),
        ),
        (
            ("fast", "a * b", "The first part is {fast} kilometers."),
            ("slow", "c * d", "The second part is {slow} kilometers."),
            ("way", "fast + slow", "The whole way is {way} kilometers."),
        ),
        ("How many kilometers is the whole trip?", "How far does the {thing} travel, in kilometers?"),
        "the length of the {thing}'s whole trip in kilometers",
        "kilometers",
        PLAIN,
        {"thing": ("bus", "train", "truck", "delivery van", "coach")},
    ),
    Family(
        "average",
        {"a": (50, 95), "b": (50, 95), "c": (50, 95), "d": (60, 90)},
        (
            (
                "{who} scored {a}, {b} and {c} points in three tests.",
                "In {her} first three tests, {who} reached {a}, {b} and {c} points.",
            ),
            (
                "After the fourth test, {her} average is to be {d} points.",
                "{She} wants an average of {d} points over four tests.",
            ),
        ),
        (
            ("need", "d * 4", "Four tests with that average have {need} points together."),
            ("have", "a + b + c", "The first three have {have} points."),
            ("last", "need - have", "So the fourth must have {last} points."),
        ),
        (
            "How many points must {who} score in the fourth test?",
            "What score does {she} need in the fourth test?",
        ),
        "the number of points that {who} needs in the fourth test",
        "points",
    ),
    Family(
        "fence",
        {"a": (12, 60, 2), "b": (8, 40, 2), "c": (3, 15)},
        (
            (
                "A rectangular {place} is {a} meters long and {b} meters wide.",
                "The sides of a rectangular {place} measure {a} meters and {b} meters.",
            ),
            (
                "A fence all around it costs ${c} a meter.",
                "For a fence around it, {who} pays ${c} for each meter.",
            ),
        ),
        (
            ("half", "a + b", "Two sides that meet measure {half} meters."),
            ("around", "half * 2", "The way around is {around} meters."),
            ("cost", "around * c", "The fence costs {cost} dollars."),
        ),
        ("How many dollars does the fence cost?", "What is the price of the whole fence, in dollars?"),
        "the price of the fence around the {place}",
        "$",
        MONEY,
        {"place": ("garden", "field", "playground", "courtyard", "meadow")},
    ),
    Family(
        "floor-tiles",
        {"a": (3, 12), "b": (3, 10), "c": (4, 16), "d": (2, 9)},
        (
            (
                "The floor of a {place} is {a} meters by {b} meters.",
                "A {place} has a floor {a} meters long and {b} meters wide.",
            ),
            (
                "One square meter takes {c} tiles, and {d} tiles break during the work.",
                "It takes {c} tiles to cover a square meter; {d} more are needed since that many break.",
            ),
        ),
        (
            ("area", "a * b", "The floor has {area} square meters."),
            ("laid", "area * c", "They take {laid} tiles."),
            ("total", "laid + d", "With the broken ones that is {total} tiles."),
        ),
        ("How many tiles are used in all?", "How many tiles must be bought?"),
        "the number of tiles needed for the {place}",
        "tiles",
        PLAIN,
        {"place": ("kitchen", "hall", "workshop", "bathroom", "waiting room")},
    ),
    Family(
        "ages",
        {"a": (6, 15), "b": (2, 4), "c": (3, 12)},
        (
            (
                "{who} is {a} years old. {Her} aunt is {b} times as old.",
                "At the age of {a}, {who} has an aunt who is {b} times as old.",
            ),
            ("The aunt's brother is {c} years older than the aunt.",
             "The aunt has a brother, older than she is by {c} years."),
        ),
        (
            ("aunt", "a * b", "The aunt is {aunt} years old."),
            ("uncle", "aunt + c", "Her brother is {uncle} years old."),
        ),
        ("How old is the aunt's brother?", "What is the age of the aunt's brother in years?"),
        "the age of {who}'s aunt's brother",
        "years",
    ),
    Family(
        "recipe",
        {"a": (2, 8), "b": (100, 400, 50), "c": (2, 5), "d": (3, 12)},
        (
            (
                "A recipe for {c} people needs {b} grams of {thing}.",
                "For {c} people, {who}'s recipe takes {b} grams of {thing}.",
            ),
            (
                "{who} cooks for {d} people.",
                "There will be {d} people at the table.",
            ),
        ),
        (
            ("each", "b / c", "One person needs {each} grams."),
            ("all", "each * d", "For everyone that is {all} grams."),
        ),
        ("How many grams of {thing} are needed?", "How much {thing} does {who} need, in grams?"),
        "the amount of {thing} in grams that {who} needs",
        "grams",
        PLAIN,
        {"thing": ("rice", "flour", "couscous", "pasta", "sugar", "barley")},
    ),
    Family(
        "pages",
        {"a": (180, 480, 10), "b": (12, 30), "c": (3, 7), "d": (2, 6)},
        (
            ("{who} reads a book of {a} pages.", "A book that {who} is reading has {a} pages."),
            (
                "In the first {c} days {she} reads {b} pages a day.",
                "{She} manages {b} pages a day for {c} days.",
            ),
            (
                "{She} wants to finish in {d} more days, with the same number of pages each day.",
                "The rest is to be read in {d} equal daily parts.",
            ),
        ),
        (
            ("read", "b * c", "So far {who} has read {read} pages."),
            ("left", "a - read", "That leaves {left} pages."),
            ("daily", "left / d", "Each day that is {daily} pages."),
        ),
        ("How many pages a day is that?", "How many pages must {she} read on each of these days?"),
        "the number of pages {who} must read on each remaining day",
        "pages",
    ),
    Family(
        "school-trip",
        {"a": (3, 8), "b": (18, 30), "c": (4, 12), "d": (20, 50, 2)},
        (
            (
                "{a} classes of {b} pupils each go on a trip, together with {c} teachers.",
                "On a school trip there are {a} classes with {b} pupils each, and {c} teachers.",
            ),
            ("A bus has {d} seats, and all buses are full.", "They exactly fill buses of {d} seats."),
        ),
        (
            ("pupils", "a * b", "There are {pupils} pupils."),
            ("people", "pupils + c", "With the teachers that makes {people} people."),
            ("buses", "people / d", "They need {buses} buses."),
        ),
        ("How many buses are there?", "How many buses are needed?"),
        "the number of buses",
        "buses",
    ),
    Family(
        "tank",
        {"a": (100, 600, 20), "b": (8, 30), "c": (3, 12), "d": (5, 20)},
        (
            (
                "A tank holds {a} liters of water. A pump adds {b} liters a minute.",
                "There are {a} liters in a tank, and a pump brings {b} liters more each minute.",
            ),
            (
                "At the same time {c} liters a minute run out through a leak. The pump runs for {d} minutes.",
                "A leak loses {c} liters a minute meanwhile, and after {d} minutes the pump stops.",
            ),
        ),
        (
            ("gain", "b - c", "Each minute the tank gains {gain} liters."),
            ("more", "gain * d", "In that time it gains {more} liters."),
            ("level", "a + more", "Then it holds {level} liters."),
        ),
        (
            "How many liters are in the tank when the pump stops?",
            "How much water does the tank hold at the end, in liters?",
        ),
        "the number of liters in the tank at the end",
        "liters",
    ),
    Family(
        "farm-eggs",
        {"a": (12, 60), "b": (5, 7), "c": (10, 60), "d": (6, 12, 6)},
        (
            (
                "{who} has {a} hens. Each hen lays {b} eggs a week.",
                "On {who}'s farm, {a} hens lay {b} eggs a week each.",
            ),
            (
                "{She} keeps {c} eggs and puts the rest into cartons of {d}.",
                "The family eats {c} of them; the others go into cartons of {d}.",
            ),
        ),
        (
            ("laid", "a * b", "The hens lay {laid} eggs."),
            ("sold", "laid - c", "That leaves {sold} eggs for the cartons."),
            ("cartons", "sold / d", "They fill {cartons} cartons."),
        ),
        ("How many cartons does {who} fill in a week?", "How many cartons is that each week?"),
        "the number of cartons that {who} fills in a week",
        "cartons",
        ITEMS,
    ),
    Family(
        "theater",
        {"a": (10, 30), "b": (12, 30), "c": (8, 25), "d": (15, 120)},
        (
            (
                "A theater has {a} rows of {b} seats.",
                "In a theater there are {a} rows, and every row has {b} seats.",
            ),
            (
                "A ticket costs ${c}, and tonight {d} seats are empty.",
                "Tonight {d} seats stay empty; for all the others ${c} each were paid.",
            ),
        ),
        (
            ("seats", "a * b", "The theater has {seats} seats."),
            ("sold", "seats - d", "Of these, {sold} are taken."),
            ("money", "sold * c", "The tickets bring in {money} dollars."),
        ),
        ("How many dollars did the tickets bring in?", "What was tonight's income in dollars?"),
        "the theater's income of the evening",
        "$",
        MONEY,
    ),
    Family(
        "fractions-of-class",
        {"a": (24, 240, 12), "n": (2, 6), "m": (2, 4)},
        (
            (
                "There are {a} children in a camp. One out of every {n} can swim.",
                "Of the {a} children in a camp, one in {n} can swim.",
            ),
            (
                "Of those who can swim, one in {m} is also learning to dive.",
                "One out of every {m} swimmers is learning to dive, too.",
            ),
        ),
        (
            ("swim", "a / n", "There are {swim} swimmers."),
            ("dive", "swim / m", "Of them, {dive} learn to dive."),
        ),
        ("How many children are learning to dive?", "How many of the swimmers learn to dive?"),
        "the number of children who are learning to dive",
        "children",
    ),
    Family(
        "ratio",
        {"a": (2, 7), "b": (3, 9), "c": (4, 30)},
        (
            (
                "In a {place}, the number of {thing} to {other_thing} is as {a} to {b}.",
                "For every {a} {thing} in a {place} there are {b} {other_thing}.",
            ),
            (
                "Together there are {c} such groups.",
                "There are {c} of these groups, and nothing else.",
            ),
        ),
        (
            ("one", "a + b", "One group has {one} members."),
            ("all", "one * c", "All groups together have {all} members."),
        ),
        (
            "How many {thing} and {other_thing} are there together?",
            "What is the total number of {thing} and {other_thing}?",
        ),
        "the total number of {thing} and {other_thing}",
        "",
        PLAIN,
        {
            "place": ("park", "nursery garden", "large hall"),
            "thing": ("red chairs", "oak trees", "white tables"),
            "other_thing": ("blue chairs", "maple trees", "green tables"),
        },
    ),
    Family(
        "workshop",
        {"a": (2, 6), "b": (3, 12), "c": (4, 9), "d": (5, 40)},
        (
            (
                "{a} friends make {b} {thing} an hour each.",
                "Each of {a} friends can make {b} {thing} in an hour.",
            ),
            (
                "They work for {c} hours, and {d} {thing} turn out badly and are thrown away.",
                "After {c} hours of work, they throw away {d} {thing} that turned out badly.",
            ),
        ),
        (
            ("hour", "a * b", "In an hour they make {hour} {thing}."),
            ("made", "hour * c", "In all they make {made} {thing}."),
            ("good", "made - d", "Of these, {good} are good."),
        ),
        ("How many good {thing} do they have?", "How many {thing} can they keep?"),
        "the number of good {thing}",
        "{thing}",
        ITEMS,
        {"thing": MADE},
    ),
    Family(
        "phone-plan",
        {"a": (10, 40), "b": (100, 300, 50), "c": (5, 25, 5), "d": (20, 200, 10)},
        (
            (
                "A phone plan costs ${a} a month and includes {b} minutes.",
                "For ${a} a month, a phone plan gives {b} minutes of calls.",
            ),
            (
                "Each further minute costs {c} cents. This month {who} called for {d} minutes more than that.",
                "In this month {who} went {d} minutes over, at {c} cents a minute.",
            ),
        ),
        (
            ("cents", "c * d", "The further minutes cost {cents} cents."),
            ("extra", "cents / 100", "In dollars that is {extra} dollars."),
            ("bill", "a + extra", "The bill is {bill} dollars."),
        ),
        ("How many dollars is this month's bill?", "What must {who} pay this month, in dollars?"),
        "{who}'s phone bill of the month",
        "$",
        MONEY,
        whole=False,
    ),
    Family(
        "ribbon",
        {"a": (2, 12), "b": (10, 45, 5), "c": (2, 15)},
        (
            (
                "{who} has {a} meters of ribbon.",
                "A roll holds {a} meters of ribbon, and {who} uses all of the roll.",
            ),
            (
                "For each {thing} {she} cuts a piece of {b} centimeters, {c} pieces in all.",
                "{She} needs {c} pieces of {b} centimeters, one for each {thing}.",
            ),
        ),
        (
            ("all", "a * 100", "The ribbon is {all} centimeters long."),
            ("cut", "b * c", "The pieces take {cut} centimeters."),
            ("left", "all - cut", "That leaves {left} centimeters."),
        ),
        (
            "How many centimeters of ribbon are left?",
            "How long is the rest of the ribbon, in centimeters?",
        ),
        "the length in centimeters of the ribbon that is left",
        "centimeters",
        PLAIN,
        {"thing": ("gift", "bouquet", "hat", "jar", "wreath")},
    ),
    Family(
        "running",
        {"a": (3, 12), "b": (4, 7), "c": (2, 8), "d": (2, 4)},
        (
            (
                "{who} runs {a} kilometers on {b} days of every week.",
                "On {b} days of a week, {who} goes running: {a} kilometers each time.",
            ),
            (
                "On Sundays {she} walks {c} kilometers, too. {She} keeps this up for {d} weeks.",
                "Once a week {she} also walks {c} kilometers. This goes on for {d} weeks.",
            ),
        ),
        (
            ("runs", "a * b", "In a week {who} runs {runs} kilometers."),
            ("week", "runs + c", "With the walk that is {week} kilometers."),
            ("all", "week * d", "In all these weeks that makes {all} kilometers."),
        ),
        (
            "How many kilometers does {who} cover in all?",
            "What distance does {she} cover in this time, in kilometers?",
        ),
        "the number of kilometers that {who} covers in all",
        "kilometers",
    ),
    Family(
        "equal-shares",
        {"a": (10, 60), "b": (10, 60), "c": (2, 9), "d": (1, 12)},
        (
            (
                "{who} and {other} put their {thing} together: {a} from {who} and {b} from {other}.",
                "{who} brings {a} {thing} and {other} brings {b}.",
            ),
            (
                "They share them equally among {c} friends, and each friend already had {d}.",
                "All of these are split evenly among {c} friends, who had {d} each before.",
            ),
        ),
        (
            ("sum", "a + b", "Together there are {sum} {thing}."),
            ("share", "sum / c", "Each friend gets {share} {thing}."),
            ("each", "share + d", "With those from before, that is {each} {thing}."),
        ),
        ("How many {thing} does each friend have now?", "What does each friend have in the end?"),
        "the number of {thing} that each friend has now",
        "{thing}",
        ITEMS,
        {"thing": SMALL},
    ),
    Family(
        "shop-stock",
        {"a": (120, 500, 10), "b": (8, 30), "c": (3, 9), "d": (40, 150, 10)},
        (
            (
                "A {shop} starts with {a} calendars.",
                "There are {a} calendars in the storeroom of a {shop}.",
            ),
            (
                "It sells {b} a day for {c} days.",
                "For {c} days, {b} of them are sold daily.",
            ),
            ("Then {d} more are delivered.", "A delivery brings {d} more."),
        ),
        (
            ("sold", "b * c", "The shop sells {sold} calendars."),
            ("left", "a - sold", "So {left} calendars are left."),
            ("now", "left + d", "After the delivery there are {now} calendars."),
        ),
        ("How many calendars does the shop have now?", "How many calendars are in stock after that?"),
        "the number of calendars in stock",
        "calendars",
        ITEMS,
        {"shop": SHOPS},
    ),
    Family(
        "percent-growth",
        {"a": (200, 2_000, 100), "p": (5, 60, 5), "b": (10, 150, 10)},
        (
            (
                "Last year {a} people visited a {place}.",
                "A {place} had {a} visitors last year.",
            ),
            (
                "This year the number grew by {p}%, and {b} of the visitors came twice.",
                "The number of visitors is {p}% higher this year; {b} of them came a second time.",
            ),
        ),
        (
            ("more", "a * p / 100", "The increase is {more} visitors."),
            ("year", "a + more", "So there were {year} visitors this year."),
            ("visits", "year + b", "With the second visits that makes {visits} visits."),
        ),
        ("How many visits were there this year?", "What was this year's number of visits?"),
        "the number of visits to the {place} this year",
        "visits",
        PLAIN,
        {"place": ("village museum", "botanical garden", "lighthouse", "castle", "small zoo")},
    ),
    Family(
        "garden-rows",
        {"a": (3, 14), "b": (6, 20), "c": (2, 5), "d": (3, 9)},
        (
            (
                "{who} plants {a} rows of {b} {thing}.",
                "There are {a} rows with {b} {thing} each in {who}'s garden.",
            ),
            (
                "In every row, {c} of them do not survive. Each of the others bears {d} times that summer.",
                "{c} in each row die, and every one that lives bears {d} times in the summer.",
            ),
        ),
        (
            ("alive", "b - c", "In a row {alive} {thing} live."),
            ("all", "alive * a", "In all rows that is {all} {thing}."),
            ("times", "all * d", "Together they bear {times} times."),
        ),
        (
            "How many times do {who}'s {thing} bear in all?",
            "Counting each plant by itself, how many times do they bear altogether?",
        ),
        "the number of times that {who}'s {thing} bear in all",
        "times",
        PLAIN,
        {"thing": PLANTS},
    ),
    Family(
        "movie-night",
        {"a": (85, 150, 5), "b": (2, 4), "c": (10, 30, 5), "d": (5, 20, 5)},
        (
            (
                "{who} watches {b} films of {a} minutes each.",
                "Tonight {who} sees {b} films; each takes {a} minutes.",
            ),
            (
                "Before the first one there are {c} minutes of trailers, and the breaks take {d} minutes together.",
                "The trailers last {c} minutes and the breaks {d} minutes in all.",
            ),
        ),
        (
            ("films", "a * b", "The films take {films} minutes."),
            ("both", "c + d", "Trailers and breaks take {both} minutes."),
            ("all", "films + both", "The evening takes {all} minutes."),
        ),
        ("How many minutes does the whole evening take?", "How long is the evening, in minutes?"),
        "the length of {who}'s evening in minutes",
        "minutes",
    ),
    Family(
        "paint",
        {"a": (3, 8), "b": (2, 5), "c": (4, 9), "d": (3, 8)},
        (
            (
                "A wall is {c} meters long and {b} meters high, and {who} paints {a} such walls.",
                "{who} paints {a} walls, each {c} meters long and {b} meters high.",
            ),
            (
                "One can of paint is enough for {d} square meters, and no paint is left over.",
                "A can covers {d} square meters, and the last can is used up exactly.",
            ),
        ),
        (
            ("wall", "b * c", "One wall has {wall} square meters."),
            ("area", "wall * a", "All walls have {area} square meters."),
            ("cans", "area / d", "That takes {cans} cans."),
        ),
        ("How many cans of paint does {who} use?", "How many cans are needed?"),
        "the number of cans of paint that {who} uses",
        "cans",
        PLAIN,
    ),
    Family(
        "two-jobs",
        {"a": (10, 28), "b": (5, 20), "c": (12, 30), "d": (4, 16), "e": (50, 200, 10)},
        (
            (
                "{who} works {b} hours a week in a {shop} for ${a} an hour and {d} hours as a tutor for ${c} an hour.",
                "Each week {who} tutors for {d} hours at ${c} an hour and works {b} hours in a {shop} at ${a} an hour.",
            ),
            ("Rent and food cost {her} ${e} a week.", "{She} spends ${e} a week on rent and food."),
        ),
        (
            ("first", "a * b", "The {shop} pays {first} dollars."),
            ("second", "c * d", "Tutoring pays {second} dollars."),
            ("sum", "first + second", "Together that is {sum} dollars."),
            ("rest", "sum - e", "After rent and food, {rest} dollars remain."),
        ),
        (
            "How many dollars a week can {who} put aside?",
            "What remains of {her} weekly income, in dollars?",
        ),
        "the money {who} can put aside each week",
        "$",
        MONEY,
        {"shop": SHOPS},
    ),
)  # fmt: skip

Follow = tuple[Range, Sequence[str], Step, Sequence[str], str, str, str]
"""Deeper by one step: range of its number `z`, sentences, step, questions, phrase, unit, sort. `{it}`
is the phrase of the answer before, and `{them}` the same without "the number of"."""

FOLLOWS: Mapping[str, Sequence[Follow]] = {
    ITEMS: (
        (
            (2, 9),
            (
                "Then {them} are packed into boxes of {z}, with none left over.",
                "All of {them} are put into boxes that hold {z} each, and every box is full.",
            ),
            ("after", "last / z", "They fill {after} boxes."),
            ("How many boxes are filled?", "How many boxes does that take?"),
            "the number of boxes that are filled",
            "boxes",
            PLAIN,
        ),
        (
            (2, 12),
            ("Each of {them} is then sold for ${z}.", "Later, {them} are sold at ${z} each."),
            ("after", "last * z", "Selling them brings in {after} dollars."),
            ("How many dollars does that bring in?", "How much money is that, in dollars?"),
            "the money that the sale brings in",
            "$",
            MONEY,
        ),
        (
            (2, 40),
            ("The next day, {z} more are added to {them}.", "A day later, {z} join {them}."),
            ("after", "last + z", "With the new ones there are {after}."),
            ("How many are there then?", "How many is that in the end?"),
            "the number there is on the next day",
            "",
            PLAIN,
        ),
        (
            (2, 5),
            (
                "Somebody else has {z} times {it}.",
                "A cousin claims to have {z} times {it}, and it is true.",
            ),
            ("after", "last * z", "The other person has {after}."),
            ("How many does the other person have?", "How many has that other person?"),
            "the number that the other person has",
            "",
            PLAIN,
        ),
    ),
    MONEY: (
        (
            (2, 8),
            ("{z} people split {it} evenly.", "{z} people then share {it} equally."),
            ("after", "last / z", "Each one's share is {after} dollars."),
            (
                "How many dollars is each one's share?",
                "What is the share of one person, in dollars?",
            ),
            "the share of one person",
            "$",
            MONEY,
        ),
        (
            (5, 60, 5),
            ("Another ${z} are then added to {it}.", "Later, ${z} more are added to {it}."),
            ("after", "last + z", "With what is added, that makes {after} dollars."),
            ("How many dollars is that together?", "What is the sum in dollars?"),
            "the sum after that",
            "$",
            MONEY,
        ),
        (
            (2, 6),
            (
                "A year later, the amount is {z} times {it}.",
                "After a year it has become {z} times {it}.",
            ),
            ("after", "last * z", "A year later that is {after} dollars."),
            (
                "How many dollars is it a year later?",
                "What is the amount a year later, in dollars?",
            ),
            "the amount a year later",
            "$",
            MONEY,
        ),
        (
            (10, 50, 10),
            ("Then {z}% of {it} goes to charity.", "A charity receives {z}% of {it}."),
            ("after", "last * z / 100", "The charity gets {after} dollars."),
            (
                "How many dollars does the charity get?",
                "What does the charity receive, in dollars?",
            ),
            "what the charity gets",
            "$",
            MONEY,
        ),
    ),
    PLAIN: (),
}

NAMES = (
    ("Amara", "she"), ("Ben", "he"), ("Chen", "he"), ("Daria", "she"), ("Elif", "she"),
    ("Farid", "he"), ("Grace", "she"), ("Hugo", "he"), ("Ines", "she"), ("Jamal", "he"),
    ("Kavya", "she"), ("Liam", "he"), ("Mina", "she"), ("Noah", "he"), ("Olga", "she"),
    ("Pablo", "he"), ("Rosa", "she"), ("Samir", "he"), ("Tess", "she"), ("Umar", "he"),
    ("Vera", "she"), ("Wei", "he"), ("Yuki", "she"), ("Zane", "he"), ("Leila", "she"),
    ("Marco", "he"), ("Nadia", "she"), ("Oscar", "he"), ("Priya", "she"), ("Tomas", "he"),
)  # fmt: skip
