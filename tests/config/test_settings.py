import pytest

from devtools_platform.config import load_settings
from devtools_platform.core.errors import BadInput


def test_flags_win_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEV_TOOLS_GATEWAY_PORT", "1234")

    assert load_settings().gateway_port == 1234
    assert load_settings({"gateway_port": 99, "host": None}).gateway_port == 99


def test_a_wrong_value_is_named_with_what_was_expected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEV_TOOLS_GATEWAY_PORT", "many")

    with pytest.raises(BadInput, match=r"gateway_port.*many.*integer"):
        load_settings()


def test_an_unknown_name_is_refused_with_the_nearest_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEV_TOOLS_MODEL_BASE_URI", "x")

    with pytest.raises(BadInput, match="DEV_TOOLS_MODEL_BASE_URL"):
        load_settings()


def test_secrets_do_not_print(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADIENT_MODEL_ACCESS_KEY", "sk-do-very-secret-value")
    monkeypatch.setenv("DATABASE_URL", "postgresql://me:hunter2@db/x")

    assert "very-secret" not in repr(load_settings())
    assert "hunter2" not in repr(load_settings())
