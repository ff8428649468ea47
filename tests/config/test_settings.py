from pathlib import Path

import pytest
from pydantic import SecretStr

from devtools_platform.config import explain, load_settings
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


def test_a_secret_can_stand_in_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "database_url"
    file.write_text("postgresql://me@db/x\n")
    monkeypatch.setenv("DATABASE_URL_FILE", str(file))
    monkeypatch.setenv("DEV_TOOLS_MODEL_API_KEY_FILE", str(file))

    settings = load_settings()
    assert settings.database_url
    assert settings.model_api_key
    assert (
        settings.database_url.get_secret_value() == settings.model_api_key.get_secret_value() == file.read_text()[:-1]
    )
    assert next(one.source for one in explain(settings) if one.variable == "DATABASE_URL") == "DATABASE_URL_FILE"
    assert load_settings({"model_api_key": "flag"}).model_api_key == SecretStr("flag")


@pytest.mark.parametrize(("content", "message"), [(None, "cannot be read"), ("  \n", "empty"), (b"\xff", "no text")])
def test_a_secret_file_without_a_secret_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str | bytes | None, message: str
) -> None:
    file = tmp_path / "key"
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    monkeypatch.setenv("DEV_TOOLS_MODEL_API_KEY_FILE", str(file))

    with pytest.raises(BadInput, match=f"DEV_TOOLS_MODEL_API_KEY_FILE.*{message}"):
        load_settings()


def test_a_secret_given_twice_and_a_file_for_what_is_no_secret_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "key").write_text("k")
    monkeypatch.setenv("DEV_TOOLS_MODEL_API_KEY_FILE", str(tmp_path / "key"))
    monkeypatch.setenv("DEV_TOOLS_MODEL_API_KEY", "other")
    with pytest.raises(BadInput, match="both set"):
        load_settings()
    monkeypatch.delenv("DEV_TOOLS_MODEL_API_KEY_FILE")
    monkeypatch.setenv("DEV_TOOLS_CONSOLE_PORT_FILE", str(tmp_path / "key"))
    with pytest.raises(BadInput, match="'DEV_TOOLS_CONSOLE_PORT_FILE' is not a setting"):
        load_settings()
