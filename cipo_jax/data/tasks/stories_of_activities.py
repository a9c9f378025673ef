"""Word problems about what is done: shopping, a trip, a contest.

How they are written is said in `story_parts.py`.
"""

from cipo_jax.data.tasks.story_parts import (
    FEW,
    MANY,
    SOME,
    Part,
    Story,
    beyond,
    divisor,
    even,
    part_of,
    settings,
    tens_beyond,
    within,
)

SHOPPING = Story(
    "shopping",
    settings(
        "goods, other, gift, money",
        "pens, notebooks, ruler, dollars",
        "muffins, sandwiches, cake, dollars",
        "postcards, mugs, map, euros",
        "shirts, caps, scarf, dollars",
        "plants, pots, shovel, euros",
        "books, magazines, calendar, dollars",
        "candles, vases, lamp, pounds",
        "melons, lemons, basket, dollars",
        "brushes, canvases, frame, pounds",
        "kites, balls, puzzle, euros",
    ),
    openings=(
        Part(
            "buy",
            (
                "{name} buys {a} {goods} for {b} {money} each.",
                "{name} needs {a} {goods}. Each of them costs {b} {money}.",
                "In a shop {name} takes {a} {goods} at {b} {money} each.",
            ),
            (FEW, within(2, 15)),
            (("The {goods}", "a * b"),),
        ),
        Part(
            "set",
            (
                "{name} buys {goods} for {a} {money}.",
                "{name} spends {a} {money} on {goods}.",
            ),
            (MANY,),
        ),
        Part(
            "two",
            (
                "{name} buys {goods} for {a} {money} and {other} for {b} {money}.",
                "{name} spends {a} {money} on {goods} and {b} {money} on {other}.",
            ),
            (MANY, SOME),
            (("For both", "a + b"),),
        ),
    ),
    events=(
        Part(
            "also",
            (
                "{She} also buys {a} stamps for {b} {money} each.",
                "{She} also takes {a} bags of sweets at {b} {money} per bag.",
            ),
            (within(2, 6), within(2, 12)),
            (("The extra things", "a * b"), ("So far", "v + u")),
        ),
        Part(
            "gift",
            (
                "{She} adds a {gift} for {a} {money}.",
                "A {gift} costs {her} another {a} {money}.",
            ),
            (SOME,),
            (("With the {gift}", "v + a"),),
        ),
        Part(
            "coupon",
            (
                "A coupon takes {a} {money} off the bill.",
                "With a coupon the bill is {a} {money} lower.",
            ),
            (part_of,),
            (("With the coupon", "v - a"),),
        ),
        Part(
            "delivery",
            ("Delivery costs {a} {money} more.",),
            (within(2, 12),),
            (("With delivery", "v + a"),),
        ),
    ),
    questions=(
        Part(
            "pay",
            (
                "How many {money} does {name} pay in all?",
                "What does {name} pay in all, in {money}?",
            ),
        ),
        Part(
            "change",
            ("{She} hands over {a} {money}. How many {money} does {name} get back?",),
            (tens_beyond,),
            (("Change", "a - v"),),
        ),
        Part(
            "left",
            ("{name} had {a} {money} before. How many {money} are left?",),
            (beyond,),
            (("Left", "a - v"),),
        ),
        Part(
            "split",
            ("{a} friends share the cost equally. How many {money} does each of them pay?",),
            (divisor,),
            (("For each friend", "v / a"),),
        ),
        Part(
            "sale",
            (
                "The shop takes half off the bill. How many {money} does {name} pay?",
                "The shop halves the whole bill. How many {money} does {name} pay?",
            ),
            (even,),
            (("Half of that", "v / a"),),
        ),
        Part(
            "weeks",
            ("{name} does this every week. How many {money} does {name} pay in {a} weeks?",),
            (within(2, 8),),
            (("In all weeks", "v * a"),),
        ),
    ),
    idle=(
        Part("queue", ("There are {a} people in the shop.",), (within(3, 40),)),
        Part("years", ("The shop opened {a} years ago.",), (within(2, 60),)),
        Part("walk", ("The way to the shop takes {a} minutes.",), (within(4, 30),)),
        Part("coat", ("A coat in the window costs {a} {money}.",), (within(30, 90),)),
    ),
)

