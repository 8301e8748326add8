"""The address at which a browser on this host reaches the gateway."""

from django.conf import settings

ANY_HOST = frozenset({"0.0.0.0", "::"})  # noqa: S104 - compared with, not listened on


def console_base(host: str, port: int) -> str:
    """The base URL: of an allowed host where only some are allowed, over TLS where a proxy ends it."""
    name = host.strip("[]")
    local = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(name, name)  # noqa: S104
    shown = f"[{local}]" if ":" in local else local
    public = [allowed.lstrip(".") for allowed in settings.ALLOWED_HOSTS if allowed != "*"]
    if settings.TOLLGATE_TLS and public:
        return f"https://{public[0]}"  # the proxy listens on the usual port
    if public and shown not in public:
        shown = public[0]
    return f"http://{shown}:{port}"
