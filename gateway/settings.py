"""All settings, in one file, the only reader of `os.environ`.

Every variable is named in docs/settings.md (a test compares the two). A value that cannot be used stops the
start with the variable's name. A secret `X` may also be given as `X_FILE`, the path of a file that holds it.
"""

import contextlib
import errno
import ipaddress
import logging
import os
import secrets as random_secrets
import stat
import sys
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit
from zoneinfo import ZoneInfo

import dj_database_url
from django.core.exceptions import ImproperlyConfigured

from gateway.console import unfold
from gateway.version import VERSION

Value = TypeVar("Value")

MAX_NUMBER = 1e9  # of seconds: a timer takes no more
MAX_WHOLE_NUMBER = 1e15
FERNET_KEY_BYTES = 32
REDIS_SCHEMES = frozenset({"redis", "rediss", "sentinel"})


def env_text(name: str, default: str = "") -> str:
    path = os.environ.get(f"{name}_FILE")
    if path:
        try:
            return Path(path).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise ImproperlyConfigured(f"{name}_FILE: cannot read {path}: {reason}") from None
    return os.environ.get(name, default)


def env_number(name: str, default: float, minimum: float = 0, maximum: float = MAX_NUMBER) -> float:
    text = os.environ.get(name, "")
    try:
        value = float(text or default)
    except ValueError:
        raise ImproperlyConfigured(f"{name} must be a number, not {text!r}") from None
    if not minimum <= value <= maximum:
        raise ImproperlyConfigured(f"{name} must be a number from {minimum:g} to {maximum:.12g}, not {text!r}")
    return value


def env_int(name: str, default: int, minimum: int = 0, maximum: float = MAX_WHOLE_NUMBER) -> int:
    value = env_number(name, default, minimum, maximum)
    if not value.is_integer():
        raise ImproperlyConfigured(f"{name} must be a whole number, not {value}")
    return int(value)


def env_bool(name: str, default: bool) -> bool:
    text = os.environ.get(name, "").lower()
    if text not in {"", "1", "0", "true", "false", "yes", "no", "on", "off"}:
        raise ImproperlyConfigured(f"{name} must be true or false, not {text!r}")
    return text in {"1", "true", "yes", "on"} if text else default


def env_list(name: str, default: list[str]) -> list[str]:
    text = env_text(name)
    return split_list(text) if text else default


