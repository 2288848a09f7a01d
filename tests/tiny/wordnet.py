"""A WordNet of 20 nouns in the form of the METEOR jar."""

import zipfile

# id: words, neighbours, the more general ones first. A shirt is a "garment", a puppy a dog, a person an organism
# by one way and a physical entity by a shorter one; "jump" has an act, and a thing beside two acts.
NOUNS = {
    "01": ("entity", "02 03"),
    "02": ("physical_entity", "01 04 05 14 19"),
    "03": ("act", "01 07 08 09"),
    "04": ("location", "02 10"),
    "05": ("somebody person", "20 02 11 12"),
    "06": ("animal", "20 13"),
    "07": ("jump", "03"),
    "08": ("jump leap", "03"),
    "09": ("ride", "03"),
    "10": ("park", "04"),
    "11": ("man", "05"),
    "12": ("dog", "05"),
    "13": ("dog", "06 15"),
    "14": ("garment", "02 16"),
    "15": ("puppy", "13"),
    "16": ("shirt", "14"),
    "17": ("jump", "14"),
    "18": ("fire_dog", "14"),
    "19": ("living_thing", "02 20"),
    "20": ("organism", "19 05 06"),
}
VERBS = {"005": ("jump", "125"), "125": ("dog", "005")}  # ids begin anew, and say nothing of nouns


def write_jar(path):
    synsets = {}
    related = {synset: others.split() for synset, (_, others) in NOUNS.items()}
    for synset, others in related.items():
        for other in others:
            if synset not in related[other]:
                related[other].append(synset)
    for table in (NOUNS, VERBS):
        for synset, (words, _) in table.items():
            for word in words.split():
                synsets.setdefault(word, []).append(synset)
    relations = list(related.items())
    relations += [(synset, others.split()) for synset, (_, others) in VERBS.items()]
    with zipfile.ZipFile(path, "w") as archive:
        for name, lines in (("synsets", sorted(synsets.items())), ("relations", relations)):
            archive.writestr(f"synonym/english.{name}", "".join(f"{a}\n{' '.join(b)}\n" for a, b in lines))
        archive.writestr("synonym/english.exceptions", "man\nmen\n")
