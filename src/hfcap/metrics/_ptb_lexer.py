"""Rules of the Penn Treebank tokenizer, written from the observed behaviour of Stanford CoreNLP 3.4.1.

The original is a table-driven scanner: at each position every rule is tried, the longest match wins (what a rule looks
ahead at counts towards its length), and among equals the earlier rule. The rules here were found by feeding word
lists and random strings to the original and describing what came back; none of its source is used.

Only what survives pycocoevalcap's punctuation filter has to agree, so rules that merely choose between two kinds of
quote or dash, or that repeat an abbreviation's full stop, are absent.
"""

import re
from collections.abc import Callable

from ._ptb_characters import DIGITS, LETTERS, MARKS, SYMBOLS, character_class

Emit = Callable[[str], list[str]]

# ---- Characters ---------------------------------------------------------------------------------------------------
_LETTER = character_class(LETTERS)
_DIGIT = character_class(DIGITS)
_MARK = character_class(MARKS)
_ENTITY_LETTER = "&[aeiouAEIOU](?i:acute|grave|uml);"
L = f"[{_LETTER}]"
D = f"[{_DIGIT}]"
LD = f"[{_LETTER}{_DIGIT}]"
WORD_L = rf"(?:[{_LETTER}{_MARK}\u00ad]|{_ENTITY_LETTER})"
WORD_LD = rf"(?:[{_LETTER}{_MARK}{_DIGIT}\u00ad]|{_ENTITY_LETTER})"
HYPHEN = "[-_\u058a\u2010\u2011]"
APOS = "(?:['\u0092\u2019]|(?i:&apos;))"
# White space between words. U+001C to U+001F, U+1680, U+202F and U+205F, which `\s` has as well, are other characters.
SPACE = r"[ \t\u00a0\u2000-\u200a\u3000]"
SPACE_NL = r"[ \t\n\r\x0b\x0c\u0085\u00a0\u2000-\u200a\u2028\u2029\u3000]"
APOS_WIDE = "(?:['`\u0091\u0092\u2018\u2019\u201b]|(?i:&apos;))"


def _words(text: str) -> list[str]:
    return text.split()


# ---- Abbreviations that keep their full stop ----------------------------------------------------------------------
# Titles and the like, which a name follows.
_BEFORE_NAME = _words(r"""
adj adm adv alex assoc asst atty attys ave brig capt cf cie cmdr col comdr cpl dept det dr drs elec ens ft gen gov
govs hon insp jos lieut lt maj messrs mlle mme mr mrs ms msgr mt natl pfc ph pres prof profs pvt rep reps rev sen
sens sfc sgt spc st ste supt treas vs wm
""")
# These may end a sentence, so one letter after the full stop is not taken for a part of the word ("Co.A").
_ANYWHERE = _words(r"""
al ala apr ariz assn aug bancorp bhd bldg blvd bros calif co colo conn corp cos ct dak dec esq est etc ext feb fla
fri ga inc ind intl jan jr jul jun kan kans ky ltd mar md mich minn mo mon mont neb nev nov oct okla penn plc rd rt
sep sept seq sq sr sys tel tenn thu thurs tue tues univ va vt wed wis wisc wyo ph\.d ed\.d
""")
# The same, but in lower case they are words.
_CAPITALISED = _words("ark az del ill la mass miss ore pa tex wash")
# Words unless a number follows.
_BEFORE_NUMBER = _words("art ca fig figs no nos op pp prop")
_CAPITALISED_FORMS = [form for word in _CAPITALISED for form in (word.capitalize(), word.upper())]


def _any_of(words: list[str]) -> str:
    return "(?:" + "|".join(sorted(words, key=len, reverse=True)) + ")"


# ---- What a rule puts out -----------------------------------------------------------------------------------------
_SINGLE = {
    "(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-",
    "\u00a2": "cents", "\u00a3": "#", "\u00a4": "$", "\u20a0": "$", "\u20ac": "$", "\u0080": "$",
    "\u00bc": "1/4", "\u00bd": "1/2", "\u00be": "3/4", "\u2153": "1/3", "\u2154": "2/3",
    "\u2026": "...", "\u0085": "...", "\u2013": "--", "\u2014": "--", "\u2015": "--", "\u0096": "--", "\u0097": "--",
    "\u201c": "``", "\u201d": "''", "\u0093": "``", "\u0094": "''", "\u00ab": "``", "\u00bb": "''", '"': "''",
    "\u2018": "`", "\u2019": "'", "\u0091": "`", "\u0092": "'", "\u2039": "`", "\u203a": "'", "\u201b": "`",
    "'": "'", "`": "`", ".": ".", "-": "-", "_": "_", "?": "?", "!": "!", "@": "@", "/": "/", "#": "#",
}  # fmt: skip
_ENTITIES = {
    "&amp;": "&", "&lt;": "<", "&gt;": ">", "&quot;": "''", "&apos;": "'", "&mdash;": "--", "&md;": "--",
    "&ndash;": "--",
}  # fmt: skip