TRIP = Story(
    "trip",
    settings(
        "vehicle, unit",
        "train, km",
        "bus, km",
        "truck, km",
        "car, miles",
        "ferry, miles",
        "van, miles",
    ),
    openings=(
        Part(
            "drive",
            (
                "A {vehicle} travels for {a} hours at {b} {unit} per hour.",
                "For {a} hours a {vehicle} goes at a speed of {b} {unit} per hour.",
            ),
            (within(2, 6), within(8, 70)),
            (("First stretch", "a * b"),),
        ),
        Part(
            "gone",
            (
                "By noon a {vehicle} has gone {a} {unit}.",
                "A {vehicle} goes {a} {unit} in the morning.",
            ),
            (within(5, 200),),
        ),
        Part(
            "two",
            (
                "A {vehicle} goes {a} {unit} in the morning and {b} {unit} in the evening.",
                "A {vehicle} goes {a} {unit} to the coast and then {b} {unit} along it.",
            ),
            (within(5, 120), within(5, 120)),
            (("Both stretches", "a + b"),),
        ),
    ),
    events=(
        Part(
            "slower",
            (
                "Then the {vehicle} goes for {a} hours at {b} {unit} per hour.",
                "After a break the {vehicle} travels {a} more hours at {b} {unit} per hour.",
            ),
            (within(2, 5), within(6, 60)),
            (("Next stretch", "a * b"), ("So far", "v + u")),
        ),
        Part(
            "further",
            (
                "Then the {vehicle} goes {a} {unit} further.",
                "On a detour the {vehicle} goes another {a} {unit}.",
            ),
            (MANY,),
            (("With that", "v + a"),),
        ),
        Part(
            "return",
            ("The {vehicle} goes the same way back.",),
            (within(2, 2),),
            (("There and back", "v * a"),),
        ),
    ),
    questions=(
        Part("far", ("How many {unit} does the {vehicle} travel in all?",)),
        Part(
            "left",
            ("The {vehicle} is to go {a} {unit} in all. How many {unit} are left?",),
            (beyond,),
            (("Left", "a - v"),),
        ),
        Part(
            "days",
            ("The {vehicle} does this on {a} days. How many {unit} does it travel in all?",),
            (within(2, 5),),
            (("On all days", "v * a"),),
        ),
        Part(
            "fuel",
            (
                "The {vehicle} needs one litre of fuel for every {a} {unit}. "
                "How many litres does it need?",
            ),
            (divisor,),
            (("Litres", "v / a"),),
        ),
        Part(
            "compare",
            (
                "A second {vehicle} travels {a} {unit} less than the first. "
                "How many {unit} does the second {vehicle} travel?",
            ),
            (part_of,),
            (("The second {vehicle}", "v - a"),),
        ),
    ),
    idle=(
        Part("people", ("There are {a} people on the {vehicle}.",), (within(2, 60),)),
        Part("years", ("The {vehicle} is {a} years old.",), (within(2, 25),)),
        Part("tank", ("The tank holds {a} litres.",), (within(30, 90),)),
        Part("degrees", ("Outside it is {a} degrees.",), (within(5, 30),)),
    ),
)

CONTEST = Story(
    "contest",
    settings(
        "did, do, units",
        "scored, score, points",
        "ran, run, laps",
        "read, read, pages",
        "caught, catch, fish",
        "planted, plant, trees",
        "picked, pick, plums",
        "baked, bake, rolls",
        "solved, solve, puzzles",
        "sold, sell, tickets",
    ),
    openings=(
        Part(
            "first", ("{now} {did} {a} {units}.", "In one week {now} {did} {a} {units}."), (MANY,)
        ),
        Part(
            "rounds",
            (
                "In each of {a} rounds {now} {did} {b} {units}.",
                "{now} {did} {b} {units} a day for {a} days.",
            ),
            (FEW, within(3, 15)),
            (("{now}", "a * b"),),
        ),
    ),
    events=(
        Part(
            "more",
            ("{now} {did} {a} more {units} than {before}.",),
            (SOME,),
            (("{now}", "v + a"),),
        ),
        Part(
            "fewer",
            ("{now} {did} {a} fewer {units} than {before}.",),
            (part_of,),
            (("{now}", "v - a"),),
        ),
        Part(
            "times",
            ("{now} {did} {a} times as many {units} as {before}.",),
            (within(2, 5),),
            (("{now}", "v * a"),),
        ),
        Part(
            "half",
            ("{now} {did} half as many {units} as {before}.",),
            (even,),
            (("{now}", "v / a"),),
        ),
    ),
    questions=(
        Part("last", ("How many {units} did {now} {do}?",)),
        Part(
            "both",
            ("How many {units} did {first} and {now} {do} together?",),
            lines=(("Together", "f + v"),),
            events=(1, 99),
        ),
        Part(
            "average",
            (
                "{now} needed {a} days for that, with the same number each day. "
                "How many {units} did {now} {do} a day?",
            ),
            (divisor,),
            (("Each day", "v / a"),),
            events=(1, 99),
        ),
        Part(
            "goal",
            ("{now} wanted to {do} {a} {units}. How many {units} were missing?",),
            (beyond,),
            (("Missing", "a - v"),),
        ),
    ),
    idle=(
        Part("age", ("{friend} is {a} years old.",), (within(7, 15),)),
        Part("past", ("A year ago {friend} {did} {a} {units}.",), (SOME,)),
        Part("crowd", ("There were {a} people watching.",), (within(3, 90),)),
    ),
)
