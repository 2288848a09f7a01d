"""Neutral words for people: no guess at gender, race or faith, and no judgement of a body. English only.

A caption's author knows who is in the picture and may say more; a model guesses. What is visible stays: age as far as
"child" and "young" say it, clothes, what people do.
"""

import re

# A person's gender is a guess in all of these; what replaces them says the rest.
NOUNS = {
    **dict.fromkeys(("man", "woman", "guy", "lady", "gentleman", "dude", "gal", "bloke"), "person"),
    **dict.fromkeys(("men", "women", "guys", "ladies", "gentlemen", "dudes", "gals", "gents"), "people"),
    **dict.fromkeys(("boy", "girl", "lad", "lass", "schoolboy", "schoolgirl", "son", "daughter"), "child"),
    **dict.fromkeys(("boys", "girls", "lads", "lasses", "schoolboys", "schoolgirls", "sons", "daughters"), "children"),
    **dict.fromkeys(("mother", "father", "mom", "dad", "mum", "mommy", "daddy"), "parent"),
    **dict.fromkeys(("mothers", "fathers", "moms", "dads", "mums"), "parents"),
    **dict.fromkeys(("grandmother", "grandfather", "grandma", "grandpa"), "grandparent"),
    **dict.fromkeys(("brother", "sister"), "sibling"),
    **dict.fromkeys(("brothers", "sisters"), "siblings"),
    **dict.fromkeys(("husband", "wife", "boyfriend", "girlfriend"), "partner"),
    **dict.fromkeys(("boy scout", "girl scout"), "scout"),
    **dict.fromkeys(("boy scouts", "girl scouts"), "scouts"),
    **dict.fromkeys(("baby boy", "baby girl"), "baby"),
    **dict.fromkeys(("baby boys", "baby girls"), "babies"),
    **dict.fromkeys(("toddler boy", "toddler girl"), "toddler"),
    **dict.fromkeys(("teenage boy", "teenage girl", "teen boy", "teen girl"), "teenager"),
    **dict.fromkeys(("teenage boys", "teenage girls", "teen boys", "teen girls"), "teenagers"),
    **dict.fromkeys(("policeman", "policewoman"), "police officer"),
    **dict.fromkeys(("policemen", "policewomen"), "police officers"),
    **dict.fromkeys(("businessman", "businesswoman"), "business person"),
    **dict.fromkeys(("businessmen", "businesswomen"), "business people"),
    **dict.fromkeys(("salesman", "saleswoman"), "salesperson"),
    "fireman": "firefighter",
    "firemen": "firefighters",
    "mailman": "mail carrier",
    "cameraman": "camera operator",
    "fisherman": "angler",
    "fishermen": "anglers",
    "workman": "worker",
    "workmen": "workers",
    "waitress": "server",
    "waitresses": "servers",
    "actress": "actor",
    "actresses": "actors",
}
_FAITHS = {"muslim": "person", "jew": "person", "hindu": "person", "sikh": "person", "african american": "person"}
# Dropped in front of a word for a person, and nowhere else: a white dog stays white.
_GUESSES = (
    "african[- ]american|african|asian|caucasian|hispanic|latino|latina|arab|arabic|middle[- ]eastern|indian|chinese|"
    "japanese|korean|mexican|native american|oriental|ethnic|black|white|brown|dark[- ]skinned|light[- ]skinned|"
    "black[- ]skinned|white[- ]skinned|muslim|jewish|christian|hindu|buddhist|sikh|catholic|amish|"
    "gay|lesbian|transgender|fat|obese|overweight|chubby|skinny|thin|slim|heavyset|heavy|plump|ugly|beautiful|pretty|"
    "handsome|attractive|sexy|gorgeous|good[- ]looking|muscular|disabled|crippled|homeless|poor|rich|wealthy"
)
_BETWEEN = "young|younger|old|older|elderly|middle[- ]aged|little|small|tall|teenage|adult|smiling|bearded|bald"
_NEUTRAL = (
    "person|people|child|children|kid|kids|baby|babies|toddler|toddlers|teenager|teenagers|teen|teens|adult|adults|"
    "parent|parents|couple|family|families|male|males|female|females|individual|individuals|youth|youths"
)
_DOERS = (
    r"(?!(?:under|after|other|another|water)\b)\w{3,}(?:er|or|ist|ian)s?|actors?|athletes?|gymnasts?|students?|models?|"
    r"guards?|chefs?|cooks?|pilots?|soldiers?"
)
_ANIMALS = (
    "deer|tiger|panther|otter|badger|hamster|beaver|setter|retriever|terrier|pointer|spider|rooster|lobster|condor|"
    "alligator|pitbull terrier"
)
_STOPS = (
    "in|on|at|with|and|or|is|are|was|were|who|that|has|have|from|to|by|near|next|behind|under|over|of|against|for|"
    r"while|as|holds?|sits?|stands?|walks?|runs?|wears?|jumps?|looks?|poses?|plays?|rides?|\w+ing"
)
_NUMBERS = ("a", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def _any(words) -> str:
    return "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))


# Not within a compound ("Spider-Man", "man-made"), and not what is made in the shape of one.
_ALONE = r"(?<![\w-])(?<!snow )(?<!gingerbread )(?<!stick )(?<!Iron )"
_ARTICLE = r"(?P<article>\b[Aa]n?\s+)?"
_NOUN = re.compile(_ARTICLE + rf"{_ALONE}(?P<word>{_any(NOUNS)})(?![\w-]| made\b)", re.IGNORECASE)
_FAITH = re.compile(
    _ARTICLE + rf"{_ALONE}(?P<word>{_any(_FAITHS)})(?P<plural>s?)(?=\s+(?:{_STOPS})\b|[.,;]|$)", re.IGNORECASE
)
_GUESS = re.compile(
    _ARTICLE + rf"{_ALONE}(?:{_GUESSES})(?:\s*,|\s+and(?=\s+(?:{_GUESSES})\b))?\s+"
    rf"(?=(?:(?:{_BETWEEN}|{_GUESSES}),?\s+){{0,3}}(?:{_any(NOUNS)}|{_NEUTRAL})\b(?!-))",
    re.IGNORECASE,
)
_SEX_OF_DOER = re.compile(
    _ARTICLE
    + rf"{_ALONE}(?:male|female)\s+(?!(?:{_ANIMALS})s?\b)(?=(?:\w+\s+)??(?:{_DOERS}|{_any(NOUNS)}|{_NEUTRAL})\b)",
    re.IGNORECASE,
)
_SEX = re.compile(
    _ARTICLE + rf"{_ALONE}(?P<word>male|female)(?P<plural>s?)(?=\s+(?:{_STOPS})\b|[.,;]|'s|$)", re.IGNORECASE
)
_SEX_AND_VERB = re.compile(r"(?P<article>\b(?:a|one) )(?:male|female)(?= \w+[^s\W]s\b)", re.IGNORECASE)
_SUBJECT = re.compile(r"\b(?P<who>he|she)(?P<adverb> \w+ly| also| always| then)? (?P<verb>\w+s)\b", re.IGNORECASE)
_PRONOUNS = {
    "he": "they",
    "she": "they",
    "him": "them",
    "his": "their",
    "hers": "theirs",
    "himself": "themselves",
    "herself": "themselves",
    "he's": "they're",
    "she's": "they're",
}
_PRONOUN = re.compile(rf"\b(?:{_any(_PRONOUNS)})\b", re.IGNORECASE)
# "her" is "them" in front of what cannot be had, and "their" in front of what can.
_HER = re.compile(
    r"\bher\b(?P<object>(?=\s*[.,;!?]|\s*$|\s+(?:in|on|at|with|and|or|is|as|from|to|by|near|while|into|through|up|down|"
    r"over|across|for|off|out|around)\b))?",
    re.IGNORECASE,
)


def neutral(text: str) -> str:
    """Return a caption with neutral words for people; the same text where it has no others."""
    for pattern in (_GUESS, _SEX_OF_DOER):
        while (changed := pattern.sub(lambda found: _article(found, _word_behind(found)), text)) != text:
            text = changed
    text = _FAITH.sub(lambda found: _replaced(found, _plural("person", found["plural"])), text)
    text = _SEX.sub(lambda found: _replaced(found, _plural("person", found["plural"])), text)
    text = _SEX_AND_VERB.sub(lambda found: f"{found['article']}person", text)
    text = _NOUN.sub(lambda found: _replaced(found, NOUNS[found["word"].lower()]), text)
    text = _SUBJECT.sub(lambda found: f"{found['who']}{found['adverb'] or ''} {_verb_of_they(found['verb'])}", text)
    text = _PRONOUN.sub(lambda found: _cased(_PRONOUNS[found[0].lower()], found[0]), text)
    text = _HER.sub(lambda found: _cased("their" if found["object"] is None else "them", found[0]), text)
    return _together(text)


def _word_behind(found: re.Match) -> str:
    return re.match(r"[\w-]*", found.string[found.end() :])[0]


def _article(found: re.Match, word: str) -> str:
    """Return the article of a match as it must be in front of a word."""
    if not found["article"]:
        # What began with a capital still does: the caption's first letter is set later on.
        return ""
    vowel = re.match(r"(?:[aeio]|u(?!ni|s[aeiu]))(?!ne\b|u)|hour|honest", word.lower())
    return _cased("an" if vowel else "a", found["article"]) + " "


def _replaced(found: re.Match, word: str) -> str:
    return _article(found, word) + _cased(word, found["word"])


def _plural(word: str, ending: str) -> str:
    return {"person": "people"}.get(word, word + "s") if ending else word


def _cased(word: str, like: str) -> str:
    return word[0].upper() + word[1:] if like[0].isupper() else word


def _verb_of_they(verb: str) -> str:
    special = {"is": "are", "was": "were", "has": "have", "does": "do", "goes": "go"}
    if verb.lower() in special:
        return special[verb.lower()]
    if verb.endswith("ies") and len(verb) > 4:
        return verb[:-3] + "y"
    return verb[:-2] if re.search(r"(?:ss|sh|ch|x|zz)es$", verb) else verb[:-1]


def _together(text: str) -> str:
    """Count people whom neutral words have made alike: "a person and a person" is "two people"."""
    number = rf"(?:{'|'.join(_NUMBERS)}|an|one|another|the)"
    for one, many in (("person", "people"), ("child", "children"), ("parent", "parents")):
        some = rf"(?P<n1>{number}) (?P<like>\w+ )?(?:{one}|{many})"
        pattern = rf"\b{some}(?:,? and|,) (?:(?P<n2>{number}) )?(?P<same>(?(like)(?P=like)))(?:{one}|{many})\b"
        text = re.sub(pattern, lambda found, many=many: _counted(found, many), text, flags=re.IGNORECASE)
        text = re.sub(rf"\b({many}) and {many}\b", r"\1", text, flags=re.IGNORECASE)
        text = re.sub(
            rf"(?<![\w-] )\b{one} and {one}\b|^{one} and {one}\b",
            lambda found, many=many: _cased(f"two {many}", found[0]),
            text,
            flags=re.IGNORECASE,
        )
    return text


def _counted(found: re.Match, many: str) -> str:
    values = {name: count for count, name in enumerate(_NUMBERS, start=1)} | {
        "an": 1,
        "one": 1,
        "another": 1,
        "the": 1,
    }
    total = values[found["n1"].lower()] + values[(found["n2"] or "a").lower()]
    if total > len(_NUMBERS):
        return found[0]
    the = "the " if found["n1"].lower() == "the" else ""
    return _cased(f"{the}{_NUMBERS[total - 1]} {found['like'] or ''}{many}", found[0])
