"""Language codes in words: "zh-Hant" is "Traditional Chinese". The names are those of the Unicode CLDR, by babel."""

from functools import cache


@cache
def language_name(code: str) -> str:
    """The language's English name; what is no code of a language is given back as it is.

    >>> [language_name(code) for code in ("zh", "ko", "zh-Hant", "pt_BR", "CP + τ", "one_turn")]
    ['Chinese', 'Korean', 'Traditional Chinese', 'Brazilian Portuguese', 'CP + τ', 'one_turn']
    """
    from babel import Locale, UnknownLocaleError

    try:
        locale = Locale.parse(code.replace("-", "_"))
    except (UnknownLocaleError, ValueError, TypeError):
        return code
    regional = locale.english_name or code
    whole = Locale("en").languages.get(
        str(locale)
    )  # CLDR has a name of its own for some: "Brazilian Portuguese"
    return whole or regional
