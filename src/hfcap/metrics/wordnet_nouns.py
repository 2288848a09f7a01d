"""Nouns of WordNet: what they can name, and what lies above it.

The METEOR jar holds WordNet 3.0 as two lists: synsets of each word, of all parts of speech together, and relations
between synsets without their direction. The relations of nouns come first, those of verbs after them, where the ids
begin anew. As in WordNet's own files the first relative of a synset is more general, and what is more general stands
before what is more special. That gives the 82,115 synsets of the noun file, all of them below "entity".
"""

import zipfile
from collections import deque
from functools import cached_property, lru_cache
from pathlib import Path

from .meteor_words import WordNet

_ROOT, _THING, _PLACE, _PERSON = "entity", "physical_entity", "location", "somebody"


class Nouns:
    """The noun synsets of WordNet as a hierarchy.

    Args:
        jar: `meteor-1.5.jar`.
    """

    def __init__(self, jar: Path):
        self._jar = jar
        self.wordnet = WordNet(jar)
        self.ancestors = lru_cache(maxsize=None)(self._ancestors)
        self.things = lru_cache(maxsize=None)(self._things)

    @cached_property
    def _related(self) -> dict[str, list[str]]:
        with zipfile.ZipFile(self._jar) as archive:
            lines = archive.read("synonym/english.relations").decode().splitlines()
        related: dict[str, list[str]] = {}
        last = ""
        for synset, others in zip(lines[::2], lines[1::2], strict=True):
            if synset <= last:  # from here on they are verbs
                break
            related[synset], last = others.split(), synset
        return related

    @cached_property
    def _children(self) -> dict[str, list[str]]:
        """Synsets whose first relative is this one, in the order of the jar."""
        children: dict[str, list[str]] = {synset: [] for synset in self._related}
        for synset, others in self._related.items():
            if synset != self._root:
                children[others[0]].append(synset)
        return children

    @cached_property
    def _depth(self) -> dict[str, int]:
        """Steps from each synset to "entity" by first relatives."""
        depth, waiting = {self._root: 0}, deque([self._root])
        while waiting:
            synset = waiting.popleft()
            depth |= dict.fromkeys(self._children[synset], depth[synset] + 1)
            waiting += self._children[synset]
        return depth

    @cached_property
    def _root(self) -> str:
        return self._synsets(_ROOT)[0]

    def _is_above(self, other: str, synset: str) -> bool:
        """Whether a relative of a synset is the more general one of the two."""
        if synset == self._root or self._related[other][0] == synset:
            return other == self._related[synset][0] and synset != self._root
        if other == self._related[synset][0]:
            return True
        if self._stands_below(synset, other) != self._stands_below(other, synset):
            return self._stands_below(synset, other)
        if bool(self._children[synset]) != bool(self._children[other]):  # most synsets have nothing below them
            return bool(self._children[other])
        return self._depth[other] < self._depth[synset]

    def _stands_below(self, synset: str, other: str) -> bool:
        """Whether a synset stands among those that are more special than the other: from its first child on."""
        children = self._children[other]
        related = self._related[other]
        return bool(children) and related.index(synset) > related.index(children[0])

    @cached_property
    def _places(self) -> frozenset[str]:
        return frozenset(self._synsets(_PLACE))

    @cached_property
    def person(self) -> str:
        """The synset of "somebody"."""
        return self._synsets(_PERSON)[0]

    def _synsets(self, name: str) -> list[str]:
        return [one for one in self.wordnet.synsets.get(name, "").split() if one in self._related]

    def _ancestors(self, synset: str) -> frozenset[str]:
        """Give the more general synsets of one, and itself."""
        found, waiting = {synset}, [synset]
        while waiting:
            one = waiting.pop()
            above = [other for other in self._related[one] if other not in found and self._is_above(other, one)]
            waiting += above
            found.update(above)
        return frozenset(found)

    def is_noun(self, name: str) -> bool:
        """Whether WordNet has a noun of this base form."""
        return bool(self._synsets(name))

    def is_thing(self, name: str) -> bool:
        """Whether at least half of a noun's senses are things: those of "shirt", and not of "group" or "jump"."""
        senses = self._synsets(name)
        return bool(senses) and 2 * len(self._things_of(senses)) >= len(senses)

    def _things(self, name: str) -> frozenset[str]:
        """Give the things that a noun can name, all persons as one.

        Args:
            name: base form, words of a compound joined by "_".

        Returns:
            Its synsets below "physical entity" and not below "location". Where more than half of these are persons,
            "somebody" alone; otherwise the others alone (a dog is no bad fellow, a tree no actor of that name).
        """
        things = self._things_of(self._synsets(name))
        persons = {one for one in things if self.person in self.ancestors(one)}
        return frozenset([self.person]) if persons and 2 * len(persons) > len(things) else frozenset(things - persons)

    def _things_of(self, senses: list[str]) -> set[str]:
        thing = self._synsets(_THING)[0]
        above = {sense: self.ancestors(sense) for sense in senses}
        return {sense for sense in senses if thing in above[sense] and not self._places & above[sense]}
