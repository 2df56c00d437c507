"""Facts about texts, on short ones of the kind that stands under pictures in shops."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from manyeyes.errors import MissingDependency
from manyeyes.primitives import text_facts
from manyeyes.primitives.text_facts import KIND, TextFactsSpec, count

SENTENCES: dict[str, list[str]] = {
    "en": [
        "A warm winter coat with two pockets", "The shoes arrived late and one was broken", "Ships within two days",
        "Hand-made hat, worn only once", "Please write to me before you buy it", "This is the best bag I ever had",
    ],
    "de": [
        "Warmer Wintermantel mit zwei Taschen", "Die Schuhe kamen zu spät und einer war kaputt",
        "Versand innerhalb von zwei Tagen", "Handgemachter Hut, nur einmal getragen",
        "Bitte schreiben Sie mir vor dem Kauf", "Das ist die beste Tasche, die ich je hatte",
    ],
    "fr": [
        "Manteau d'hiver chaud avec deux poches", "Les chaussures sont arrivées en retard",
        "Expédié sous deux jours", "Chapeau fait main, porté une seule fois",
        "Merci de m'écrire avant d'acheter", "C'est le meilleur sac que j'aie jamais eu",
    ],
    "es": [
        "Abrigo de invierno con dos bolsillos", "Los zapatos llegaron tarde y uno estaba roto",
        "Envío en dos días", "Sombrero hecho a mano, usado una sola vez",
        "Por favor, escríbame antes de comprar", "Es el mejor bolso que he tenido nunca",
    ],
    "it": [
        "Cappotto invernale caldo con due tasche", "Le scarpe sono arrivate in ritardo",
        "Spedizione entro due giorni", "Cappello fatto a mano, indossato una volta",
        "Scrivetemi prima di comprare, per favore", "È la borsa migliore che abbia mai avuto",
    ],
    "pt": [
        "Casaco de inverno quente com dois bolsos", "Os sapatos chegaram atrasados e um estava partido",
        "Envio em dois dias úteis", "Chapéu feito à mão, usado apenas uma vez",
        "Por favor escreva-me antes de comprar", "É a melhor mala que já tive",
    ],
    "nl": [
        "Warme winterjas met twee zakken", "De schoenen kwamen te laat en één was kapot",
        "Verzonden binnen twee dagen", "Handgemaakte hoed, slechts één keer gedragen",
        "Schrijf mij alstublieft voordat u koopt", "Dit is de beste tas die ik ooit heb gehad",
    ],
    "pl": [
        "Ciepły płaszcz zimowy z dwiema kieszeniami", "Buty przyszły za późno i jeden był zepsuty",
        "Wysyłka w ciągu dwóch dni", "Ręcznie robiony kapelusz, noszony tylko raz",
        "Proszę napisać do mnie przed zakupem", "To najlepsza torba, jaką kiedykolwiek miałam",
    ],
    "ru": [
        "Тёплое зимнее пальто с двумя карманами", "Туфли пришли поздно, и одна была сломана",
        "Отправка в течение двух дней", "Шляпа ручной работы, надета один раз",
        "Пожалуйста, напишите мне перед покупкой", "Это лучшая сумка, которая у меня была",
    ],
    "tr": [
        "İki cepli sıcak kışlık mont", "Ayakkabılar geç geldi ve biri kırıktı", "İki gün içinde gönderilir",
        "El yapımı şapka, sadece bir kez giyildi", "Lütfen satın almadan önce bana yazın",
        "Bu şimdiye kadar sahip olduğum en iyi çanta",
    ],
    "ja": [
        "ポケットが二つある暖かい冬のコート", "靴が遅れて届き、片方が壊れていました", "二日以内に発送します",
        "手作りの帽子、一度だけ着用", "購入前にご連絡ください", "今までで一番良いバッグです",
    ],
    "zh": [
        "带两个口袋的保暖冬季外套", "鞋子到得很晚，而且有一只坏了", "两天内发货",
        "手工制作的帽子，只戴过一次", "购买前请先给我写信", "这是我用过的最好的包",
    ],
}  # fmt: skip


def tell(feature: str, *texts: str) -> Any:
    primitive = KIND.build("facts", TextFactsSpec(kind="text_facts"))[feature]
    return np.concatenate(primitive.compute(texts))


@pytest.mark.parametrize(
    ("text", "n_chars", "n_words", "n_sentences"),
    [
        ("A hat.", 6, 2, 1),
        ("  A red hat!  Is it? Yes… it's ", 28, 7, 4),
        ("One line\n\nanother, after a gap", 30, 6, 2),
        ("v1.2.3 costs 3.50 EUR", 21, 7, 1),
        ("帽子です。靴です。", 9, 2, 2),
        ("don't well-made", 15, 2, 1),
        ("?!", 2, 0, 0),
    ],
)
def test_what_is_counted(text: str, n_chars: int, n_words: int, n_sentences: int) -> None:
    row = count(text)[0]
    assert (row["n_chars"], row["n_words"], row["n_sentences"]) == (n_chars, n_words, n_sentences)


@pytest.mark.parametrize(
    ("text", "share"), [("HATS", 1.0), ("Hats", 0.25), ("ÄÖ ß", 2 / 3), ("帽子 12", np.nan)]
)
def test_the_share_of_capitals(text: str, share: float) -> None:
    assert count(text)["capitals"][0] == pytest.approx(share, nan_ok=True)


def test_languages_of_short_texts() -> None:
    texts = [(language, text) for language, some in SENTENCES.items() for text in some]
    told = tell("facts.language", *(text for _, text in texts))
    right = [row["language"].decode() == language for row, (language, _) in zip(told, texts, strict=True)]
    assert sum(right) >= 0.95 * len(texts), [texts[i] for i in np.flatnonzero(~np.array(right))]
    assert ((told["language_score"] > 0) & (told["language_score"] <= 1)).all()


def test_numbers_and_signs_are_in_no_language() -> None:
    row = tell("facts.language", "12 / 34 !!")[0]
    assert row["language"] == b"" and np.isnan(row["language_score"])


def test_sentiment_of_english() -> None:
    texts = (
        "I love this wonderful hat",
        "The hat",
        "Terrible. It broke at once and I hate it",
        "I don't like it",
    )
    good, neutral, bad, negated = tell("facts.sentiment", *texts)["sentiment"]
    assert good > 0.5 and neutral == 0 and bad < -0.5 and negated < 0


def test_only_what_is_read_is_loaded() -> None:
    program = (
        "import sys\n"
        "from manyeyes.primitives.text_facts import KIND, TextFactsSpec\n"
        "built = KIND.build('f', TextFactsSpec(kind='text_facts'))\n"
        "built['f'].setup(), built['f'].compute(['a hat'])\n"
        "assert not {'py3langid', 'vaderSentiment'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


@pytest.mark.parametrize(
    ("feature", "module"), [("language", "py3langid.langid"), ("sentiment", "vaderSentiment")]
)
def test_what_is_missing_is_named(feature: str, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setitem(sys.modules, f"{module}.{module}", None)
    text_facts._languages.cache_clear()
    text_facts._sentiments.cache_clear()
    with pytest.raises(MissingDependency, match=r"manyeyes\[text\]"):
        KIND.build("facts", TextFactsSpec(kind="text_facts"))[f"facts.{feature}"].setup()


def test_versions_differ() -> None:
    built = KIND.build("facts", TextFactsSpec(kind="text_facts"))
    assert len({primitive.version for primitive in built.values()}) == 3
    assert "py3langid 0" in built["facts.language"].version