def _whole(token: str) -> list[str]:
    # A soft hyphen disappears inside a word; alone it becomes a dash, which is punctuation.
    return [token.replace("\u00ad", "") or "-"]


def _verbatim(token: str) -> list[str]:
    return [token]


def _nothing(token: str) -> list[str]:
    return []


def _halves(token: str) -> list[str]:
    return [token[:3], token[3:]]


def _constant(text: str) -> Emit:
    return lambda token: [text]


def _single(token: str) -> list[str]:
    return [_SINGLE.get(token, token)]


def _entity(token: str) -> list[str]:
    # The original finds these in any case but translates &quot; and &apos; only in lower case.
    folded = token.lower()
    return [token] if folded in ("&quot;", "&apos;") and token != folded else [_ENTITIES.get(folded, token)]


def _unspaced(token: str) -> list[str]:
    # A token with a space inside is printed with a no-break space.
    return [token.replace(" ", "\u00a0")]


def _brackets(token: str) -> list[str]:
    return [token.replace("(", "-lrb-").replace(")", "-rrb-").replace(" ", "\u00a0")]


def _plain_apostrophe(token: str) -> list[str]:
    return [re.sub("[\u0091\u2018\u201b]", "`", re.sub("[\u0092\u2019]|&apos;", "'", token))]


def _quotes(token: str) -> list[str]:
    return ["".join(_SINGLE.get(mark, mark) for mark in token)]


def _ampersand(token: str) -> list[str]:
    return [re.sub("&amp;", "&", token, flags=re.I)]


# ---- Token patterns -----------------------------------------------------------------------------------------------
_ACRONYM = r"[A-Za-z](?:\.[A-Za-z])+\."
_NUMBER = rf"[-+]?(?:{D}*(?:[.:,\u00ad\u066b\u066c]{D}+)+|{D}+)"
_ELIDED = f"(?:[dDoOlL]{APOS_WIDE}{LD})?"
_WORD = rf"{WORD_L}{WORD_LD}*(?:[.!?]{WORD_L}{WORD_LD}*)*"
_THING = f"{_ELIDED}{LD}+(?:{HYPHEN}{_ELIDED}{LD}+)*"
_DOTTED_THING = rf"[A-Za-z0-9][A-Za-z0-9.,\u00ad]*(?:-(?:{_ACRONYM}|[A-Za-z0-9\u00ad]+))+"
_JOINED_CAPITALS = "[A-Z]+(?:(?:(?i:&amp;)|[+&])[A-Z]+)+"
_ENDINGS = "(?:[msdMSD]|[rR][eE]|[vV][eE]|[lL][lL])"
_AUXILIARY = rf"(?:'{_ENDINGS}(?![A-Za-z])|(?:[\u0092\u2019]|(?i:&apos;)){_ENDINGS})"
_QUOTES = "\u2018-\u201f\u0091-\u0094\u2039\u203a\u00ab\u00bb"
_SLASH_PART = "[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}"
# Other white space than this belongs to an address, however wide.
_NO_URL = r' \t\n\f\r"<>|()'
_URL_LAST = rf"[^{_NO_URL}.!?{{}},-]"
_URL_PART = rf"[^{_NO_URL}.!?{{}},]+"
_HOST = r"""[^ \t\n\f\r`"<>|(){}!?$',.:;/=@\[\\\]^_0-9A-Z-]+"""
_PATH = rf"/[^{_NO_URL}]+{_URL_LAST}"
_MAIL = rf"[^{_NO_URL}\u00a0.{{}}]+"
_DASH = "[- \u00a0]"
_EXTENSIONS = _words(
    "bat bmp c class cgi cpp dll doc docx exe gif gz h htm html jar java jpeg jpg mov mp3 pdf php pl png ppt ps py "
    "sql tar txt wav x xml zip"
)
_STARTERS = _words(
    r"a about according additionally after an as at but earlier he her here however if in it last many more mr\. ms\. "
    r"now once one other our she since so some such that the their then there these they this we what when while yet "
    r"you"
)
_SPLIT_WORDS = _words("cannot gonna gotta lemme gimme wanna")
_TAG_NAME = "[A-Za-z][A-Za-z0-9_:.-]*"
_ATTRIBUTE = rf"""(?: +{_TAG_NAME}(?: *= *(?:"[^"\n]*"|'[^'\n]*'))?)"""
_TAG = rf"<(?:{_TAG_NAME}{_ATTRIBUTE}* */? *|/{_TAG_NAME} *|[!?][A-Za-z-][^>\n]*)>"

