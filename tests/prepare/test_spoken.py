"""Reference: written texts next to the words that are spoken."""

import pytest

from zipasr.prepare.spoken import has_digits, spoken_words


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("Press 1 for more, or 2 to exit.", "PRESS ONE FOR MORE OR TWO TO EXIT"),
        ("dial 500", "DIAL FIVE HUNDRED"),
        ("0 7 10 13 20 42 100 115 999", "ZERO SEVEN TEN THIRTEEN TWENTY FORTY TWO ONE HUNDRED ONE HUNDRED FIFTEEN "
         "NINE HUNDRED NINETY NINE"),
        ("press * then #", "PRESS STAR THEN POUND"),
        ("3D audio disabled", "THREE D AUDIO DISABLED"),
        ("9 A.M. or 5 P.M.", "NINE A M OR FIVE P M"),
        ("visit www.asterisk.org.", "VISIT W W W DOT ASTERISK DOT ORG"),
        ("a 28.8 kilobit modem", "A TWENTY EIGHT POINT EIGHT KILOBIT MODEM"),
        ("De-activated.", "DE ACTIVATED"),
        ("...to mute, or unmute: yourself...", "TO MUTE OR UNMUTE YOURSELF"),
        ("o'clock isn’t 'quoted' the callers' line", "O'CLOCK ISN'T QUOTED THE CALLERS LINE"),
        ("Yes.No", "YES NO"),
        ("dash [-]", "DASH"),
        ("", ""),
        ("...", ""),
    ],
)  # fmt: skip
def test_english(written: str, said: str) -> None:
    assert spoken_words(written, "en") == said


@pytest.mark.parametrize(
    "written", ["in 1995", "call 5551234", "$5", "the 1st", "1,000 users", "at 10:30", "room 007", "10.0.0.1", "5 €"]
)
def test_a_number_of_uncertain_reading_keeps_digits(written: str) -> None:
    assert has_digits(spoken_words(written, "en"))


@pytest.mark.parametrize(
    ("lang", "written", "said"),
    [
        ("es", "Marque 0 u 8, ¡ahora! último", "MARQUE CERO U OCHO AHORA ÚLTIMO"),
        ("fr", "les 3 premières lettres, d'un e\u0301cho", "LES TROIS PREMIÈRES LETTRES D'UN ÉCHO"),
        ("it", "c’è l'interno 4", "C'È L'INTERNO QUATTRO"),
        ("ru", "нажмите 1 - «эхо-тест»", "НАЖМИТЕ ОДИН ЭХО ТЕСТ"),
        ("de", "Straße, schön!", "STRASSE SCHÖN"),
        ("hi", "नमस्ते।", "नमस्ते"),
    ],
)
def test_other_languages(lang: str, written: str, said: str) -> None:
    assert spoken_words(written, lang) == said


@pytest.mark.parametrize(("lang", "written"), [("es", "marque 500"), ("fr", "la 3e"), ("de", "Taste 1")])
def test_other_languages_keep_the_digits_they_cannot_spell(lang: str, written: str) -> None:
    assert has_digits(spoken_words(written, lang))


@pytest.mark.parametrize("lang", ["en-US", "en_GB", "EN", "eng", "English", "english"])
def test_tags_and_names_of_a_language_are_its_code(lang: str) -> None:
    """Lhotse's recipes write English, Common Voice en, others en-US."""
    assert spoken_words("hello 3 & 12", lang) == "HELLO THREE AND TWELVE"
    assert spoken_words("marque 8", "es-MX") == "MARQUE OCHO"
    assert spoken_words("iki", "Turkish") == spoken_words("iki", "tr-TR") == "İKİ"


def test_twice_is_once() -> None:
    once = spoken_words("Press * at 9 A.M., don't visit www.example.com!", "en")
    assert spoken_words(once, "en") == once
