"""Short texts in twelve languages, of the kind that stands under pictures in shops."""

from __future__ import annotations

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
