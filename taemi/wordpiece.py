"""A WordPiece tokenizer made from nothing but this file, for encoders without published weights.

Every character of printable ASCII is in the vocabulary, alone and as a continuation, so that no English
text has an unknown token; common words, endings and the words of the emotions stand whole, so that a
sentence has about as many tokens as with a trained vocabulary.
"""

from __future__ import annotations

import string

from tokenizers import Tokenizer
from tokenizers.decoders import WordPiece as WordPieceDecoder
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing

PAD, UNK, CLS, SEP, MASK = SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")

_ENDINGS = """
s es ed d er r ers est ing ings ly y ies ied al ally ful fully less ness ment ments tion tions sion
ation able ible ive ous ity en n t th ish ism ist ance ence ant ent age ure ate ized ize izing self ward
"""

# Everyday spoken English: function words first, then what people say to a camera about how they feel.
_WORDS = """
the a an and or but if so because as than then that this these those there here it its i me my mine
myself you your yours yourself he him his himself she her hers herself we us our ours ourselves they
them their theirs themselves who whom whose which what when where why how all any both each every few
many more most much other some such no not nor only own same too very just also even still yet already
again once twice ever never always often sometimes usually maybe perhaps almost enough quite rather
really truly actually basically definitely certainly probably possibly exactly completely totally
absolutely literally honestly seriously simply am is are was were be been being do does did doing done
have has had having will would shall should can could may might must ought need dare let get gets got
getting gotten go goes went going gone come comes came coming make makes made making take takes took
taking taken give gives gave giving given say says said saying tell tells told telling talk talks talked
talking speak speaks spoke speaking ask asks asked asking answer answered think thinks thought thinking
know knows knew knowing known believe believed understand understood mean means meant feel feels felt
feeling feelings see sees saw seeing seen look looks looked looking watch watched watching hear heard
hearing listen listened want wants wanted wish wished hope hoped like likes liked love loves loved
loving hate hated enjoy enjoyed enjoying try tries tried trying keep keeps kept keeping start started
begin began stop stopped finish finished end ended work works worked working play played playing run
running ran walk walked live lived living die died lose lost losing win won winning find found help
helped helping show showed shown use used put call called leave left bring brought build built buy
bought become became happen happens happened change changed move moved stay stayed wait waited meet met
remember remembered forget forgot learn learned learning teach taught read write wrote send sent sit
stand stood sleep slept eat ate drink drank laugh laughs laughed laughing smile smiles smiled smiling
cry cries cried crying hurt hurts hurting break broke broken fall fell fight fought push pushed pull
hold held carry turn turned open close closed choose chose decide decided plan planned about above
across after against along among around at away back before behind below beside between beyond by down
during for from in inside into near of off on onto out outside over past since through throughout till
to toward under until up upon with within without one two three four five six seven eight nine ten
hundred thousand million first second third last next half time times day days night week weeks month
months year years hour minute moment morning evening today tomorrow yesterday now later soon early late
long short while ago man men woman women boy boys girl girls child children kid kids baby people person
friend friends family mother mom father dad brother sister son daughter wife husband parents team boss
teacher doctor guy guys everyone everybody someone somebody anyone anybody nobody everything something
anything nothing somewhere thing things way ways place home house room door world life part side head
face eyes eye hand hands heart body mind voice word words story stories name question idea ideas problem
problems reason fact point case school class job money game games music song movie video camera picture
phone food water coffee dinner dog cat car bus train road street city town country sun rain sky sea tree
light dark color red blue green black white good better best bad worse worst great big small little
large old new young high low hard easy fast slow hot cold warm cool right wrong true false real
different full empty clean dirty strong weak rich poor safe free busy ready fine nice kind sweet cute
pretty beautiful lovely ugly strange weird crazy silly stupid smart brave proud funny hilarious
ridiculous boring serious simple clear sure able oh ah wow hey hi hello yes yeah yep nope okay ok well
please thanks thank sorry um uh hmm ha haha gosh god goodness congratulations welcome bye goodbye
emotion emotions admire admired admiration admirable amaze amazed amazing awe awesome amuse amused
amusing amusement joke jokes joking hilarity determined determination determine goal goals effort focus
focused commit committed promise persist persistent stubborn achieve achieved challenge overcome succeed
success empathy empathic empathetic sympathy sympathetic compassion pain painful ache aching suffer
suffering sad sadness sorrow grief tears loss lonely alone awful terrible horrible tragic heartbreaking
heartbroken upset worry worried excite excited exciting excitement thrill thrilled thrilling eager
energy energetic party celebrate celebration surprise surprised surprising adventure joy joyful happy
happily happiness glad cheerful delight delighted delightful bliss fun pleasure pleased grateful
thankful wonderful fantastic incredible brilliant perfect inspire inspired inspiring inspiration respect
respected talent talented skill skilled hero heroes impressive impressed genius master artist honor calm
relaxed peaceful quiet anger angry mad furious annoyed fear afraid scared nervous anxious tired bored
disgust disgusting shame guilty jealous confused lucky hopeful confident
"""


def words_vocabulary() -> list[str]:
    """Return special tokens, characters, endings and words in their fixed order."""
    characters = [
        character for character in string.printable.lower() if character.isprintable() and character != " "
    ]
    entries = [
        *SPECIAL_TOKENS,
        *characters,
        *(f"##{character}" for character in characters),
        *(f"##{ending}" for ending in _ENDINGS.split()),
        *_WORDS.split(),
    ]
    return list(dict.fromkeys(entries))


def word_tokenizer(vocabulary: list[str] | None = None) -> Tokenizer:
    """Build an uncased BERT tokenizer.

    Args:
        vocabulary: Entries in the order of their ids; ``words_vocabulary()`` when ``None``.

    Returns:
        A tokenizer that adds [CLS] and [SEP], without padding and truncation.
    """
    entries = words_vocabulary() if vocabulary is None else vocabulary
    ids = {entry: index for index, entry in enumerate(entries)}
    tokenizer = Tokenizer(WordPiece(ids, unk_token=UNK))
    tokenizer.normalizer = BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    tokenizer.post_processor = TemplateProcessing(
        single=f"{CLS} $A {SEP}",
        pair=f"{CLS} $A {SEP} $B:1 {SEP}:1",
        special_tokens=[(CLS, ids[CLS]), (SEP, ids[SEP])],
    )
    tokenizer.decoder = WordPieceDecoder()
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    return tokenizer


def synthetic_tokenizer(size: int) -> Tokenizer:
    """Build a tokenizer with exactly ``size`` entries: the words, then numbered fillers never produced.

    Raises:
        ValueError: ``size`` is below the number of words.
    """
    entries = words_vocabulary()
    if size < len(entries):
        raise ValueError(f"a vocabulary of {size} is too small, the words alone are {len(entries)}")
    return word_tokenizer(entries + [f"[unused{index}]" for index in range(size - len(entries))])
