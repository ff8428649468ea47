"""A small real repository with a real bug, for `dev-tools demo`: a shop's price module and its tests."""

import subprocess
from pathlib import Path

TASK = "Fix the failing test: an order of exactly 100.00 must get the discount."

FILES = {
    "README.md": "# shop\n\nPrices of a small shop. Run the tests with `python -m unittest`.\n",
    "shop/__init__.py": '"""A small shop."""\n',
    "shop/prices.py": '''"""Prices in cents, so that sums are exact."""

DISCOUNT_FROM = 10_000
DISCOUNT_PERCENT = 10


def line_total(price: int, quantity: int) -> int:
    """Price of one line of an order."""
    if quantity < 0:
        raise ValueError(f"quantity is {quantity}; it cannot be negative")
    return price * quantity


def order_total(lines: list[tuple[int, int]]) -> int:
    """Price of a whole order. Orders of 100.00 and more get a discount of 10 percent."""
    total = sum(line_total(price, quantity) for price, quantity in lines)
    if total > DISCOUNT_FROM:
        total -= total * DISCOUNT_PERCENT // 100
    return total


def format_price(cents: int) -> str:
    """12345 -> 123.45"""
    return f"{cents // 100}.{cents % 100:02d}"
''',
    "tests/__init__.py": "",
    "tests/test_prices.py": """import unittest

from shop.prices import format_price, line_total, order_total


class PriceTest(unittest.TestCase):
    def test_a_small_order_has_no_discount(self):
        self.assertEqual(order_total([(2_500, 2)]), 5_000)

    def test_an_order_of_exactly_100_gets_the_discount(self):
        self.assertEqual(order_total([(5_000, 2)]), 9_000)

    def test_a_large_order_gets_the_discount(self):
        self.assertEqual(order_total([(10_000, 3)]), 27_000)

    def test_a_negative_quantity_is_refused(self):
        with self.assertRaises(ValueError):
            line_total(100, -1)

    def test_prices_have_two_decimals(self):
        self.assertEqual(format_price(12_305), "123.05")
""",
}


def make_repository(folder: Path) -> Path:
    """Write the repository and commit it. A folder that holds one already is left as it is."""
    if (folder / ".git").is_dir():
        return folder
    for name, text in FILES.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    who = ["-c", "user.name=Demo", "-c", "user.email=demo@example.com", "-c", "commit.gpgSign=false"]
    for arguments in (["init", "-q", "-b", "main"], ["add", "-A"], [*who, "commit", "-q", "-m", "A small shop"]):
        subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True)
    return folder
