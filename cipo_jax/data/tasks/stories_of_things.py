"""Word problems about things: somebody's collection, and what a workshop makes and sells.

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
    within,
)

COLLECTION = Story(
    "collection",
    settings(
        "items, boxes, box",
        "marbles, bags, bag",
        "stickers, packs, pack",
        "cards, packs, pack",
        "pencils, boxes, box",
        "beads, jars, jar",
        "buttons, tins, tin",
        "shells, boxes, box",
        "stamps, envelopes, envelope",
        "walnuts, bags, bag",
        "crayons, boxes, box",
        "apples, baskets, basket",
        "cookies, tins, tin",
    ),
    openings=(
        Part(
            "have",
            (
                "{name} has {a} {items}.",
                "{name} starts the week with {a} {items}.",
                "At first {name} has {a} {items}.",
            ),
            (MANY,),
        ),
        Part(
            "boxes",
            (
                "{name} has {a} {boxes} of {items} with {b} {items} in each {box}.",
                "{name} buys {a} {boxes} of {items}. There are {b} {items} in each {box}.",
                "{name} fills {a} {boxes} with {b} {items} each.",
            ),
            (FEW, within(3, 12)),
            (("In the {boxes}", "a * b"),),
        ),
        Part(
            "two",
            (
                "{name} has {a} old {items} and {b} new {items}.",
                "{name} has {a} {items} at home and {b} {items} at school.",
                "{name} has {a} large {items} and {b} small {items}.",
            ),
            (MANY, SOME),
            (("Of both kinds", "a + b"),),
        ),
    ),
    events=(
        Part(
            "gain",
            (
                "Then {friend} gives {her} {a} more.",
                "Then {she} finds {a} more {items}.",
                "The next day {she} gets another {a} {items}.",
            ),
            (SOME,),
            (("With the new ones", "v + a"),),
        ),
        Part(
            "lose",
            (
                "{She} gives {a} {items} to {friend}.",
                "{She} loses {a} of the {items}.",
                "Later {she} gives away {a} {items}.",
            ),
            (part_of,),
            (("Left after that", "v - a"),),
        ),
        Part(
            "more_boxes",
            (
                "Then {she} buys {a} {boxes} with {b} {items} each.",
                "After that {she} gets {a} {boxes} with {b} {items} in each {box}.",
            ),
            (within(2, 6), within(3, 12)),
            (("In the new {boxes}", "a * b"), ("With those", "v + u")),
        ),
        Part(
            "half",
            ("{She} gives half of the {items} to {friend}.", "Half of the {items} get lost."),
            (even,),
            (("Half of that", "v / a"),),
        ),
        Part(
            "grow",
            (
                "At the end of the year {she} has {a} times as many {items} as before.",
                "A month later {she} has {a} times as many {items} as before.",
            ),
            (within(2, 4),),
            (("After that time", "v * a"),),
        ),
    ),
    questions=(
        Part("total", ("How many {items} does {name} have in all?",), events=(0, 0)),
        Part(
            "count",
            (
                "How many {items} does {name} have now?",
                "How many {items} does {name} have in the end?",
            ),
            events=(1, 99),
        ),
        Part(
            "pack",
            (
                "{She} packs all the {items} into bowls of {a}. How many bowls does {she} need?",
                "All the {items} are put into piles of {a}. How many piles are there?",
            ),
            (divisor,),
            (("Groups of {a}", "v / a"),),
        ),
        Part(
            "share",
            (
                "{She} shares all the {items} equally among {a} friends. "
                "How many {items} does each friend get?",
            ),
            (divisor,),
            (("For each friend", "v / a"),),
        ),
        Part(
            "sell",
            (
                "{She} sells all the {items} for {a} dollars each. "
                "How many dollars does {name} get?",
            ),
            (FEW,),
            (("Dollars", "v * a"),),
        ),
        Part(
            "more",
            ("{friend} has {a} more {items} than {name}. How many {items} does {friend} have?",),
            (SOME,),
            (("{friend}", "v + a"),),
        ),
        Part(
            "fewer",
            ("{friend} has {a} fewer {items} than {name}. How many {items} does {friend} have?",),
            (part_of,),
            (("{friend}", "v - a"),),
        ),
        Part(
            "goal",
            ("{She} wants to have {a} {items}. How many more {items} does {name} need?",),
            (beyond,),
            (("Still needed", "a - v"),),
        ),
        Part(
            "together",
            (
                "{friend} has {a} times as many {items} as {name}. "
                "How many {items} do they have together?",
            ),
            (within(2, 5),),
            (("{friend}", "v * a"), ("Together", "v + u")),
        ),
    ),
    idle=(
        Part("age", ("{name} is {a} years old.",), (within(7, 15),)),
        Part("past", ("Last year {name} had {a} {items}.",), (SOME,)),
        Part("street", ("{name} lives at {a} Park Street.",), (within(2, 90),)),
        Part("class", ("There are {a} children in the class of {name}.",), (within(18, 30),)),
    ),
)

WORKSHOP = Story(
    "workshop",
    settings(
        "place, makes, units",
        "bakery, bakes, rolls",
        "factory, makes, lamps",
        "workshop, builds, chairs",
        "pottery, makes, bowls",
        "farm, picks, pears",
        "print shop, prints, posters",
        "dairy, makes, cheeses",
        "toy factory, makes, dolls",
    ),
    openings=(
        Part(
            "rate",
            (
                "A {place} {makes} {b} {units} a day for {a} days.",
                "For {a} days a {place} {makes} {b} {units} each day.",
            ),
            (FEW, within(5, 40)),
            (("Made in that time", "a * b"),),
        ),
        Part(
            "stock",
            (
                "A {place} has {a} {units} in stock.",
                "In the morning a {place} has {a} {units}.",
            ),
            (within(5, 150),),
        ),
        Part(
            "shelves",
            ("On each of {a} shelves of a {place} there are {b} {units}.",),
            (FEW, within(4, 25)),
            (("On the shelves", "a * b"),),
        ),
    ),
    events=(
        Part(
            "second",
            (
                "Then it {makes} {b} {units} a day for {a} days.",
                "In the next {a} days it {makes} {b} {units} each day.",
            ),
            (within(2, 6), within(4, 30)),
            (("Made after that", "a * b"), ("With those", "v + u")),
        ),
        Part(
            "sold",
            ("{a} {units} are sold.", "A customer takes {a} {units}."),
            (part_of,),
            (("Left after the sale", "v - a"),),
        ),
        Part(
            "broken",
            ("{a} of the {units} are damaged and thrown away.",),
            (lambda amount: range(2, min(amount // 2, 20)),),
            (("Not damaged", "v - a"),),
        ),
        Part(
            "bought",
            ("Another {place} sends {a} more {units}.", "A truck brings {a} more {units}."),
            (MANY,),
            (("With the new ones", "v + a"),),
        ),
    ),
    questions=(
        Part("total", ("How many {units} is that in all?",), events=(0, 0)),
        Part("count", ("How many {units} are there now?",), events=(1, 99)),
        Part(
            "crates",
            ("All the {units} are packed into crates of {a}. How many crates are filled?",),
            (divisor,),
            (("Crates", "v / a"),),
        ),
        Part(
            "income",
            ("Each of the {units} in stock is sold for {a} dollars. How many dollars is that?",),
            (FEW,),
            (("Dollars", "v * a"),),
        ),
        Part(
            "order",
            ("A hotel orders {a} {units}. How many {units} are missing?",),
            (beyond,),
            (("Missing", "a - v"),),
        ),
    ),
    idle=(
        Part("workers", ("The {place} has {a} workers.",), (within(3, 40),)),
        Part("rent", ("The rent is {a} dollars a day.",), (within(10, 90),)),
        Part("years", ("The {place} is {a} years old.",), (within(2, 90),)),
    ),
)
