"""Check digits tell a number from one that is a digit off; secrets are found and their placeholders are not."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable

import pytest

from lmcraft.corpus.steps import personal_data_numbers as numbers
from lmcraft.corpus.steps.personal_data import KINDS, Kind, find

DRAWS = 40


def completed(rule: Callable[[str], bool], begin: str, signs: str, count: int = 1, end: str = "") -> str | None:
    """`begin` with the last `count` signs chosen so that the rule holds, if there are such."""
    candidates = (begin + "".join(last) + end for last in itertools.product(signs, repeat=count))
    return next((number for number in candidates if rule(number)), None)


def digits(draw: random.Random, count: int) -> str:
    return "".join(draw.choices("0123456789", k=count))


def german(draw: random.Random) -> str:
    ten = draw.sample("0123456789", 10)
    ten[ten.index("0")] = ten[0] if ten[0] != "0" else ten[1]
    return "".join(ten if ten[0] != "0" else ten[::-1])


DIGITS, LETTERS = "0123456789", "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
RULES: dict[str, tuple[Callable[[str], bool], Callable[[random.Random], str], str, int]] = {
    # rule, begin of a number, signs of the check, how many
    "luhn": (numbers.luhn, lambda draw: digits(draw, 15), DIGITS, 1),
    "card": (numbers.is_card, lambda draw: "4" + digits(draw, 14), DIGITS, 1),
    "nhs": (numbers.is_nhs, lambda draw: digits(draw, 9), DIGITS, 1),
    "nir": (numbers.is_nir, lambda draw: f"1{digits(draw, 2)}0{draw.randint(1, 9)}2A{digits(draw, 6)}", DIGITS, 2),
    "dni": (numbers.is_dni, lambda draw: digits(draw, 8), LETTERS, 1),
    "nie": (numbers.is_dni, lambda draw: draw.choice("XYZ") + digits(draw, 7), LETTERS, 1),
    "tax": (numbers.is_german_tax_id, german, DIGITS, 1),
    "aadhaar": (numbers.is_aadhaar, lambda draw: draw.choice("23456789") + digits(draw, 10), DIGITS, 1),
    "bsn": (numbers.is_bsn, lambda draw: digits(draw, 8), DIGITS, 1),
    "pesel": (numbers.is_pesel, lambda draw: f"{digits(draw, 2)}0{draw.randint(1, 9)}1{digits(draw, 5)}", DIGITS, 1),
    "cpf": (numbers.is_cpf, lambda draw: digits(draw, 9), DIGITS, 2),
    "china": (
        numbers.is_chinese_resident,
        lambda draw: f"110105199{digits(draw, 1)}0815{digits(draw, 3)}",
        DIGITS + "X",
        1,
    ),
    "canada": (numbers.is_canadian_insurance, lambda draw: "1" + digits(draw, 7), DIGITS, 1),
    "sweden": (numbers.is_swedish, lambda draw: f"{digits(draw, 2)}0112{digits(draw, 3)}", DIGITS, 1),
    "codice": (
        numbers.is_codice_fiscale,
        lambda draw: f"RSSMRA{digits(draw, 2)}A01H{digits(draw, 3)}",
        LETTERS,
        1,
    ),
}


@pytest.mark.parametrize("name", RULES)
def test_one_digit_off_is_told_apart(name: str) -> None:
    rule, begin, signs, count = RULES[name]
    draw = random.Random(name)
    seen = tried = passed = 0
    for _ in range(DRAWS):
        valid = completed(rule, begin(draw), signs, count)
        if valid is None:  # some begins have no check digit
            continue
        seen += 1
        assert rule(valid)
        # The last sign itself: exactly one of all is right.
        others = [sign for sign in signs if sign != valid[-1]]
        assert not any(rule(valid[:-1] + sign) for sign in others)
        places = [place for place, sign in enumerate(valid[: -count or None]) if sign.isdigit()]
        for place in places:
            changed = valid[:place] + str((int(valid[place]) + 1) % 10) + valid[place + 1 :]
            tried += 1
            passed += rule(changed)
    assert seen > DRAWS // 2
    # Brazil writes the check 10 as 0, so that a few changes pass one of its two digits and by chance the other.
    assert passed <= (tried * 0.05 if name == "cpf" else 0)


KNOWN = {
    # published examples, of the registries or of the standards
    "luhn": (numbers.luhn, ["79927398713", "4111111111111111"]),
    "card": (numbers.is_card, ["378282246310005", "5555555555554444", "30569309025904", "6011111111111117"]),
    "iban": (numbers.is_iban, ["GB82WEST12345698765432", "DE89370400440532013000", "NO9386011117947"]),
    "nir": (numbers.is_nir, ["255081416802538"]),
    "dni": (numbers.is_dni, ["12345678Z", "X1234567L"]),
    "codice": (numbers.is_codice_fiscale, ["RSSMRA85T10A562S"]),
    "verhoeff": (numbers.verhoeff, ["2363"]),
    "bsn": (numbers.is_bsn, ["111222333"]),
    "pesel": (numbers.is_pesel, ["44051401359"]),
    "cpf": (numbers.is_cpf, ["52998224725"]),
    "china": (numbers.is_chinese_resident, ["11010519491231002X"]),
    "tax": (numbers.is_german_tax_id, ["86095742719", "47036892816"]),
    "canada": (numbers.luhn, ["046454286"]),
}


@pytest.mark.parametrize("name", KNOWN)
def test_published_numbers_are_valid(name: str) -> None:
    rule, valid = KNOWN[name]
    assert all(rule(number) for number in valid)


def test_every_iban_length_and_digit_counts() -> None:
    draw = random.Random(0)
    for country, length in numbers.IBAN_LENGTHS.items():
        account = digits(draw, length - 4)
        value = int("".join(str(int(sign, 36)) for sign in f"{account}{country}00"))
        valid = f"{country}{98 - value % 97:02d}{account}"
        assert numbers.is_iban(valid)
        assert not numbers.is_iban(valid + "0")
        for place in range(4, length):
            assert not numbers.is_iban(valid[:place] + str((int(valid[place]) + 1) % 10) + valid[place + 1 :])


@pytest.mark.parametrize(
    ("number", "valid"),
    [("536904399", True), ("000123456", False), ("666123456", False), ("900123456", False), ("123004567", False)],
)
def test_us_social_security_ranges(number: str, valid: bool) -> None:
    assert numbers.is_us_social_security(number) is valid


def spans(text: str, kind: Kind) -> list[str]:
    return [text[span.start : span.end] for span in find(text, [kind])]


@pytest.mark.parametrize(
    ("kind", "text", "found"),
    [
        ("card", "pay by 4111 1111 1111 1111 now", ["4111 1111 1111 1111"]),
        ("card", "3782 822463 10005, 5555-5555-5555-4444", ["3782 822463 10005", "5555-5555-5555-4444"]),
        ("card", "4111 1111 1111 1112, 4111111111111111.5, id 41 11111111111111", []),
        ("card", "4111 1111 1111 1111 12/27 cvv 123", ["4111 1111 1111 1111"]),
        ("card", "4111111111111111 01/29, 4111.1111.1111.1111.", ["4111111111111111", "4111.1111.1111.1111"]),
        ("card", "by 4111\u20111111\u20111111\u20111111", ["4111\u20111111\u20111111\u20111111"]),
        ("card", "4111 1111 1111 1111 2222 3333; 4111.1111.1111.1111.5; 4111-1111.1111-1111; 4111111111111111 33", []),
        ("phone", "212-555-0123 212-555-0124 212-555-0125", ["212-555-0123", "212-555-0124", "212-555-0125"]),
        ("phone", "01 23 45 67 89 06 12 34 56 78", ["01 23 45 67 89", "06 12 34 56 78"]),
        ("phone", "020 7946 0958 020 7946 0959", ["020 7946 0958", "020 7946 0959"]),
        ("phone", "01 02 03 04 05 06 07 08 09 10 11 12; 0123 4567 0123 4567 0123", []),
        ("email", "jane@example.xn--p1ai, a@xn--bcher-kva.org", ["jane@example.xn--p1ai", "a@xn--bcher-kva.org"]),
        ("secret", "password: hunter2, PASSWORD=S3cr3t!x9", ["hunter2", "S3cr3t!x9"]),
        ("secret", "password=sha256; pwd=args.v2; password: user1, password = getpass123(), passwd: 12chars", []),
        ("iban", "to GB82 WEST 1234 5698 7654 32 TODAY", ["GB82 WEST 1234 5698 7654 32"]),
        ("iban", "iban: de89370400440532013000", ["de89370400440532013000"]),
        ("iban", "GB83 WEST 1234 5698 7654 32 and DE8937040044053201300", []),
        ("national_id", "NHS number 943 476 5919; 943 476 5919", ["943 476 5919"]),
        ("national_id", "2 55 08 14 168 025 38", ["2 55 08 14 168 025 38"]),
        ("national_id", "86095742719", []),
        ("national_id", "[213] (0) 770-08-2000", []),
        ("national_id", "Steuer-ID: 86 095 742 719", ["86 095 742 719"]),
        ("national_id", "RSSMRA85T10A562S, RSSMRA85T10A562T", ["RSSMRA85T10A562S"]),
        ("national_id", "PESEL 44051401359 BSN 111222333", ["44051401359", "111222333"]),
        ("national_id", "social security 536-90-4399; call 012-5555-1234", ["536-90-4399"]),
        ("mac", "eth0 00:1A:2B:3C:4D:5E ff:ff:ff:ff:ff:ff 12:30:45", ["00:1A:2B:3C:4D:5E"]),
        ("wallet", "1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa and 1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNb",
         ["1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa"]),
        ("secret", "key AKIAIOSFODNN7EXAMPLQ.", ["AKIAIOSFODNN7EXAMPLQ"]),
        ("secret", "ghp_" + "a1B2" * 9, ["ghp_" + "a1B2" * 9]),
        ("secret", 'api_key = "q8Zk20dkPlm4"', ["q8Zk20dkPlm4"]),
        ("secret", "SECRET_TOKEN=9f8e7d6c5b4a39281706f5e4", ["9f8e7d6c5b4a39281706f5e4"]),
        ("secret", "postgres://admin:s3cr3tWord@db.example.org/x", ["s3cr3tWord"]),
        ("secret", 'password = "your_password1", token = os.environ["TOKEN"], key: "example-key-123"', []),
        ("secret", "The key: 1234567890123456 doors. password: correct horse battery", []),
        ("secret", "token = tokenize(stream.readline1234)", []),
    ],
)  # fmt: skip
def test_kinds(kind: Kind, text: str, found: list[str]) -> None:
    assert spans(text, kind) == found


def test_the_more_certain_kind_stands_where_two_overlap() -> None:
    text = "mail 4111111111111111@example.org, card 4111 1111 1111 1111, phone 4111 1111 1111 1111"
    assert [span.kind for span in find(text, KINDS)] == ["email", "card", "card"]
