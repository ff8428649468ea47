import pytest

from devtools_platform.core.redact import find_secrets, holds_secret, redact, redact_text

SECRETS = [
    "ghp_" + "a1B2" * 9,
    "dop_v1_" + "0af3" * 16,
    "sk-do-" + "abcDEF123456789012",
    "sk-proj-" + "x" * 40,
    "lin_api_" + "Z9" * 20,
    "AKIA" + "ABCDEFGHIJKLMNOP",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ4eHh4eHgifQ.c2lnbmF0dXJlLWhlcmU",
    "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----",
]


@pytest.mark.parametrize("secret", SECRETS)
def test_known_shapes_of_secrets_are_masked_and_found(secret: str) -> None:
    text = f"line one\nvalue = '{secret}' # and more"

    assert secret not in redact_text(text)
    assert "and more" in redact_text(text)
    assert [line for line, _ in find_secrets(text)] == [2]
    assert holds_secret(text)


def test_passwords_in_urls_and_bearer_headers_are_masked() -> None:
    assert redact_text("postgresql://me:hunter2@db/x") == "postgresql://me:***@db/x"
    assert redact_text("Authorization: Bearer abcdefghijklmnop") == "Authorization: Bearer ***"


def test_nested_data_is_masked_and_ordinary_code_is_not() -> None:
    data = {"a": ["x", {"b": SECRETS[0]}], "n": 1}
    assert redact(data) == {"a": ["x", {"b": "***"}], "n": 1}
    code = "def sk_total(task): return task-force and skip-this-one and https://example.com/path"
    assert redact_text(code) == code
    assert not holds_secret(code)


@pytest.mark.timeout(5)
@pytest.mark.parametrize("flood", ["x", "eyJ", "a:", "-----BEGIN X PRIVATE KEY-----", "bearer ", "http://", "a-"])
def test_a_flood_costs_time_in_proportion_to_its_length(flood: str) -> None:
    redact_text(flood * (500_000 // len(flood)))
