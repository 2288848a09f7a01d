"""Content of scenes of the embedded data set, and their assignment to splits.

A scene is one or two groups of equal shapes on a background. Its split follows from its content (a hash of the
canonical facts), never from a seed, so no scene of one split can turn up in another whatever the seeds and sizes.

Held-out pairs. The six (colour, shape) pairs of `HELD_OUT_PAIRS` never occur in the training split, neither in a
picture nor in a caption. Each colour and each shape of these pairs is common in training on its own. In validation and
test some 25 % of the images contain such a pair (`held_out=True`): the figures on them say whether a captioner
composes what it sees or recalls what it was told.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

SHAPES = ("circle", "square", "triangle", "star", "heart", "ring")
COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "black")
SIZES = ("small", "large")
COUNTS = (1, 2, 3, 4)
POSITIONS = ("left", "right", "top", "bottom", "centre")
BACKGROUNDS = ("white", "light grey", "cream", "dark grey", "gradient")
RELATIONS = ("left of", "right of", "above", "below")
SPLITS = ("train", "validation", "test")

INVERSE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
POSITIONS_OF_RELATION = {
    "left of": ("left", "right"),
    "right of": ("right", "left"),
    "above": ("top", "bottom"),
    "below": ("bottom", "top"),
}
# One pair a shape and no colour twice: each half of a pair is still seen often in training.
HELD_OUT_PAIRS = frozenset(
    {
        ("red", "star"),
        ("blue", "heart"),
        ("green", "ring"),
        ("yellow", "triangle"),
        ("purple", "circle"),
        ("orange", "square"),
    }
)
HELD_OUT_SHARE = 0.25
ONE_GROUP_SHARE = 0.4
COUNT_WEIGHTS = (4, 3, 2, 2)  # four shapes are as rare as three: counting is the hardest part of a scene
INVISIBLE = frozenset({("black", "dark grey")})  # (shape colour, background) that nobody could tell apart


@dataclass(frozen=True)
class Group:
    """`count` equal shapes drawn close together at `position` of the picture."""

    count: int
    size: str
    color: str
    shape: str
    position: str


@dataclass(frozen=True)
class Scene:
    """One or two groups on a background; `relation` says where groups[0] is as seen from groups[1]."""

    background: str
    groups: tuple[Group, ...]
    relation: str | None = None

    @property
    def held_out(self) -> bool:
        """Whether a (colour, shape) pair of `HELD_OUT_PAIRS` is in the picture."""
        return any((group.color, group.shape) in HELD_OUT_PAIRS for group in self.groups)

    def to_json(self) -> str:
        """Return the facts as a JSON object with sorted keys."""
        # Not dataclasses.asdict, which copies deeply: this is called for every candidate of every picture.
        groups = [vars(group) for group in self.groups]
        return json.dumps({"background": self.background, "groups": groups, "relation": self.relation}, sort_keys=True)


def scene_from_json(text: str) -> Scene:
    """Return the scene that `Scene.to_json` wrote."""
    facts = json.loads(text)
    return Scene(facts["background"], tuple(Group(**group) for group in facts["groups"]), facts["relation"])


def canonical(scene: Scene) -> Scene:
    """Return the one form of a picture's facts: "A left of B" and "B right of A" are the same picture."""
    if scene.relation in ("right of", "below"):
        return Scene(scene.background, scene.groups[::-1], INVERSE[scene.relation])
    return scene


def split_of(scene: Scene) -> str:
    """Return the only split this scene may occur in.

    Of the scenes without a held-out pair 80 % are for training and 10 % each for validation and test; those with
    one are shared by validation and test.
    """
    digest = hashlib.sha256(canonical(scene).to_json().encode()).digest()
    bucket = int.from_bytes(digest[:8], "big")
    if scene.held_out:
        return ("validation", "test")[bucket % 2]
    return {0: "validation", 1: "test"}.get(bucket % 10, "train")


def sample_scene(split: str, index: int, seed: int) -> Scene:
    """Return the facts of image `index`, which depend on (seed, split, index) alone."""
    rng = Random(f"{seed}/{split}/{index}/facts")
    wants_held_out = split != "train" and rng.random() < HELD_OUT_SHARE
    for scene in _candidates(rng, wants_held_out):
        if scene.held_out == wants_held_out and split_of(scene) == split:
            return scene
    raise AssertionError("unreachable: the candidates never end")


def _candidates(rng: Random, with_held_out_pair: bool) -> Iterator[Scene]:
    while True:
        background = rng.choice(BACKGROUNDS)
        if rng.random() < ONE_GROUP_SHARE:
            relation, positions = None, (rng.choice(POSITIONS),)
        else:
            relation = rng.choice(RELATIONS)
            positions = POSITIONS_OF_RELATION[relation]
        groups = [_random_group(rng, position) for position in positions]
        if with_held_out_pair:
            # sorted: the order of a frozenset of strings differs from process to process
            color, shape = rng.choice(sorted(HELD_OUT_PAIRS))
            chosen = rng.randrange(len(groups))
            groups[chosen] = Group(groups[chosen].count, groups[chosen].size, color, shape, positions[chosen])
        pairs = {(group.color, group.shape) for group in groups}
        visible = all((group.color, background) not in INVISIBLE for group in groups)
        if visible and len(pairs) == len(groups):
            yield Scene(background, tuple(groups), relation)


def _random_group(rng: Random, position: str) -> Group:
    return Group(
        count=rng.choices(COUNTS, COUNT_WEIGHTS)[0],
        size=rng.choice(SIZES),
        color=rng.choice(COLORS),
        shape=rng.choice(SHAPES),
        position=position,
    )
