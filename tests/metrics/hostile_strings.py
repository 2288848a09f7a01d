"""Strings that are hard to tokenize, by class, written for this suite.

Within a class each line is one caption, and each of its words is a caption too, alone.
"""

import random

CLASSES = {
    "contractions": """
don't can't won't isn't ain't it's we're they've I'll I'm he'd dont cant isnt DON'T IT'S THEY'VE YOU'LL
he'll've shouldn't've y'all'd don'ts isn'ta isn't-a n't n'ta n'tx 's 're 'm 'd 'll 've 'S 'D it'sn't
a'b'c'd s'
cannot gonna gotta wanna gimme lemme Cannot GONNA gonna's wannabe gonna-be cannots 'tis 'twas 'Tis
'tisn't 'tisnot d'ye
rock'n'roll rock 'n' roll 'em 'til 'till 'cause 'bout o'clock ma'am o'er ne'er e'er y'all y'know
y'see ya'll ol' lil'
O'Brien O'Neil's D'Angelo d'or l'amour qur'an na'vi A'Bc I'mma I'ma j'ai J'ai B'LL more'n c'mon
s'mores li'l int'l ass'n
it’s don’t they’ve y’all O’Neil o’clock ’em ’til ’90s it`s don`t it´s it‘s it&apos;s don&apos;t ‘em
o‘clock
boys' boys's men's' dogs'' 's's x'es a-'s a-b's 1's 1990's 90's '90s '80 '05 '5 '1990 '12s '80.
'80's 5'80 the'90s
jack-o'-lantern mid-'90s mid-d'ab 5'10 5'10" 6' 6'2 10'6" 5-' 'a' 'ab' 'a 'ab ab'
""",
    "currency": """
$5 $5.00 $1,000 $ $$ $-1 -$1 US$5 US$ A$ A$5 HK$10 NT$5 x$5 a$ $a $.5 $5-$10 $1.5m $5million 5$ $5/a
£10 €20 ¥30 ₤5 ¤5 ₩5 ₹5 5¢ ¢ 5€ C$10 R$ USD$ usd5 DM5 5% 50 % .5% 5%a 5.%
""",
    "numbers": """
1 12 123 1,000 1,000,000 1,00 1,0000 1.5 .5 ,5 1.5.2 5. 5.. 5... 5., -5 +5 ±5 -.5 +.5 --5 5- 5-- 5+5
5-5 5=5 5*5 1.-2
1st 2nd 3rd 21st 12th 1990s 4x4 2x4 3D 3-D 3-d 2-year-old 10-foot 5km 10mph 5lbs 10ft. 5ft. 1e5
1,000-x 1.5-2.5 5.5-inch
1/2 3/4 1 1/2 12 1/2-inch 1-1/2 1/2-1 1/2/3 1/3rd 10/20 1/2345 12345/6 1\\/2 1⁄2 ½ 1½ 1 ½ a½ ½a 2¼"
⅓ ⅔ ⅛ ² m² H₂O
12:30 12:30pm 12:30p.m. 10:00am 10am 5p.m. 5 p.m. 1:30:20 5:5 5:a a:5 3:4: 3:,4 3.,4 3..4 24/7 9/11
2.0-b 1.com 5.a
""",
    "dates": """
01/02/2003 1/2/03 1-2-2003 12-12-12 1-1-11 10-29-2011. 11.01.2009 23:58. Jan. 5 Sept. 11th Dec. Mon.
2003-01-02
1990-1995 1990s-era '90-'95 Jan.5 5 Jan, 2003 May 5th, 2003 12/2003
""",
    "phones": """
555-1234 555 1234 (555) 123-4567 (555)123-4567 1-800-555-1234 +1 555 123 4567 123-45-6789
123-456-7890 (123)-456-7890
12 345 6789 12.345.6789 1.234.567.8901 123.456.7890 +44 20 1234 5678 ++12 345 6789 (1234) 5678901
123  4567 2010 2011
in 2010 100 200 300 400 500 1990 2000 10 000 25 1000 2 000 000 123 4567a 123 4567-8
""",
    "abbreviations": """
Mr. Smith Mrs. Dr. St. vs. etc. e.g. i.e. U.S. U.S.A. U.K. Jr. Inc. Co. Ltd. Corp. Ave. Blvd. Rd.
Mt. Ft. Ph.D. Ed.D. M.D.
No. 5 no. 5 No.5 no. No. A fig. 1 Figs. 2 figs. pp. 3 art. 4 Art. ca. 1900 op. 5 prop. 6 etc.) etc.,
dog., T.V. T.V.'s t.v. t.v.s tv's
a.m. p.m. a.k.a. J.R.R. A.B.C a.b.c. a.b. ab.cd. c.1990 S.C.U.B.A. D.V.D. U.S.-based non-U.S.
U.S.-U.K. Mr.Smith St.John Mr.:
La. la. Miss. miss. MISS. Wash. wash. tex. Tex. Pa. pa. del. Del. Mass. Ill. ill. az. Az. cat. man.
sq. ft. mfg. pty.
5th Ave S. The man. 5th Ave s. the man. B. A hood. plan B. However x I. A C. An S. Mr. a S. Mrs. a
S. THE a S. On a S.The
""",
    "ellipses": """
... .... ..... . . . .. . . a... ...a a...b a....b wait...what wait... … a…b a… ...12 5...5 ?...
...! …. "..." '...
""",
    "quotes": """
"a" 'a' `a` ``a'' ''a'' "a 'b' c" "'a'" '"a"' "" '' `` ''' "" a"b a""b “a” ‘a’ «a» ‹a› „a“ ‚a‘ a” “a
′a′ ″a″ `a' “‘a’” ’` “`
“ ” ‘ ’ ‹a›“ ''80 ''s "The." 'The' (“a”)
""",
    "brackets": """
(a) [b] {c} ((a)) (a)(b) a(b)c [[a]] (1) 1) a) (see fig. 1) -LRB- -lrb- <a> <a b> <a b="c"> </a>
<br/> <br /> <1> <!a> <?a>
S. <a> b S. <a>b pro- anti- pro-x ve’st. ite’ms.
< a> <a > a<b a>b <3 <unk> </s> [UNK] <start of text> <b>bold</b> <a-b> <é> <a,b> <a b=c> </a b>
<!-- x --> << >> <a< <> (c)
""",
    "hyphens": """
well-known mother-in-law - -- --- ---- ----- – — ― a-b -a a- a--b a---b a-----b a - b a—b a–b a‐b
a‑b a−b a‒b -a- a-b-c- x-ray's
a_b a__b _a a_ __ _ img_01 a_b-c 4-wheel co-op T-shirt e-mail F-16 -5- 3-- a-1 1-a a.b-c a,b-c a-b.c
a-b,c 1,a-b a.-b x-1,000
""",
    "slashes": """
and/or he/she w/o w/ b/w a/b/c a/b/c/d a//b a/ /a 1/a a/1 a-b/c a/b-c a-b/c-d a/b.c a/b_c A/C AC/DC
red/white/blue a\\b a\\/b //
""",
    "urls": """
http://www.example.com/foo?bar=baz https://a.b/c?d=e&f=g#h. http://a http://a.b http://localhost/
ftp://x.y HTTP://A.B
(http://x.com) http://x.com, "http://x.com" http://x.com/a(b) www.google.com www.a www.a.b
www.a-b.com www.a.com/bc google.com
a.com/bc a.com/b a.com. A.COM/BC 3m.com a-b.com foo.org/x foo.edu/xy a.gov/xy t.co/abc x.com's 1.jpg
a.jpg img_01.jpg a-b.jpg
www.a.com/b.cd/e www.a.com/b.cd/ef. x.y-zMr.:*( etc.-B etc.-Bc Co.A Co.AB Pte.-B O'O o’o o`o o'o's
www.a-b.com\u0131 &\u0131acute; Q&A., Q&amp;A.; A+B.: A&B&C.\u3001 q&a.,
1.mp3 1.mp4 1.pdf, 1.txt. .NET .com %.NET C++ c++ C# F# c+ C++a
""",
    "e-mail": """
info@example.com a@b a@b.c. <a@b.com> x.y@b.co.uk, a+b@c.d a_b@c.d a@ @a @a_1 @user @1 @a's a@b@c
mailto:a@b.c a@1 (a@b.c) &lt;a@b.c
#tag #a1 #a_b #1 # 1 ##a #a#b #é a#b a@b#c
""",
    "entities": """
&amp; &AMP; &lt; &gt; &quot; &Quot; &apos; &nbsp; &#39; &#x27; &mdash; &ndash; &eacute; caf&eacute;
&foo; &; & &amp;c a&amp;b A&amp;B &HT;
AT&T R&D a & b a&b M&M's Q&A A+B A&B&C a+b 1+1
""",
    "smileys": """
:) :-) ;) :( :D :-D :P :p =) :o :O :/ :\\ :| :'( 8) >:( <3 xD ^_^ -_- o_O T_T (: :3 :* :] :[ :} :{
:)) :)a a:) :).  (^_^) >_< '_' ;-; :oD
""",
    "punctuation": """
! !! !!! ? ?? ?! !? . .. , ,, ; ;; : :: :; .,; ,. .) )." ." '. !a a! a!b a!!b a?b a;b a:b a,b a.b
¡hola! ¿que? Hello,world
* ** *** a*b *a* ~a ~~~ == ===== a=b + ++ a+b | || a|b ^ ^^ a^b \\ \\\\ \\* a\\*b # ## ### @@ %% &&
$$$ @#$%
it;s p;ayer RIF=ding beach--kite ground.A river.A says"500". bed,and room.The dog.!
""",
    "emoji and symbols": """
😀 👍🏽 ❤️ a😀b ☺ ★ © ® ™ ° • · × ÷ § ¶ † ∞ √ ≤ π µ № ℃ ♥ ♫ → ← ☎ ✓ 5° 5°C 5×5 a™ ©2015 🇫🇷 👨‍👩‍👧 ⓐ ① Ⅷ ª
º 1º ¬ ¦ ¨ ¯ ´ ¸
""",
    "accents": """
café naïve résumé Zürich señor ñ ß ø æ œ ł đ ı ſ ﬁ İ Å ÉCOLE cafe\u0301 n\u0303o \u0301a 5n\u0303o
a\u0308 bahá'í jusqu'à qur'ān xé'ab é's
Ω Σίσυφος Русский Дом עברית العربية عربى، हिन्दी ไทย ქართული Հայ ᠮᠣᠩ ʼa aʼs ˈa a\u00adb \u00ad
""",
    "CJK": """
日本 日本語。 中文，中文 「a」 （a） ～ ！ ？ ａｂｃ １２３ ＄５ ａ－ｂ 日本a
a日本 カタカナ ひらがな ー 한국 한국어 𠀀 𠀀a 、 ・ 々 〇 第5 5月
""",
    "superscripts and subscripts": """
10²³ C₆H₁₂O₆ a¹²³b ²³ x²₂ x₂² 10⁻³ 10⁻²³ x⁺² x₋₁ ⁻⁻² ⁺⁻ ⁻ x⁽²⁾ ₍₁₎ ²½ ⁻₁ ₋² a⁰¹²³⁴⁵⁶⁷⁸⁹b =₁
""",
    "soft hyphens": """
do\u00adn't is\u00adn’t DO\u00adN'T don\u00ad't don'\u00adt don\u00adn't \u00adn't \u00ado\u00adn't
do\u00ad\u00adn't mu\u00adst\u00adn't d\u00ado\u00adn't's 1o\u00adn't can\u00adnot we\u00ad're a\u00adb.jpg a
""",
    # After 'n, before and inside an address, and where a rule looks ahead.
    "odd white space": """
'n\u3000a 'n\u2009a 'n\u0085a 'n\u001ca 'n\u00a0a rock 'n\u3000roll '80\u202fs '80\u2003s
a \u00a0x.com
a \u2009x.com
a \u3000x.com
a \u202fx.com
a \u0085x.com
a \u00a0www.a.com
dog\u00a0x.com dog.\u3000x.com www.\u001c.com www.\u00a0.com a\u001fb.com \u0085a.com a.com\u0085
http://a.b/c\u0085d http://a.b/c\u001cd http://a.b/c\u001fd www.a.com/b\u0085d www.a.com/b\u001fd a@b\u001c.c
B.\u202fHowever x
B.\u00a0However x
no.\u001c5 no.\u20035 1.jpg\u202fb 1.jpg\u2003b S.\u205f<a> b http://a.b/c\u0085. a
""",
    "control characters": """
a\u0082b \u0084a\u0094 \u0082\u2018a
a\u0001b \u0007 a\u007fb a\u0000b a\u001bb a\u0080b a\u0085b a\u0091b\u0092 \u0093a\u0094 a\u0096b
a\u200bb a\u200db a\ufeffb \ufffd a\ue000b
a\u00a0b a\u2003b a\u3000b a\tb 5\u00a01/2 123\u00a04567 \u00a0 \u200b a\u2009b
""",
}