def split_list(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def check_smtp(url: str) -> None:
    parts = urlsplit(url)
    if url and (parts.scheme not in {"smtp", "smtp+tls", "smtps"} or not parts.hostname or parts.port == 0):
        raise ValueError


def checked(name: str, value: Value, check: Callable[[Value], object], needed: str) -> Value:
    """The value, unless `check` raises ValueError. The message leaves the value out: it may hold a password."""
    try:
        check(value)
    except ValueError:
        raise ImproperlyConfigured(f"{name} must be {needed}") from None
    return value


def make_folder(folder: Path) -> Path:
    """The folder, which only this user may enter."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        make_private(folder)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, "it cannot be written")
    except OSError as error:
        raise ImproperlyConfigured(f"TOLLGATE_HOME: cannot use the folder {folder}: {error.strerror}") from None
    return folder


def make_private(path: Path) -> None:
    """Takes the rights of other users away, except at a shared folder such as /tmp and where another user owns it."""
    with contextlib.suppress(FileNotFoundError, PermissionError):
        mode = path.lstat().st_mode
        if stat.S_IMODE(mode) & 0o077 and not mode & stat.S_ISVTX and not stat.S_ISLNK(mode):
            path.chmod(stat.S_IMODE(mode) & 0o700)


def make_home_private(home: Path) -> None:
    """The files that an earlier version left readable. The umask sees to the new ones."""
    for pattern in ("db.sqlite3*", "start.lock", "secrets", "spool", "broker", "metrics"):
        for path in home.glob(pattern):
            make_private(path)
            for below in path.rglob("*"):
                make_private(below)


def generated_secret(name: str, make: Callable[[], str]) -> str:
    """A secret in TOLLGATE_HOME/secrets (mode 0600), generated on first use; two processes may do so at once."""
    folder = make_folder(TOLLGATE_HOME / "secrets")
    path = folder / name
    if not path.exists():
        draft = folder / f".{name}.{os.getpid()}"
        draft.touch(mode=0o600)
        draft.write_text(make(), encoding="ascii")
        try:
            os.link(draft, path)  # atomic: the first process wins, with the whole content
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    return path.read_text(encoding="ascii")


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def check_fernet_keys(keys: list[str]) -> None:
    for key in keys:
        if len(urlsafe_b64decode(key)) != FERNET_KEY_BYTES:
            raise ValueError


def check_redis_url(url: str) -> None:
    if url and not (urlsplit(url).scheme in REDIS_SCHEMES and urlsplit(url).netloc):
        raise ValueError
    urlsplit(url).port  # noqa: B018 - raises ValueError where it is no port


def check_networks(networks: list[str]) -> None:
    for network in networks:
        ipaddress.ip_network(network)


def check_proxy(url: str) -> None:
    parts = urlsplit(url)
    usable = url.isascii() and url.isprintable() and " " not in url
    if url and not (parts.scheme == "http" and parts.hostname and usable):
        raise ValueError
    parts.port  # noqa: B018 - raises ValueError where it is no port


def environment_proxy(scheme: str) -> str:
    """The proxy in the variables that most programs read, such as HTTPS_PROXY."""
    for name in (f"{scheme}_proxy", "all_proxy"):
        for variable in (name, name.upper()):
            if url := os.environ.get(variable, ""):
                url = url if "://" in url else f"http://{url}"
                return checked(variable, url, check_proxy, "an http:// address (or TOLLGATE_UPSTREAM_PROXY=direct)")
    return ""


def check_direct_hosts(hosts: list[str]) -> None:
    for host in hosts:
        name, colon, port = host.rpartition(":")
        if colon and ":" not in name:
            int(port)


def check_origins(origins: list[str]) -> None:
    for origin in origins:
        if not (urlsplit(origin).scheme and urlsplit(origin).netloc):
            raise ValueError


def check_database_url(url: str) -> None:
    if url:
        dj_database_url.parse(url)


def check_zone(name: str) -> None:
    try:
        ZoneInfo(name)
    except (KeyError, OSError):
        raise ValueError from None


def check_log_level(level: str) -> None:
    if level not in logging.getLevelNamesMapping():
        raise ValueError


def check_cache_scope(scope: str) -> None:
    if scope not in {"organization", "team", "key"}:
        raise ValueError


def fernet_key() -> str:
    """The same as Fernet.generate_key(), without 30 ms for the import of its package."""
    return urlsafe_b64encode(random_secrets.token_bytes(32)).decode("ascii")


BASE_DIR = Path(__file__).resolve().parent.parent

# Where the gateway lives and listens
os.umask(0o077)
TOLLGATE_HOME = make_folder(Path(env_text("TOLLGATE_HOME", "var")).resolve())
make_home_private(TOLLGATE_HOME)
HOST = env_text("HOST", "127.0.0.1")
HOST_IS_LOOPBACK = is_loopback(HOST)
PORT = env_int("PORT", 4000, maximum=65535)
WEB_CONCURRENCY = env_int("WEB_CONCURRENCY", 1, minimum=1, maximum=1024)
TOLLGATE_CONFIG = env_text("TOLLGATE_CONFIG")
TOLLGATE_MIGRATE = env_bool("TOLLGATE_MIGRATE", True)

# Secrets
TOLLGATE_MASTER_KEY = env_text("TOLLGATE_MASTER_KEY") or env_text("LITELLM_MASTER_KEY")
SECRET_KEY = env_text("TOLLGATE_SECRET_KEY") or generated_secret("secret_key", lambda: random_secrets.token_urlsafe(48))
# The first key encrypts, all of them decrypt (MultiFernet).
TOLLGATE_ENCRYPTION_KEYS = checked(
    "TOLLGATE_ENCRYPTION_KEYS",
    env_list("TOLLGATE_ENCRYPTION_KEYS", []) or generated_secret("encryption_keys", fernet_key).split(","),
    check_fernet_keys,
    "Fernet keys (32 bytes in URL-safe base64), separated by commas",
)

# The data plane
TOLLGATE_MAX_BODY_BYTES = env_int("TOLLGATE_MAX_BODY_BYTES", 32 * 1024 * 1024, minimum=1024)
TOLLGATE_MAX_CALL_TOKENS = env_int("TOLLGATE_MAX_CALL_TOKENS", 100_000_000, minimum=1)
TOLLGATE_MAX_UPSTREAM_BYTES = env_int("TOLLGATE_MAX_UPSTREAM_BYTES", 32 * 1024 * 1024, minimum=1024)
TOLLGATE_CONNECT_TIMEOUT_S = env_number("TOLLGATE_CONNECT_TIMEOUT_S", 5, minimum=0.01)
TOLLGATE_TIMEOUT_S = env_number("TOLLGATE_TIMEOUT_S", 600, minimum=0.01)
TOLLGATE_STREAM_IDLE_TIMEOUT_S = env_number("TOLLGATE_STREAM_IDLE_TIMEOUT_S", 60, minimum=0.01)
TOLLGATE_KEEPALIVE_S = env_number("TOLLGATE_KEEPALIVE_S", 15, minimum=0.05)
TOLLGATE_STALLED_CLIENT_S = env_number("TOLLGATE_STALLED_CLIENT_S", 120, minimum=0.05)
TOLLGATE_STREAM_TIMEOUT_S = env_number("TOLLGATE_STREAM_TIMEOUT_S", 3600, minimum=0.05)
#: Seconds between two probes of a deployment; 0: none.
TOLLGATE_HEALTH_CHECK_INTERVAL_S = env_int("TOLLGATE_HEALTH_CHECK_INTERVAL_S", 0, minimum=0, maximum=86400)
TOLLGATE_METRICS_AUTH = env_bool("TOLLGATE_METRICS_AUTH", True)
TOLLGATE_RETENTION_DAYS = env_int("TOLLGATE_RETENTION_DAYS", 30, minimum=1, maximum=36500)
#: Of the spend log; 0: for ever. A week at least: the spool of a process that was away may still correct its rows.
TOLLGATE_SPEND_LOG_RETENTION_DAYS = env_int("TOLLGATE_SPEND_LOG_RETENTION_DAYS", 0, minimum=0, maximum=36500)
if 0 < TOLLGATE_SPEND_LOG_RETENTION_DAYS < 7:
    raise ImproperlyConfigured("TOLLGATE_SPEND_LOG_RETENTION_DAYS must be 0, for ever, or at least 7")
#: Of the sums of reports; 0: for ever. They stay at least as long as the rows that they are the sums of.
TOLLGATE_ROLLUP_RETENTION_DAYS = env_int("TOLLGATE_ROLLUP_RETENTION_DAYS", 0, minimum=0, maximum=36500)
#: Of their part by quarters of an hour; 0: as long as the days.
TOLLGATE_QUARTER_HOUR_RETENTION_DAYS = env_int("TOLLGATE_QUARTER_HOUR_RETENTION_DAYS", 0, minimum=0, maximum=36500)
for _name, _days in (
    ("TOLLGATE_ROLLUP_RETENTION_DAYS", TOLLGATE_ROLLUP_RETENTION_DAYS),
    ("TOLLGATE_QUARTER_HOUR_RETENTION_DAYS", TOLLGATE_QUARTER_HOUR_RETENTION_DAYS),
):
    if _days and not TOLLGATE_SPEND_LOG_RETENTION_DAYS:
        raise ImproperlyConfigured(f"{_name} needs TOLLGATE_SPEND_LOG_RETENTION_DAYS: sums go after their rows")
    if 0 < _days < TOLLGATE_SPEND_LOG_RETENTION_DAYS:
        raise ImproperlyConfigured(f"{_name} must be 0 or at least TOLLGATE_SPEND_LOG_RETENTION_DAYS")
if 0 < TOLLGATE_ROLLUP_RETENTION_DAYS < TOLLGATE_QUARTER_HOUR_RETENTION_DAYS:
    raise ImproperlyConfigured("TOLLGATE_QUARTER_HOUR_RETENTION_DAYS must not exceed TOLLGATE_ROLLUP_RETENTION_DAYS")
TOLLGATE_MAX_STORED_BYTES = env_int("TOLLGATE_MAX_STORED_BYTES", 32 * 1024 * 1024, minimum=1024)
TOLLGATE_MAX_ORGANIZATION_BYTES = env_int("TOLLGATE_MAX_ORGANIZATION_BYTES", 100 * 1024**3, minimum=1024)
TOLLGATE_BACKGROUND_PER_KEY = env_int("TOLLGATE_BACKGROUND_PER_KEY", 10, minimum=1)
TOLLGATE_BACKGROUND_PER_ORGANIZATION = env_int("TOLLGATE_BACKGROUND_PER_ORGANIZATION", 20, minimum=1)
TOLLGATE_QUEUED_PER_KEY = env_int("TOLLGATE_QUEUED_PER_KEY", 1_000, minimum=1)
TOLLGATE_QUEUED_PER_ORGANIZATION = env_int("TOLLGATE_QUEUED_PER_ORGANIZATION", 5_000, minimum=1)
TOLLGATE_REPORTS_AT_ONCE = env_int("TOLLGATE_REPORTS_AT_ONCE", 4, minimum=1)
TOLLGATE_REPORT_TIMEOUT_S = env_number("TOLLGATE_REPORT_TIMEOUT_S", 60, minimum=0.05)
#: End users, and tags, of one organization that the rollups of a day name; later ones are "other".
TOLLGATE_ROLLUP_NAMES = env_int("TOLLGATE_ROLLUP_NAMES", 10_000, minimum=0, maximum=1_000_000)
# The response cache: room for all answers together, 0 for none; the room of one; who shares answers
TOLLGATE_CACHE_BYTES = env_int("TOLLGATE_CACHE_BYTES", 32 * 1024 * 1024)
TOLLGATE_CACHE_ENTRY_BYTES = env_int("TOLLGATE_CACHE_ENTRY_BYTES", 1024 * 1024, minimum=1024, maximum=8 * 1024 * 1024)
TOLLGATE_CACHE_TTL_S = env_number("TOLLGATE_CACHE_TTL_S", 600, minimum=0.05)
TOLLGATE_CACHE_MAX_TTL_S = env_number("TOLLGATE_CACHE_MAX_TTL_S", 86_400, minimum=0.05)
TOLLGATE_CACHE_SCOPE = checked(
    "TOLLGATE_CACHE_SCOPE",
    env_text("TOLLGATE_CACHE_SCOPE", "organization"),
    check_cache_scope,
    "organization, team or key",
)
TOLLGATE_DEFAULT_OUTPUT_TOKENS = env_int("TOLLGATE_DEFAULT_OUTPUT_TOKENS", 4096, minimum=0)
TOLLGATE_RATE_LIMITS_FAIL_CLOSED = env_bool("TOLLGATE_RATE_LIMITS_FAIL_CLOSED", False)
#: Usage in streams has the cost of the answer, for clients that do not say whether they want it.
TOLLGATE_STREAM_COST = env_bool("TOLLGATE_STREAM_COST", False)
TOLLGATE_RATELIMIT_DRAFT_HEADERS = env_bool("TOLLGATE_RATELIMIT_DRAFT_HEADERS", False)
TOLLGATE_BUDGET_STATUS = env_int("TOLLGATE_BUDGET_STATUS", 429, minimum=400, maximum=499)
TOLLGATE_LOWER_MAX_TOKENS = env_bool("TOLLGATE_LOWER_MAX_TOKENS", False)
TOLLGATE_DB_OUTAGE_GRACE_S = env_number("TOLLGATE_DB_OUTAGE_GRACE_S", 300)
# Private networks (CIDR) from which media may be fetched for providers that take them inline only
TOLLGATE_MEDIA_NETWORKS = checked(
    "TOLLGATE_MEDIA_NETWORKS",
    env_list("TOLLGATE_MEDIA_NETWORKS", []),
    check_networks,
    "networks such as 10.0.0.0/8, separated by commas",
)
# Private networks (CIDR) in which the channels of alerts may be
TOLLGATE_WEBHOOK_NETWORKS = checked(
    "TOLLGATE_WEBHOOK_NETWORKS",
    env_list("TOLLGATE_WEBHOOK_NETWORKS", []),
    check_networks,
    "networks such as 10.0.0.0/8, separated by commas",
)
# The mail server of alerts
TOLLGATE_SMTP_URL = checked(
    "TOLLGATE_SMTP_URL",
    env_text("TOLLGATE_SMTP_URL"),
    check_smtp,
    "smtp://[user:password@]host[:port], smtp+tls:// for STARTTLS, or smtps://",
)
_MAIL_SERVER = urlsplit(TOLLGATE_SMTP_URL)
EMAIL_HOST = _MAIL_SERVER.hostname or ""
EMAIL_PORT = _MAIL_SERVER.port or (465 if _MAIL_SERVER.scheme == "smtps" else 25)
EMAIL_HOST_USER, EMAIL_HOST_PASSWORD = unquote(_MAIL_SERVER.username or ""), unquote(_MAIL_SERVER.password or "")
EMAIL_USE_SSL, EMAIL_USE_TLS = _MAIL_SERVER.scheme == "smtps", _MAIL_SERVER.scheme == "smtp+tls"
EMAIL_TIMEOUT = 10
DEFAULT_FROM_EMAIL = env_text("TOLLGATE_EMAIL_FROM", "tollgate@localhost")
# The proxy for upstreams. Without the first the usual variables of the environment count; `direct` is for none
DIRECT = "direct"
TOLLGATE_UPSTREAM_PROXY = checked(
    "TOLLGATE_UPSTREAM_PROXY",
    env_text("TOLLGATE_UPSTREAM_PROXY"),
    lambda url: check_proxy("" if url == DIRECT else url),
    "http://[user:password@]host:port, or direct",
)
UPSTREAM_PROXIES = {
    scheme: TOLLGATE_UPSTREAM_PROXY.removeprefix(DIRECT) if TOLLGATE_UPSTREAM_PROXY else environment_proxy(scheme)
    for scheme in ("http", "https")
}
UPSTREAM_NO_PROXY = checked(
    "TOLLGATE_UPSTREAM_NO_PROXY",
    env_list("TOLLGATE_UPSTREAM_NO_PROXY", split_list(os.environ.get("no_proxy") or os.environ.get("NO_PROXY", ""))),
    check_direct_hosts,
    "hosts, .suffixes, addresses and networks, separated by commas",
)
TOLLGATE_DRAIN_GRACE_S = env_number("TOLLGATE_DRAIN_GRACE_S", 300)
TOLLGATE_DRAIN_DELAY_S = env_number("TOLLGATE_DRAIN_DELAY_S", 1)

# Databases and broker
DATABASE_URL = env_text("DATABASE_URL")
REDIS_URL = checked("REDIS_URL", env_text("REDIS_URL"), check_redis_url, "a redis:// or rediss:// address, or unset")
HAS_SHARED_RATE_LIMITS = urlsplit(REDIS_URL).scheme in {"redis", "rediss"}
SQLITE: dict[str, Any] = {
    "ENGINE": "django.db.backends.sqlite3",
    "NAME": TOLLGATE_HOME / "db.sqlite3",
    "OPTIONS": {
        "timeout": 20,
        "transaction_mode": "IMMEDIATE",  # a reader that later writes would fail with SQLITE_BUSY at once
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA secure_delete=ON;",
    },
}
# Unless DATABASE_URL says otherwise: a network that delivers nothing counts as an outage after seconds
POSTGRESQL: dict[str, int] = {
    "connect_timeout": 3,
    "keepalives": 1,
    "keepalives_idle": 5,
    "keepalives_interval": 3,
    "keepalives_count": 2,
    "tcp_user_timeout": 10_000,
}
checked(
    "DATABASE_URL",
    DATABASE_URL,
    check_database_url,
    "a postgresql:// address, its name and password percent-encoded (or unset, for SQLite)",
)
DATABASES: dict[str, Any] = {
    "default": dj_database_url.parse(DATABASE_URL) if DATABASE_URL else SQLITE,
}
if DATABASES["default"]["ENGINE"] not in {"django.db.backends.sqlite3", "django.db.backends.postgresql"}:
    raise ImproperlyConfigured("DATABASE_URL must be a postgresql:// address (or unset, for SQLite)")
if DATABASE_URL and DATABASES["default"]["ENGINE"].endswith("sqlite3"):
    DATABASES["default"] = {**SQLITE, "NAME": DATABASES["default"]["NAME"]}
elif DATABASE_URL:
    DATABASES["default"]["OPTIONS"] = POSTGRESQL | DATABASES["default"].get("OPTIONS", {})
TOLLGATE_ROW_SECURITY = env_bool("TOLLGATE_ROW_SECURITY", False)
if TOLLGATE_ROW_SECURITY:
    if not DATABASES["default"]["ENGINE"].endswith("postgresql"):
        raise ImproperlyConfigured("TOLLGATE_ROW_SECURITY needs PostgreSQL: set DATABASE_URL")
    DATABASES["default"]["ENGINE"] = "tenants.row_security"  # its connections follow the active scope
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

CELERY_FOLDER = TOLLGATE_HOME / "broker"
if not REDIS_URL:
    make_folder(CELERY_FOLDER / "control")
CELERY = {
    "broker_url": REDIS_URL or "folder://",  # see server/folder_broker.py
    "broker_connection_retry_on_startup": True,
    "broker_transport_options": {"visibility_timeout": 300}
    if REDIS_URL
    else {
        "data_folder_in": str(CELERY_FOLDER),
        "data_folder_out": str(CELERY_FOLDER),
        "control_folder": str(CELERY_FOLDER / "control"),
        "polling_interval": 0.2,
    },
    "task_acks_late": True,
    "task_reject_on_worker_lost": True,
    "worker_prefetch_multiplier": 1,
    "task_soft_time_limit": 30,
    "task_time_limit": 60,
    "task_ignore_result": True,
    "accept_content": ["json"],
    "task_default_queue": "tollgate",
    "worker_hijack_root_logger": False,
    "beat_scheduler": "gateway.server.beat:Scheduler",  # nothing to remember between starts, so no file to share
    "timezone": "UTC",
}

# Django
INSTALLED_APPS = [
    "gateway.apps.GatewayConfig",
    "tenants.apps.TenantsConfig",
    "billing.apps.BillingConfig",
    "unfold.apps.BasicAppConfig",  # its default config would replace the console's AdminSite
    "unfold.contrib.filters",
    "gateway.console.apps.ConsoleConfig",
    "channels",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",  # the files of the page /api/docs
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "csp",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "gateway.console.static_files.CompressedStaticMiddleware",
    "django.middleware.gzip.GZipMiddleware",
    "csp.middleware.CSPMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "gateway.console.audit.AuditMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
ROOT_URLCONF = "gateway.urls"
ASGI_APPLICATION = "gateway.asgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "libraries": {"compact_cells": "gateway.console.compact_cells"},
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    }
]
AUTH_USER_MODEL = "tenants.User"
PASSWORD_HASHERS = [
    "gateway.console.password_hasher.BoundedArgon2PasswordHasher",
    "django.contrib.auth.hashers.PBKDF2PasswordHasher",
]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in ("UserAttributeSimilarityValidator", "MinimumLengthValidator", "CommonPasswordValidator")
]
LOGIN_URL = "/console/login/"
LOGIN_REDIRECT_URL = "/console/"

# A console on plain HTTP is the normal first visit, so cookies are marked Secure only where TLS is declared.
TOLLGATE_TLS = env_bool("TOLLGATE_TLS", False)
ALLOWED_HOSTS = env_list("TOLLGATE_ALLOWED_HOSTS", ["localhost", "127.0.0.1", "[::1]"] if HOST_IS_LOOPBACK else ["*"])
CSRF_TRUSTED_ORIGINS = checked(
    "TOLLGATE_TRUSTED_ORIGINS",
    env_list("TOLLGATE_TRUSTED_ORIGINS", []),
    check_origins,
    "origins such as https://gate.example.org, separated by commas",
)
SESSION_COOKIE_NAME = "__Host-tollgate" if TOLLGATE_TLS else "tollgate"
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = TOLLGATE_TLS
SESSION_ENGINE = "gateway.console.session_store"
SESSION_COOKIE_AGE = 12 * 3600
SESSION_COOKIE_HTTPONLY = CSRF_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = CSRF_COOKIE_SAMESITE = "Lax"
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "no-referrer"
# On plain HTTP, except on loopback, browsers ignore this header and say so in their console on every page.
SECURE_CROSS_ORIGIN_OPENER_POLICY = "same-origin" if TOLLGATE_TLS else None
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if TOLLGATE_TLS else None
X_FRAME_OPTIONS = "DENY"
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": ["'self'"],
        "script-src": ["'self'", "'unsafe-eval'"],  # Unfold's Alpine evaluates its attributes
        "style-src": ["'self'", "'unsafe-inline'"],
        "img-src": ["'self'", "data:"],
        "frame-ancestors": ["'none'"],
        "form-action": ["'self'"],
        "base-uri": ["'none'"],
        "object-src": ["'none'"],
    }
}
DATA_UPLOAD_MAX_MEMORY_SIZE = 1024 * 1024  # no more arrives: gateway/edge/body_limit.py

LANGUAGE_CODE = "en"
LANGUAGES = [("en", "English")]  # the one language whose catalogue is complete
USE_I18N = True
USE_TZ = True
TIME_ZONE = checked(
    "TOLLGATE_TIME_ZONE", env_text("TOLLGATE_TIME_ZONE", "UTC"), check_zone, "a name such as Asia/Shanghai"
)

STATIC_URL = "/static/"
SERVESTATIC_USE_FINDERS = True  # nothing to collect: files are served from the installed packages
SERVESTATIC_AUTOREFRESH = False

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["tenants.rest.authentication.BearerAuthentication"],
    "DEFAULT_PERMISSION_CLASSES": ["tenants.rest.authentication.HasReach"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["tenants.rest.json_body.StrictJSONParser"],
    "EXCEPTION_HANDLER": "tenants.rest.problems.render_problem",
    "UNAUTHENTICATED_USER": None,
    "COERCE_DECIMAL_TO_STRING": True,
}
SPECTACULAR_SETTINGS: dict[str, Any] = {
    "TITLE": "Tollgate's management API",
    "DESCRIPTION": "Organizations, teams, users, keys, limits, budgets, deployments, spend and the audit log.",
    "VERSION": VERSION,
    "SCHEMA_PATH_PREFIX": "/api/",
    "PREPROCESSING_HOOKS": ["tenants.api.schema.select_endpoints"],
    "ENUM_GENERATE_CHOICE_DESCRIPTION": False,
    "ENUM_NAME_OVERRIDES": {
        "UserRoleEnum": "tenants.api.users.ROLES",
        "MemberRoleEnum": "tenants.models.Membership.Role",
        "InvoiceProviderEnum": "billing.rest.invoices.SOURCE_NAMES",
        "ProviderEnum": "gateway.rest.deployment_resource.PROVIDER_NAMES",
    },
    "APPEND_COMPONENTS": {"securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
}

LOG_LEVEL = checked(
    "TOLLGATE_LOG_LEVEL", env_text("TOLLGATE_LOG_LEVEL", "INFO").upper(), check_log_level, "a level such as INFO"
)
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"json": {"()": "gateway.observe.JsonFormatter"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "json", "stream": sys.stderr}},
    "root": {"handlers": ["stderr"], "level": LOG_LEVEL},
    "loggers": {
        "django.request": {"level": "ERROR"},  # its warnings contain paths, and a path may contain a key
        "httpx": {"level": "WARNING"},
        "celery": {"level": "WARNING"},
        "kombu": {"level": "ERROR"},  # warns that the folder transport has no host name
        "uvicorn": {"level": "WARNING"},
        "daphne": {"level": "WARNING"},
    },
}

# The console
STATICFILES_DIRS = [BASE_DIR / "gateway" / "console" / "static"]
UNFOLD = unfold.UNFOLD

# The variables that `os.environ/NAME` in a config.yaml refers to
ENVIRONMENT: Mapping[str, str] = os.environ