# (pattern, what it puts out). Group 1 is the token; what follows it is looked at but left for the next token.
_RULES: list[tuple[str, Emit]] = [
    (rf"({_WORD})({APOS}{_ENDINGS})", _whole),
    (rf"([A-Za-z\u00ad]*[A-MO-Za-mo-z]\u00ad*)([nN]{APOS_WIDE}[tT])", _whole),
    (rf"(?i)({_any_of(_SPLIT_WORDS)})", _halves),
    (r"(?i)('t)(?:is|was)", _whole),
    (f"({_TAG})", _unspaced),
    (r"(?i)(&(?:lt|gt|amp|quot|apos|md|mdash|ndash);)", _entity),
    (r"(?i)(&nbsp;)", _nothing),
    (r"(?i)(-[lr][rcs]b-)", _whole),
    (r"(?i)(&(?:HT|TL|UR|LR|QC|QL|QR|odq|cdq|#[0-9]+);)", _whole),
    (rf"([A-Za-z])\.{SPACE_NL}+(?:(?=[A-Z])(?i:{_any_of(_STARTERS)})|{_TAG}){SPACE_NL}", _whole),
    (r"([Mm][ft]g\.)", _whole),
    (rf"({_WORD})", _whole),
    (rf"({_THING})", _whole),
    (rf"({_THING})({APOS}{_ENDINGS})", _whole),
    (f"({_JOINED_CAPITALS})", _ampersand),
    (rf"(?i)(n{APOS_WIDE}t)", _plain_apostrophe),
    (rf"({_AUXILIARY})", _plain_apostrophe),
    (rf"(?i)({APOS}n{APOS}|'n(?=[ \t\n\r\x0b\x0c\u00a0])|[\u0092\u2019]n)", _whole),
    (rf"(?i)([ldj]{APOS})", _whole),
    (rf"(?i)((?:dunkin|somethin|ol){APOS}|(?:li|nat){APOS}l|c{APOS}mon|s{APOS}mores)", _whole),
    (rf"(?i)(nor{APOS}easter|e{APOS}er)", _whole),
    (r"(?i)((?:anti|pro)-)", _whole),
    (rf"(?i)({APOS}em|{APOS}cause?|{APOS}till?|cont{APOS}d\.?)", _whole),
    (rf"([A-HJ-XZn]{APOS_WIDE}{L}{{2,}})", _whole),
    (rf"({L}+[aeiouyAEIOUY]{APOS_WIDE}[aeiouA-Z]{L}*)", _whole),
    (rf"([yY]{APOS})(?![smdSMD]){L}", _whole),
    (rf"({APOS}[2-9]0[sS\u017f])", _whole),
    (rf"({APOS}[0-9][0-9]){SPACE_NL}", _whole),
    (rf"(?i)(https?://[^{_NO_URL}{{}}]+{_URL_LAST})", _verbatim),
    (rf"((?i:www)\.(?:{_URL_PART}\.)+[A-Za-z]{{2,4}})", _verbatim),
    (rf"((?i:www)\.(?:{_URL_PART}\.)+?[A-Za-z]{{2,4}}{_PATH})", _verbatim),  # parts may hold slashes: take the first
    (rf"((?:{_HOST}\.)+(?i:com|net|org|edu)(?:{_PATH})?)", _verbatim),
    (rf"((?:<|(?i:&lt;))?[A-Za-z0-9][^{_NO_URL}\u00a0{{}}]*@(?:{_MAIL}\.)*{_MAIL}(?:>|(?i:&gt;))?)", _verbatim),
    (rf"(@[A-Za-z_][A-Za-z0-9_]*|#{WORD_L}+)", _verbatim),
    (rf"((?i:{_any_of(_ANYWHERE)})\.)[\s\S]{{0,2}}", _whole),
    (rf"({_any_of(_CAPITALISED_FORMS)}\.|[Pp]t[ey]\.)[\s\S]{{0,2}}", _whole),
    (rf"({_DOTTED_THING})", _whole),
    (rf"({D}{{1,2}}[-/]{D}{{1,2}}[-/]{D}{{2,4}})", _whole),
    (rf"({_NUMBER})", _whole),
    (rf"((?:{D}{{1,4}}[- \u00a0])?{D}{{1,4}}\\?[/\u2044]{D}{{1,4}})", _unspaced),
    (rf"(\([0-9]{{2,3}}\)[ \u00a0]?[0-9]{{3,4}}{_DASH}?[0-9]{{3,5}})", _brackets),
    (rf"((?:\+\+?)?(?:[0-9]{{2,4}}{_DASH})?[0-9]{{2,4}}{_DASH}[0-9]{{3,4}}{_DASH}?[0-9]{{3,5}})", _brackets),
    (r"((?:\+\+?)?(?:[0-9]{2,4}\.)?[0-9]{2,4}\.[0-9]{3,4}\.[0-9]{3,5})", _whole),
    (rf"({_SLASH_PART}(?:\\?/{_SLASH_PART}){{1,2}})", _whole),
    (rf"(?i)({_any_of(_BEFORE_NAME)}\.)", _whole),
    (rf"(?i)({_any_of(_BEFORE_NUMBER)}\.){SPACE_NL}?{D}", _whole),
    (rf"({_ACRONYM}|[A-Za-z]\.)", _whole),
    (rf"((?:{_WORD}|{_THING}|{_DOTTED_THING})\.)[,;:\u3001]", _whole),
    (rf"({_JOINED_CAPITALS}\.)[,;:\u3001]", _ampersand),
    (rf"((?:{WORD_LD}+\.)+(?i:{_any_of(_EXTENSIONS)}))(?:{SPACE_NL}|[.,!?])", _verbatim),
    (r"([A-Z]*\$)", _whole),
    (r"(?i)(c\+\+|[cf]#)", _whole),
    (r"([<>]?[:;=]['*o-]?[()DPdpO\\{@|\[\]])(?![A-Za-z0-9])", _brackets),
    (r"([-'^x=~<>]_[-'^x=~<>])", _whole),
    (rf"([`{_QUOTES}]{{1,2}})", _quotes),
    (r"(\.{3,5})", _constant("...")),
    (r"(''|\\\*|\([-'^x=~<>]_[-'^x=~<>]\))", _brackets),
    (r"([?!]+|##+|@@+|__+|\*\*+|-----+|<<|>>)", _whole),
    (r"(--+)", _constant("--")),
    (r"([\u207a\u207b\u208a\u208b]?(?:[\u00b2\u00b3\u00b9\u2070\u2074-\u2079]+|[\u2080-\u2089]+))", _whole),
    (rf"(?i)(o{APOS_WIDE}o)", _whole),
    (f"({SPACE}+)", _nothing),
    (f"([{character_class(SYMBOLS)}{re.escape(''.join(_SINGLE))}])", _single),
]  # fmt: skip