def hostile_strings() -> list[str]:
    """Give all captions: the lines, their words, edge cases, and 400 random joinings of words and punctuation."""
    lines = [line for text in CLASSES.values() for line in text.strip("\n").split("\n")]
    words = [word for line in lines for word in line.split(" ") if word]
    chooser = random.Random(4)
    joined = ["".join(chooser.choice(words) for _ in range(chooser.randint(2, 3))) for _ in range(400)]
    edge = ["", " ", "   a   b  ", "a " * 2000 + "end.", "x" * 5000, "." * 200, "a'" * 100, "(" * 50]
    return list(dict.fromkeys([*lines, *words, *edge, *joined, "the last caption"]))


def random_captions(num: int, seed: int) -> list[str]:
    """Put words, hostile words and odd white space together at random, with and without spaces, in any case."""
    chooser = random.Random(seed)
    plain = ["a", "the", "A", "The", "man", "dog", "bus", "sits", "on", "street", "in", "park", "with", "red"]
    hostile = [word for text in CLASSES.values() for word in text.split() if word]
    odd = [*"\u00a0\u2009\u3000\u0085\u001c\u001f\u202f\u00ad\t²₂⁻'’."]
    joints = [*[" "] * 120, *[""] * 30, *odd, *(f" {space}" for space in odd)]
    captions = []
    for _ in range(num):
        words = [chooser.choice(hostile if chooser.random() < 0.3 else plain) for _ in range(chooser.randint(3, 9))]
        caption = "".join(word + chooser.choice(joints) for word in words)
        captions.append(chooser.choice([str, str, str, str.upper, str.title])(caption))
    return captions
