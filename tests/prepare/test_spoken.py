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
        ("press *, then # (or *)", "PRESS STAR THEN POUND OR STAR"),
        ("*laughs* ok **then** f# and c#", "LAUGHS OK THEN F AND C"),
        ("AT&T is 5% up, @ home", "AT AND T IS FIVE PERCENT UP AT HOME"),
        ("COVID-19, a 10-year-old F-16, part 1 - call 2, '3' or \"4\"",
         "COVID NINETEEN A TEN YEAR OLD F SIXTEEN PART ONE CALL TWO THREE OR FOUR"),
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
    ("written", "kept"),
    [
        *(
            ("3/4 cup", "3 4 CUP"),
            ("5-6 people", "5 6 PEOPLE"),
            ("5 - 6 people", "5 6 PEOPLE"),
            ("5–6 people", "5 6 PEOPLE"),
        ),
        *(("1+1=2", "1 1 2"), ("1 + 1 = 2", "1 1 2"), ("x = 5", "X 5"), ("2×3", "2 3"), ("5'6 tall", "5'6 TALL")),
        *(
            ("-5 degrees", "5 DEGREES"),
            ("about (-5)", "ABOUT 5"),
            ("\u22125", "5"),
            ("~5", "5"),
            ("+5", "5"),
            ("5°C", "5 C"),
        ),
        *(("#1 fan", "1 FAN"), ("*69", "69"), ("5/day", "5 DAY"), ("the 90s", "THE 90S"), ("₹5", "5"), ("5 ¢", "5")),
        *(("½ cup", "½ CUP"), ("part \u2163", "PART \u2163")),
    ],
)
def test_signs_beside_a_number_make_its_reading_uncertain(written: str, kept: str) -> None:
    assert spoken_words(written, "en") == kept
    assert has_digits(kept)


def test_chinese_numbers_are_words() -> None:
    assert not has_digits(spoken_words("二〇二四年三月", "zh"))


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


@pytest.mark.parametrize(
    ("lang", "written"),
    [
        *(("es", "marque 500"), ("fr", "la 3e"), ("de", "Taste 1")),
        *(("es", "el 5%"), ("es", "5-6"), ("fr", "la 1ère"), ("fr", "n° 5"), ("ru", "5-й раз"), ("it", "1/2")),
    ],
)
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
