"""Check digits and ranges of numbers that name a person or an account. Each function is given the bare number.

A check digit alone lets every tenth number of the right length through, so rules of length, range and date come along.
"""

from __future__ import annotations

import datetime
import re
from collections import Counter


def luhn(digits: str) -> bool:
    """ISO/IEC 7812-1, annex B: from the right, every second digit is doubled; the digit sum is a multiple of ten."""
    total = 0
    for index, digit in enumerate(reversed(digits)):
        value = int(digit) << (index & 1)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


_ISSUERS: tuple[tuple[tuple[int, ...], int, int, int], ...] = (
    # lengths, digits of the prefix, first, last. From the issuers' published ranges.
    ((13, 16, 19), 1, 4, 4),  # Visa
    ((16,), 2, 51, 55),  # Mastercard
    ((16,), 4, 2221, 2720),
    ((15,), 2, 34, 34),  # American Express
    ((15,), 2, 37, 37),
    ((14,), 3, 300, 305),  # Diners Club
    ((14,), 2, 36, 36),
    ((14, 16), 2, 38, 39),
    ((16, 17, 18, 19), 4, 6011, 6011),  # Discover
    ((16, 17, 18, 19), 3, 644, 649),
    ((16, 17, 18, 19), 2, 65, 65),
    ((16, 17, 18, 19), 2, 62, 62),  # UnionPay
    ((16, 17, 18, 19), 4, 3528, 3589),  # JCB
    ((15,), 4, 2131, 2131),
    ((15,), 4, 1800, 1800),
    ((12, 13, 14, 15, 16, 17, 18, 19), 4, 5018, 5018),  # Maestro
    ((12, 13, 14, 15, 16, 17, 18, 19), 4, 5020, 5020),
    ((12, 13, 14, 15, 16, 17, 18, 19), 4, 5038, 5038),
    ((12, 13, 14, 15, 16, 17, 18, 19), 4, 5893, 5893),
    ((12, 13, 14, 15, 16, 17, 18, 19), 4, 6304, 6304),
    ((12, 13, 14, 15, 16, 17, 18, 19), 4, 6759, 6763),
)


def is_card(digits: str) -> bool:
    """A payment card: an issuer's range and length, the Luhn digit, and not one digit repeated."""
    if not luhn(digits) or len(set(digits)) == 1:
        return False
    return any(
        len(digits) in lengths and first <= int(digits[:size]) <= last for lengths, size, first, last in _ISSUERS
    )


IBAN_LENGTHS = {
    # ISO 13616, the registry kept by SWIFT.
    **{"AD": 24, "AE": 23, "AL": 28, "AT": 20, "AZ": 28, "BA": 20, "BE": 16, "BG": 22, "BH": 22, "BI": 27, "BR": 29},
    **{"BY": 28, "CH": 21, "CR": 22, "CY": 28, "CZ": 24, "DE": 22, "DJ": 27, "DK": 18, "DO": 28, "EE": 20, "EG": 29},
    **{"ES": 24, "FI": 18, "FK": 18, "FO": 18, "FR": 27, "GB": 22, "GE": 22, "GI": 23, "GL": 18, "GR": 27, "GT": 28},
    **{"HN": 28, "HR": 21, "HU": 28, "IE": 22, "IL": 23, "IQ": 23, "IS": 26, "IT": 27, "JO": 30, "KW": 30, "KZ": 20},
    **{"LB": 28, "LC": 32, "LI": 21, "LT": 20, "LU": 20, "LV": 21, "LY": 25, "MC": 27, "MD": 24, "ME": 22, "MK": 19},
    **{"MN": 20, "MR": 27, "MT": 31, "MU": 30, "NI": 28, "NL": 18, "NO": 15, "OM": 23, "PK": 24, "PL": 28, "PS": 29},
    **{"PT": 25, "QA": 29, "RO": 24, "RS": 22, "RU": 33, "SA": 24, "SC": 31, "SD": 18, "SE": 24, "SI": 19, "SK": 24},
    **{"SM": 27, "SO": 23, "ST": 25, "SV": 28, "TL": 23, "TN": 24, "TR": 26, "UA": 29, "VA": 22, "VG": 24, "XK": 20},
    "YE": 30,
}


def is_iban(account: str) -> bool:
    """ISO 13616: the country's length, and 1 modulo 97 with the first four signs last and letters as 10 to 35."""
    if len(account) != IBAN_LENGTHS.get(account[:2]):
        return False
    return int("".join(str(int(sign, 36)) for sign in account[4:] + account[:4])) % 97 == 1


def is_us_social_security(digits: str) -> bool:
    """Nine digits: area, group and serial are not zero, area not 666 or above 899 (Social Security Administration)."""
    area, group, serial = digits[:3], digits[3:5], digits[5:]
    return area not in ("000", "666") and area < "900" and group != "00" and serial != "0000"


def is_nhs(digits: str) -> bool:
    """Ten digits of the British health service: weights 10 to 2, modulo 11 (NHS Data Dictionary)."""
    check = 11 - sum(int(digit) * weight for digit, weight in zip(digits, range(10, 1, -1), strict=False)) % 11
    return len(set(digits)) > 1 and check != 10 and check % 11 == int(digits[9])


def is_nir(number: str) -> bool:
    """Fifteen signs of the French social security: the last two are 97 less the others modulo 97 (INSEE).

    Corsica's 2A and 2B count as 19 and 18.
    """
    plain = number.replace("2A", "19").replace("2B", "18")
    month = int(number[3:5])
    if not plain.isdigit() or not (1 <= month <= 12 or 20 <= month <= 42 or month >= 50):
        return False
    return 97 - int(plain[:13]) % 97 == int(plain[13:])


