"""Values that stand in texts: numbers, prices, dates, addresses. All patterns are RE2's, linear in the text."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from typing import Any, Final, Literal, TypeAlias

from manyeyes.primitives.patterns import compile_pattern

Value: TypeAlias = float | str
ValueType: TypeAlias = Literal["auto", "text", "number", "price", "date", "email", "url"]
DateOrder: TypeAlias = Literal["dmy", "mdy"]

CURRENCIES: Final[Mapping[str, tuple[str, ...]]] = {
    "EUR": ("€", "EUR", "euros", "euro"),
    "USD": ("US$", "$", "USD", "dollars", "dollar"),
    "GBP": ("£", "GBP", "pounds", "pound"),
    "JPY": ("¥", "JPY", "yen", "円"),
    "CNY": ("CNY", "RMB", "yuan", "元"),
    "INR": ("₹", "INR", "Rs.", "Rs", "rupees"),
    "CHF": ("CHF", "SFr."),
    "PLN": ("zł", "PLN"),
    "SEK": ("SEK",),
    "NOK": ("NOK",),
    "DKK": ("DKK",),
    "KRW": ("₩", "KRW"),
    "BRL": ("R$", "BRL"),
    "AUD": ("AU$", "AUD"),
    "CAD": ("CA$", "CAD"),
}
"""ISO 4217 code → how it is written."""

_NUMBER: Final = r"[-−+]?(?:\d{1,3}(?:[.,'’\x{a0}\x{202f}]\d{3})+|\d+)(?:[.,]\d+)?"
_EMAIL: Final = r"[A-Za-z0-9._%+\-]+@[A-Za-z0-9\-]+(?:\.[A-Za-z0-9\-]+)*\.[A-Za-z]{2,}"
_URL: Final = r"(?:https?://|www\.)[^\s<>\"']+"
_MONTHS: Final = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTH: Final = (
    r"(jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|oct(?:ober)?"
    r"|nov(?:ember)?|dec(?:ember)?)\.?"
)
_DATES: Final = (
    r"\b(\d{4})-(\d{1,2})-(\d{1,2})\b",
    r"\b(\d{1,2})([./])(\d{1,2})[./](\d{4})\b",
    rf"\b(\d{{1,2}})(?:st|nd|rd|th)?\.? {_MONTH},? (\d{{4}})\b",
    rf"\b{_MONTH} (\d{{1,2}})(?:st|nd|rd|th)?,? (\d{{4}})\b",
)
_DIGITS_ALONE: Final = re.compile(r"[-−+]?[\d.,'’\u00a0\u202f]*\d")


def number_of(text: str) -> float | None:
    """Return the number that a text spells in digits; None where it spells none.

    The last of several kinds of separator begins the decimals. A single kind parts thousands where it stands more than
    once or right before three last digits; elsewhere a point or comma begins the decimals.

    >>> [number_of(text) for text in ("1,299.00", "1.299,00", "1.299", "12,5", "0.125", "-3", "a hat")]
    [1299.0, 1299.0, 1299.0, 12.5, 0.125, -3.0, None]
    """
    text = text.strip()
    if not _DIGITS_ALONE.fullmatch(text):
        return None
    negative = text[0] in "-−"
    digits = text.lstrip("-−+")
    point = max(digits.rfind("."), digits.rfind(","))
    mark = digits[point] if point >= 0 else ""
    if mark:
        others = any(separator in digits for separator in ".,'’\u00a0\u202f" if separator != mark)
        thousands = digits.count(mark) > 1 or (
            not others and len(digits) - point == 4 and 1 <= point <= 3 and digits[0] != "0"
        )
        if thousands:
            point = -1
    whole = re.sub(r"\D", "", digits if point < 0 else digits[:point])
    decimals = "" if point < 0 else digits[point + 1 :]
    value = float(f"{whole or '0'}.{decimals or '0'}")
    return -value if negative else value


def finder(
    kind: ValueType, *, pattern: str | None, units: Sequence[str], order: DateOrder
) -> Callable[[str], list[Value]]:
    """Return what finds every value of a type in a text, in order.

    pattern: what is read as the value: its first group, or all of it; by default what the type looks like. units: words
    of which one stands after a number; of a price, codes of currencies. order: of day and month in 3/4/2026.
    """
    if pattern is not None:
        read = _READERS[kind]
        found = compile_pattern(pattern, ignore_case=True)

        def inside(text: str) -> list[Value]:
            values = [read(m[1] if found.groups else m[0], order) for m in found.finditer(text) if m[0]]
            return [value for value in values if value is not None]

        return inside
    if kind == "price":
        return _prices(units)
    if kind == "date":
        return lambda text: _dates(text, order)
    if kind == "number":
        # Longer units first, so that "kg" is not read as "k".
        named = "|".join(re.escape(unit) for unit in sorted(units, key=len, reverse=True))
        after = rf"\s*(?:{named})(?:[^\pL\d]|$)" if named else ""
        numbers = _compiled(rf"(?:^|[^\pL\d.,])({_NUMBER}){after}")
        return lambda text: _numbers(numbers, text)
    addresses = _compiled(_EMAIL if kind == "email" else _URL)
    return lambda text: [m[0].rstrip(".,;:!?)]}’”»") for m in addresses.finditer(text)]


def _compiled(pattern: str) -> Any:
    # Longer than anybody would write by hand: it holds every way to write a unit.
    return compile_pattern(pattern, ignore_case=True, max_length=10_000)


def _numbers(pattern: Any, text: str) -> list[Value]:
    # A match takes the character before and after it, which may belong to the next: each search begins at the number's
    # end.
    values: list[Value] = []
    at = 0
    while (match := pattern.search(text, at)) is not None:
        value = number_of(match[1])
        if value is not None:
            values.append(value)
        at = match.end(1)
    return values


def _prices(codes: Sequence[str]) -> Callable[[str], list[Value]]:
    written = [form for code in codes or CURRENCIES for form in CURRENCIES[code]]
    forms = "|".join(re.escape(form) for form in sorted(written, key=len, reverse=True))
    found = _compiled(rf"(?:^|[^\pL])(?:{forms})\s*({_NUMBER})|({_NUMBER})\s*(?:{forms})(?:[^\pL]|$)")

    def prices(text: str) -> list[Value]:
        values: list[Value] = []
        at = 0
        while (match := found.search(text, at)) is not None:
            group = 1 if match[1] is not None else 2
            value = number_of(match[group])
            if value is not None:
                values.append(value)
            at = match.end(group)
        return values

    return prices


def _dates(text: str, order: DateOrder) -> list[Value]:
    found: list[tuple[int, str]] = []
    for i, pattern in enumerate(_DATES):
        for match in _compiled(pattern).finditer(text):
            told = _date(i, [match[n + 1] for n in range(match.re.groups)], order)
            if told is not None:
                found.append((match.start(), told))
    return [told for _, told in sorted(found)]


def _date(form: int, parts: Sequence[str], order: DateOrder) -> str | None:
    if form == 0:
        year, month, day = map(int, parts)
    elif form == 1:
        first, mark, second, last = parts
        year, day, month = int(last), int(first), int(second)
        if mark == "/" and order == "mdy":
            day, month = month, day
    else:
        named, numbered = (1, 0) if form == 2 else (0, 1)
        year, day = int(parts[2]), int(parts[numbered])
        month = _MONTHS.index(parts[named][:3].lower()) + 1
    try:
        return date(year, month, day).isoformat()
    except ValueError:
        return None


def _first_date(text: str, order: DateOrder) -> Value | None:
    return next(iter(_dates(text, order)), None)


def _auto(text: str, _order: DateOrder) -> Value | None:
    value = number_of(text)
    return text if value is None else value


_READERS: Final[Mapping[ValueType, Callable[[str, DateOrder], Value | None]]] = {
    "auto": _auto,
    "text": lambda text, _: text,
    "number": lambda text, _: number_of(text),
    "price": lambda text, _: number_of(text),
    "date": _first_date,
    "email": lambda text, _: text,
    "url": lambda text, _: text,
}
