"""Signing in to the console: the limit of attempts, the one-time link, the stored sessions and the hashes."""

import threading
from datetime import timedelta
from typing import Any

import pytest
from django.conf import settings
from django.contrib.auth.hashers import check_password, make_password
from django.contrib.sessions.models import Session
from django.core.management import call_command
from django.test import Client, override_settings
from django.utils import timezone

from gateway.console import password_hasher
from gateway.server.address import console_base
from tenants.access import create_login_link
from tenants.models import LoginAttempts, LoginLink, User

pytestmark = pytest.mark.django_db

PASSWORD = "correct horse battery"
LOGIN = "/console/login/"


@pytest.fixture
def admin(db: None) -> User:
    user: User = User.objects.create_superuser("root", password=PASSWORD)
    return user


def sign_in(client: Client, password: str, *, username: str = "root", address: str = "192.0.2.1", **extra: Any) -> Any:
    return client.post(LOGIN, {"username": username, "password": password}, REMOTE_ADDR=address, **extra)


# The limit


def test_a_sixth_attempt_at_an_account_is_refused_also_with_the_right_password(client: Client, admin: User) -> None:
    for number in range(5):
        assert sign_in(client, "wrong", address=f"192.0.2.{number}").status_code == 200
    answer = sign_in(client, PASSWORD, address="192.0.2.99")
    assert answer.status_code == 429
    assert 0 < int(answer["Retry-After"]) <= 900
    assert "Too many failed sign-ins. Try again in 15 minutes." in answer.content.decode()
    LoginAttempts.objects.update(since=timezone.now() - timedelta(minutes=15))
    assert sign_in(client, PASSWORD).status_code == 302
    assert not LoginAttempts.objects.exists()


def test_a_sixth_attempt_from_an_address_is_refused_and_other_addresses_are_not(client: Client, admin: User) -> None:
    for number in range(5):
        assert sign_in(client, "wrong", username=f"user-{number}").status_code == 200
    for number in range(50):
        assert sign_in(client, "wrong", username=f"other-{number}").status_code == 429
    assert LoginAttempts.objects.count() == 6  # a refused attempt leaves no row
    assert sign_in(client, PASSWORD, address="192.0.2.2").status_code == 302


def test_the_name_of_an_account_counts_in_any_spelling(client: Client, admin: User) -> None:
    names = ("root", "ROOT", "Root", "ｒｏｏｔ", "rOOT")
    for number, name in enumerate(names):
        assert sign_in(client, "wrong", username=name, address=f"192.0.2.{number}").status_code == 200
    assert sign_in(client, PASSWORD, address="192.0.2.99").status_code == 429


def test_a_client_cannot_choose_its_address(client: Client, admin: User) -> None:
    for number in range(6):
        last = sign_in(client, "wrong", username=f"user-{number}", HTTP_X_FORWARDED_FOR=f"198.51.100.{number}")
    assert last.status_code == 429


def test_a_success_forgets_the_failures_before(client: Client, admin: User) -> None:
    for _ in range(3):
        for _ in range(4):
            assert sign_in(client, "wrong").status_code == 200
        assert sign_in(client, PASSWORD).status_code == 302
        client.logout()


# The link


def test_a_preview_of_the_link_does_not_use_it_up(admin: User) -> None:
    browser = Client(enforce_csrf_checks=True)
    path = f"{LOGIN}link/{create_login_link(admin)}/"
    for method in (browser.get, browser.get):
        page = method(path)
        assert page.status_code == 200
        assert settings.SESSION_COOKIE_NAME not in browser.cookies
    assert browser.head(path).status_code == 405
    assert browser.post(path).status_code == 403
    assert LoginLink.objects.exists()
    assert page["Referrer-Policy"] == "same-origin"
    answer = browser.post(path, {"csrfmiddlewaretoken": browser.cookies["csrftoken"].value})
    assert (answer.status_code, answer["Location"]) == (302, "/console/")
    assert Client().get(path).status_code == Client().post(path).status_code == 403


def test_the_command_prints_a_link_that_works(client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    call_command("login_link", "--base", "https://gate.example.org/")
    base, slash, path = capsys.readouterr().out.strip().partition("/console")
    assert base == "https://gate.example.org"
    assert client.post(slash + path)["Location"] == "/console/"


@pytest.mark.parametrize(
    ("host", "allowed", "is_tls", "base"),
    [
        ("127.0.0.1", ["localhost", "127.0.0.1", "[::1]"], False, "http://127.0.0.1:4000"),
        ("0.0.0.0", ["*"], False, "http://127.0.0.1:4000"),
        ("::", ["*"], False, "http://[::1]:4000"),
        ("fd00::7", ["*"], False, "http://[fd00::7]:4000"),
        ("0.0.0.0", ["gate.example.org"], False, "http://gate.example.org:4000"),
        ("0.0.0.0", ["gate.example.org"], True, "https://gate.example.org"),
    ],
)
def test_the_printed_address_can_be_opened(host: str, allowed: list[str], is_tls: bool, base: str) -> None:
    with override_settings(ALLOWED_HOSTS=allowed, TOLLGATE_TLS=is_tls):
        assert console_base(host, 4000) == base


# The sessions


def test_the_key_of_a_session_is_not_in_the_database(client: Client, admin: User) -> None:
    client.force_login(admin)
    key = client.cookies[settings.SESSION_COOKIE_NAME].value
    stored = Session.objects.get()
    assert key not in (stored.session_key, stored.session_data)
    assert client.get("/console/").status_code == 200

    thief = Client()
    thief.cookies[settings.SESSION_COOKIE_NAME] = stored.session_key
    assert thief.get("/console/").status_code == 302

    client.logout()
    assert not Session.objects.exists()
    client.cookies[settings.SESSION_COOKIE_NAME] = key
    assert client.get("/console/").status_code == 302


def test_a_session_of_an_earlier_version_has_ended(client: Client, admin: User) -> None:
    client.force_login(admin)
    stored = Session.objects.get()
    key = client.cookies[settings.SESSION_COOKIE_NAME].value
    Session.objects.create(session_key=key, session_data=stored.session_data, expire_date=stored.expire_date)
    stored.delete()
    assert client.get("/console/").status_code == 302


# The hashes


class Watch:
    """Counts the hashes that run at once, around the lock of the hasher."""

    def __init__(self, lock: threading.Semaphore) -> None:
        self._lock = lock
        self.running = self.most = self.total = 0

    def __enter__(self) -> None:
        self._lock.acquire()
        self.running += 1
        self.total += 1
        self.most = max(self.most, self.running)

    def __exit__(self, *_: object) -> None:
        self.running -= 1
        self._lock.release()


def test_one_password_is_hashed_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = Watch(password_hasher._HASHING)
    monkeypatch.setattr(password_hasher, "_HASHING", watch)
    hasher = "gateway.console.password_hasher.BoundedArgon2PasswordHasher"
    with override_settings(PASSWORD_HASHERS=[hasher]):
        stored = make_password(PASSWORD)
        assert "m=47104,t=1,p=1" in stored  # bounded memory, and a single thread
        threads = [threading.Thread(target=check_password, args=(PASSWORD, stored)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert (watch.most, watch.total) == (1, 9)
