"""No password of an address is shown, and nothing else is changed."""

import pickle

import pytest

from datasets.errors import AudioError, Changed, InputError, without_passwords

HIDDEN = [
    ("postgresql+psycopg://ada:s3cret@db:5432/mlflow", "postgresql+psycopg://ada:***@db:5432/mlflow"),
    ("postgresql://ada:p@ss/w:rd#1@db/mlflow", "postgresql://ada:***@db/mlflow"),
    ("http://ada:%73@h:4200/api/health refused", "http://ada:***@h:4200/api/health refused"),
    ("http://:s3cret@head:8265", "http://:***@head:8265"),
    ("https://ghp_token@host/api", "https://***@host/api"),
    ("Nothing answers at 'http://a:b@c/d' (x)", "Nothing answers at 'http://a:***@c/d' (x)"),
    ("two: http://a:b@c, and mysql://d:e@f", "two: http://a:***@c, and mysql://d:***@f"),
    ("postgresql://db/m?user=ada&password=s3cret&x=1", "postgresql://db/m?user=ada&password=***&x=1"),
    ("https://b.s3/x?X-Amz-Signature=abc&X-Amz-Credential=d/e", "https://b.s3/x?X-Amz-Signature=***&X-Amz-Credential=***"),
    ("http://h/?access_token=abc", "http://h/?access_token=***"),
    ("redis://:s3cret@cache:6379/0", "redis://:***@cache:6379/0"),
]  # fmt: skip
KEPT = [
    "models:/stemline@champion", "models:/stemline/3 loses 0.2 dB at 10:30, see a@b.org",
    "http://127.0.0.1:4200/api", "s3://bucket/a:b@c/song.wav", "file:///home/a:b@c/x", "http://h/a?b=c&keep=1",
    "/songs/ABBA: S.O.S. @ live/drums.wav", "http://[::1]:8265", "sqlite:////store/mlflow.db", "",
]  # fmt: skip


@pytest.mark.parametrize(("text", "shown"), HIDDEN)
def test_a_password_in_an_address_is_not_shown(text: str, shown: str) -> None:
    assert without_passwords(text) == shown
    assert without_passwords(shown) == shown
    assert str(InputError(text)) == shown


@pytest.mark.parametrize("text", KEPT)
def test_everything_else_stays(text: str) -> None:
    assert without_passwords(text) == text
    assert str(InputError(text)) == text


def test_errors_travel_between_processes() -> None:
    for error in (InputError("x"), Changed("x"), AudioError("silent_source", "http://a:b@c")):
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again)) == (type(error), str(error))


def test_a_password_with_a_quote_is_hidden_and_an_ipv6_address_has_none() -> None:
    assert without_passwords("postgresql://u:pa'ss@db/x") == "postgresql://u:***@db/x"
    assert without_passwords("http://[::1]:8265/a@b") == "http://[::1]:8265/a@b"