# Most words: letters up to white space, perhaps with a comma or full stop. No rule reaches further from there, so the
# rules need not be tried, unless the word is a special one. Other white space may lie inside an address.
_PLAIN = re.compile(r"([A-Za-z]+)([,.]?)(?=[ \t\n]|$)")
_SPECIAL = frozenset(
    [
        "mfg",
        "mtg",
        "pte",
        "pty",
        *_SPLIT_WORDS,
        *_BEFORE_NAME,
        *_ANYWHERE,
        *_CAPITALISED,
        *_BEFORE_NUMBER,
        *"abcdefghijklmnopqrstuvwxyz",
    ]
)
_COMPILED = [(re.compile(pattern), emit) for pattern, emit in _RULES]


def lex(text: str, following: str = "") -> list[str]:
    """Split one line into Penn Treebank tokens, in lower case, punctuation included.

    Args:
        text: one caption; must hold no line break.
        following: what comes after it, looked at but not tokenized: a line break and the next line.

    Returns:
        The tokens. One that spans a space (a phone number, a mixed fraction) holds a no-break space instead.
    """
    line, end = text + following, len(text)
    tokens: list[str] = []
    position = 0
    while position < end:
        plain = _PLAIN.match(line, position)
        if plain and plain[1].lower() not in _SPECIAL:
            tokens += filter(None, plain.groups())
            position = plain.end()
            continue
        longest, best, best_emit = position, None, None
        for rule, emit in _COMPILED:
            match = rule.match(line, position)
            if match and match.end() > longest:
                longest, best, best_emit = match.end(), match, emit
        if best is None:  # white space, or a character the original deletes
            position += 1
            continue
        tokens += best_emit(best.group(1))
        position = best.end(1)
    return [token.lower() for token in tokens]