def is_dni(number: str) -> bool:
    """Spanish DNI (8 digits and a letter) or NIE (X, Y or Z, 7 digits, a letter): the letter is its rest by 23."""
    digits = str("XYZ".index(number[0])) + number[1:-1] if number[0] in "XYZ" else number[:-1]
    return "TRWAGMYFPDXBNJZSQVHLCKE"[int(digits) % 23] == number[-1]


def is_german_tax_id(digits: str) -> bool:
    """Eleven digits, ISO 7064 modulo 11,10; one of the first ten comes twice or thrice (Abgabenordnung § 139b)."""
    repeats = sorted(Counter(digits[:10]).values(), reverse=True)
    if digits[0] == "0" or repeats[0] not in (2, 3) or repeats[1] > (2 if repeats[0] == 3 else 1):
        return False
    product = 10
    for digit in digits[:10]:
        total = (int(digit) + product) % 10 or 10
        product = total * 2 % 11
    return (11 - product) % 10 == int(digits[10])


_ODD_VALUES = (1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23)
"""Codice fiscale: the value of a letter (or of the digit at that place in the alphabet) at an odd place."""


def is_codice_fiscale(code: str) -> bool:
    """Sixteen signs of the Italian tax code; the last is the sum of all values modulo 26 (decree of 23.12.1976)."""
    total = 0
    for index, sign in enumerate(code[:15]):
        place = int(sign) if sign.isdigit() else ord(sign) - 65
        total += _ODD_VALUES[place] if index % 2 == 0 else place
    return chr(65 + total % 26) == code[15]


def _dihedral() -> list[list[int]]:
    """The multiplication of the symmetries of a pentagon: turns 0 to 4, reflections 5 to 9."""
    table = [[0] * 10 for _ in range(10)]
    for left in range(10):
        for right in range(10):
            turn = (left % 5 + (right % 5 if left < 5 else -right % 5)) % 5
            table[left][right] = turn + 5 * ((left > 4) != (right > 4))
    return table


_PRODUCTS = _dihedral()
_STEP = (1, 5, 7, 6, 2, 8, 3, 0, 9, 4)


def verhoeff(digits: str) -> bool:
    """J. Verhoeff, "Error Detecting Decimal Codes" (1969); used by the Indian Aadhaar."""
    check = 0
    for index, digit in enumerate(reversed(digits)):
        value = int(digit)
        for _ in range(index % 8):
            value = _STEP[value]
        check = _PRODUCTS[check][value]
    return check == 0


def is_aadhaar(digits: str) -> bool:
    """Twelve digits, the first not 0 or 1, the last by Verhoeff."""
    return digits[0] > "1" and verhoeff(digits)


def is_bsn(digits: str) -> bool:
    """Nine digits of the Dutch citizen service number: weights 9 to 2 and -1, modulo 11."""
    weights = (9, 8, 7, 6, 5, 4, 3, 2, -1)
    return len(set(digits)) > 1 and sum(int(d) * weight for d, weight in zip(digits, weights, strict=True)) % 11 == 0


def is_pesel(digits: str) -> bool:
    """Eleven digits of the Polish register: a date of birth and a check by the weights 1, 3, 7, 9."""
    if sum(int(d) * weight for d, weight in zip(digits, (1, 3, 7, 9, 1, 3, 7, 9, 1, 3, 1), strict=True)) % 10:
        return False
    month = int(digits[2:4])
    century = {0: 1900, 1: 2000, 2: 2100, 3: 2200, 4: 1800}[month // 20]
    return _is_date(century + int(digits[:2]), month % 20, int(digits[4:6]))


def is_cpf(digits: str) -> bool:
    """Eleven digits of the Brazilian taxpayer: two checks modulo 11 with weights that fall to 2."""
    if len(set(digits)) == 1:
        return False
    for size in (9, 10):
        total = sum(int(digit) * weight for digit, weight in zip(digits[:size], range(size + 1, 1, -1), strict=True))
        if total * 10 % 11 % 10 != int(digits[size]):
            return False
    return True


def is_chinese_resident(number: str) -> bool:
    """Eighteen signs: region, date of birth, order, and a check modulo 11 (GB 11643-1999, ISO 7064 modulo 11-2)."""
    if not _is_date(int(number[6:10]), int(number[10:12]), int(number[12:14])) or not "1800" < number[6:10] < "2100":
        return False
    total = sum(int(digit) * pow(2, 17 - index, 11) for index, digit in enumerate(number[:17]))
    return "10X98765432"[total % 11] == number[17]


def is_canadian_insurance(digits: str) -> bool:
    """Nine digits, the first not 0 or 8, the last by Luhn."""
    return digits[0] not in "08" and luhn(digits)


def is_swedish(digits: str) -> bool:
    """Ten digits: a date of birth (day + 60 for a coordination number) and Luhn."""
    day = int(digits[4:6])
    return luhn(digits) and _is_date(2000, int(digits[2:4]), day - 60 if day > 60 else day)


def _is_date(year: int, month: int, day: int) -> bool:
    try:
        datetime.date(year, month, day)
    except ValueError:
        return False
    return True


def bare(text: str) -> str:
    """Letters and digits alone, in capitals."""
    return re.sub(r"[\W_]+", "", text).upper()
