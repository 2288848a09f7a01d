"""Make `golden_tokenizers.json` with sacrebleu: tokens of its tokenizers, and its BLEU of captions in three languages.

    pip install sacrebleu==2.6.0          # in an environment of its own; nothing else here needs it
    python tests/metrics/make_golden_tokenizers.py

The fast tests compare with the file; a slow one runs the functions here, where sacrebleu is installed.
"""

import json
import random
from pathlib import Path

from hostile_strings import hostile_strings

FOLDER = Path(__file__).parent
ORIGIN = "sacrebleu 2.6.0, tests/metrics/make_golden_tokenizers.py"
TOKENIZERS = ("intl", "zh", "char")

LANGUAGES = """
一个男人正在骑自行车。
两只狗，一黑一白，在雪地里奔跑！
她花了3.5元买“苹果”（红色的）；共2,000个、第1-3排。
穿T恤的小孩在No.5站台等车：10:30出发？
㐀𠀀字和々，还有ａｂｃ１２３．５％，《书》—…
自転車に乗っている男の人がいる。
赤いTシャツの子供、「犬」と遊ぶ・カタカナー！
ผู้ชายกำลังขี่จักรยานบนถนน ๆ ราคา ๒๕๐ บาท
ຜູ້ຊາຍກຳລັງຂີ່ລົດຖີບ
បុរសម្នាក់ជិះកង់។
한 남자가 자전거를 타고 있다.
Zwei Männer mit E-Gitarren – einer heißt „Jürgen“ – spielen im Jahr 2012.
Eine Frau, die ca. 1.70 m groß ist, hält 3,50 € in der Hand…
L'homme est à côté d'un vélo : n'est-ce pas ?
¿Dónde está el niño? ¡Aquí, a las 10:30 h!
رجل يركب دراجة، وامرأة تنظر إليه؟ ٣٫٥ كم
Мужчина едет на «красном» велосипеде №5, 10-15 км/ч.
एक आदमी साइकिल चला रहा है। ₹५००
 .5 leading, trailing.\t
\t-1 to 1-2 a-b x- 5- -5 5-a
a.,b 1.,2 .. ... 1.2.3. a!?1 ?1 ,1, $1,000.00% 5°C ½ ② Ⅷ
"""

# Of each image a candidate and two references.
IMAGES = {
    "zh": """
一个男人正在骑自行车。|一个男人在街上骑自行车。|有个男人正在骑自行车。
两只狗在雪地里奔跑|两只黑色的狗在雪地里奔跑。|两只狗在雪地里玩耍。
一个小孩在吃苹果，很开心。|一个小孩在吃红苹果。|小男孩在吃苹果，很开心。
""",
    "intl": """
Zwei Männer spielen auf der Bühne Gitarre.|Zwei Männer spielen auf einer Bühne Gitarre.|Männer mit E-Gitarren.
Eine Frau hält 3,50 € in der Hand.|Eine Frau hält 3,50 € in der rechten Hand.|Frau mit „Geld“ in der Hand.
Ein Hund läuft durch den tiefen Schnee!|Ein Hund läuft durch den Schnee.|Der Hund rennt durch den tiefen Schnee.
""",
    "char": """
自転車に乗っている男の人がいる。|自転車に乗っている男性。|男の人が自転車に乗っている。
雪の中を犬が走っている|犬が雪の中を走っている。|雪の中を二匹の犬が走っている。
子供がりんごを食べている。|小さな子供が赤いりんごを食べている。|りんごを食べる子供。
""",
}


def strings() -> list[str]:
    """Give captions in many scripts, a part of the hostile strings, and random joinings of characters."""
    chooser = random.Random(6)
    pieces = [
        "1",
        "2",
        "a",
        "ß",
        ".",
        ",",
        "-",
        "!",
        "%",
        "'",
        " ",
        "  ",
        "\t",
        "中",
        "。",
        "，",
        "を",
        "क",
        "\u00a0",
        "\u200b",
    ]
    joined = ["".join(chooser.choice(pieces) for _ in range(10)) for _ in range(200)]
    return [*LANGUAGES.strip("\n").split("\n"), *hostile_strings()[::5], *joined]


def images(tokenizer: str) -> tuple[list[str], list[list[str]]]:
    """Give candidates, and two references of each."""
    rows = [line.split("|") for line in IMAGES[tokenizer].strip().split("\n")]
    return [row[0] for row in rows], [row[1:] for row in rows]


def original_tokens(captions: list[str], tokenizer: str) -> list[str]:
    """Tokenize as sacrebleu's BLEU does, which then splits at white space."""
    from sacrebleu.metrics import BLEU

    prepare = BLEU(tokenize=tokenizer)._preprocess_segment
    return [" ".join(prepare(caption).split()) for caption in captions]


def original_bleu(tokenizer: str) -> list[float]:
    """Give BLEU-1 to BLEU-4 of the images, from 0 to 1."""
    from sacrebleu.metrics import BLEU

    candidates, references = images(tokenizer)
    streams = [list(stream) for stream in zip(*references, strict=True)]
    scores = [
        BLEU(tokenize=tokenizer, max_ngram_order=order).corpus_score(candidates, streams) for order in (1, 2, 3, 4)
    ]
    return [score.score / 100 for score in scores]


def main() -> None:
    """Write the file."""
    captions = [caption for caption in strings() if len(caption) < 1000]
    record = {
        "origin": ORIGIN,
        "captions": captions,
        "tokens": {tokenizer: original_tokens(captions, tokenizer) for tokenizer in TOKENIZERS},
        "bleu": {tokenizer: original_bleu(tokenizer) for tokenizer in TOKENIZERS},
    }
    path = FOLDER / "golden_tokenizers.json"
    path.write_text(json.dumps(record, ensure_ascii=True, indent=0) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
