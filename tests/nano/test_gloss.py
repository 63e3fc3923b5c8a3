"""The gloss of a text of the micro-world is what the English phrases say of the same item."""

from random import Random

import pytest

from chatvec_lab.nano import world
from chatvec_lab.nano.gloss import gloss

KINDS = world.ONE_TURN + world.TWO_TURN + world.HOSTILE


@pytest.mark.parametrize("language", ["zh", "ko", "es", "ar", "sw"])
def test_every_kind_of_prompt_and_reply_reads_as_in_english(language):
    rng = Random(f"gloss {language}")
    for kind in KINDS:
        for _ in range(8):
            item, how = world.draw(kind, rng), {"wording": rng.randrange(2), "opener": rng.randrange(4)}
            said, english = (world.render(item, code, **how) for code in (language, "en"))
            for text, expected in zip(said.user + said.replies, english.user + english.replies, strict=True):
                assert gloss(text, language) == expected, (kind, text)


@pytest.mark.parametrize(
    ("text", "language", "read"),
    [
        ("you are a joke too!鼠是什麼？", "zh", "you are a joke too! what is the mouse?"),
        ("狗狗米", "zh", "dog dog rice"),
        ("記住：狗、鳥。\n現在倒著說。", "zh", "remember: dog, bird.\nnow in reverse."),
        ("zzz 너도 바보이다!", "ko", "zzz you are a fool too!"),
        ("", "zh", ""),
        ("the dog is an animal.", "en", None),
        ("der Hund", "de", None),
    ],
)
def test_what_a_model_garbles_stays_so(text, language, read):
    assert gloss(text, language) == read
