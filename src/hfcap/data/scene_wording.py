"""Wording of the five references of a scene, in one of two styles.

- "caption": a short phrase: how many, how large, which colour and shape, on which background. It names two groups as
  one reads, the left or upper one first; two of the five say where they are.
- "alt_text": one or two full sentences for a reader who does not see the picture: all of that, and always where it is.
  Which of two groups comes first follows from the structure; a structure that opens with a place may open with either.

Both use the same words: a model adapted from one to the other by LoRA keeps its embeddings, and a word that these
have never been trained on cannot be said with confidence.

Each of the five references of an image has a sentence structure of its own; synonyms vary on top of that.
"""

from random import Random

from hfcap.data.scene_facts import INVERSE, Group, Scene, canonical

STYLES = ("caption", "alt_text")

NUMBER_WORDS = {2: "two", 3: "three", 4: "four"}
SIZE_WORDS = {"small": ("small", "little"), "large": ("large", "big")}
BACKGROUND_WORDS = {
    "white": ("white", "plain white"),
    "light grey": ("light grey", "pale grey"),
    "cream": ("cream", "plain cream"),
    "dark grey": ("dark grey", "plain dark grey"),
    "gradient": ("grey gradient", "white and grey gradient"),
}
BACKGROUND_SENTENCES = {
    "white": "The background is white.",
    "light grey": "The background is light grey.",
    "cream": "The background is cream.",
    "dark grey": "The background is dark grey.",
    "gradient": "The background fades from white at the top to grey at the bottom.",
}
PLACE_PHRASES = {
    "left": ("on the left", "on the left side"),
    "right": ("on the right", "on the right side"),
    "top": ("at the top", "in the upper half"),
    "bottom": ("at the bottom", "in the lower half"),
    "centre": ("in the centre", "in the middle"),
}
RELATION_PHRASES = {
    "left of": ("to the left of", "on the left of"),
    "right of": ("to the right of", "on the right of"),
    "above": ("above",),
    "below": ("below", "beneath"),
}


def write_references(scene: Scene, style: str, rng: Random) -> list[str]:
    """Return five references of the scene in random order, no two of the same structure.

    Raises ValueError for a style that is not one of `STYLES`.
    """
    if style == "caption":
        references = _captions(scene, rng)
    elif style == "alt_text":
        references = _alt_texts_of_one(scene, rng) if scene.relation is None else _alt_texts_of_two(scene, rng)
    else:
        raise ValueError(f"unknown style {style!r}: choose one of {', '.join(STYLES)}")
    rng.shuffle(references)
    return references


def with_article(phrase: str) -> str:
    """Return the phrase after "a" or "an", by its first letter (no word here begins with a mute h or a "yoo")."""
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def name_group(group: Group, rng: Random) -> str:
    """Return the noun phrase of a group, as in "two small blue squares"."""
    adjectives = f"{rng.choice(SIZE_WORDS[group.size])} {group.color}"
    if group.count > 1:
        return f"{NUMBER_WORDS[group.count]} {adjectives} {group.shape}s"
    return with_article(f"{adjectives} {group.shape}")


def _captions(scene: Scene, rng: Random) -> list[str]:
    groups = canonical(scene).groups
    be = "is" if groups[0].count == 1 else "are"

    def things() -> str:
        return " and ".join(name_group(group, rng) for group in groups)

    def placed_things() -> str:
        if scene.relation is None or rng.random() < 0.5:
            placed = (f"{name_group(g, rng)} {rng.choice(PLACE_PHRASES[g.position])}" for g in groups)
            return " and ".join(placed)
        first, second = scene.groups
        return f"{name_group(first, rng)} {rng.choice(RELATION_PHRASES[scene.relation])} {name_group(second, rng)}"

    def background(noun: str) -> str:
        return with_article(f"{rng.choice(BACKGROUND_WORDS[scene.background])} {noun}")

    return [
        _sentence(f"{things()} on {background('background')}"),
        _sentence(f"{rng.choice(('a picture of', 'a drawing of'))} {placed_things()} on {background('background')}"),
        _sentence(f"{background('background')} with {things()}"),
        _sentence(f"on {background('background')}, there {be} {things()}"),
        _sentence(f"the picture shows {placed_things()}, against {background('backdrop')}"),
    ]


def _alt_texts_of_one(scene: Scene, rng: Random) -> list[str]:
    (group,) = scene.groups
    be, sit = ("is", "sits") if group.count == 1 else ("are", "sit")

    def thing() -> str:
        return name_group(group, rng)

    def background() -> str:
        return with_article(f"{rng.choice(BACKGROUND_WORDS[scene.background])} background")

    def place() -> str:
        return rng.choice(PLACE_PHRASES[group.position])

    return [
        _sentence(f"{thing()} {sit} {place()} of the picture, on {background()}"),
        _sentence(f"on {background()}, there {be} {thing()} {place()}"),
        _sentence(f"{place()} of {background()} {be} {thing()}"),
        _sentence(f"the picture shows {thing()} {place()}") + " " + BACKGROUND_SENTENCES[scene.background],
        _sentence(f"{thing()} can be seen {place()}, against {background()}"),
    ]


def _alt_texts_of_two(scene: Scene, rng: Random) -> list[str]:
    first, second = canonical(scene).groups
    is_to, is_back = canonical(scene).relation, INVERSE[canonical(scene).relation]
    # Either group may open the structure that says its place at once.
    later, opening = scene.groups
    sit = "sits" if first.count == 1 else "sit"
    them = "it" if opening.count == 1 else "them"

    def background() -> str:
        return with_article(f"{rng.choice(BACKGROUND_WORDS[scene.background])} background")

    def relation(name: str) -> str:
        return rng.choice(RELATION_PHRASES[name])

    def name(group: Group) -> str:
        return name_group(group, rng)

    def place(group: Group) -> str:
        return rng.choice(PLACE_PHRASES[group.position])

    def be(group: Group) -> str:
        return "is" if group.count == 1 else "are"

    return [
        _sentence(f"{name(first)} {sit} {RELATION_PHRASES[is_to][0]} {name(second)} on {background()}"),
        _sentence(f"on {background()}, {name(second)} {be(second)} {relation(is_back)} {name(first)}"),
        _sentence(f"the picture shows {name(first)} {place(first)} and {name(second)} {place(second)}")
        + " "
        + BACKGROUND_SENTENCES[scene.background],
        _sentence(f"{place(opening)} of {background()} {be(opening)} {name(opening)}")
        + " "
        + _sentence(f"{RELATION_PHRASES[scene.relation][0]} {them} {be(later)} {name(later)}"),
        _sentence(f"{name(first)} can be seen {relation(is_to)} {name(second)}, against {background()}"),
    ]


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."
