"""MediaFetcher: media by address, fetched in full or refused by a word that tells nothing of what stands there."""

import asyncio
import base64
import gzip
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web

from gateway.protocol.errors import BadRequest
from gateway.upstream import media
from gateway.upstream.media import MAX_MEDIA, MAX_URL_CHARS, MediaFetcher
from gateway.upstream.pool import locate

PIXEL = b"\x89PNG\r\n\x1a\n" + bytes(range(64))
LOOPBACK = ("127.0.0.0/8",)
LIMIT = 1024


@dataclass(slots=True)
class Site:
    """A server of media on a free port of 127.0.0.1, and the requests that it got."""

    port: int = 0
    requests: list[web.Request] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)  # what `/gated` waits for
    is_full: asyncio.Event = field(default_factory=asyncio.Event)  # set when as many wait as may
    waiting: int = 0
    most: int = 0

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        path = request.path
        if path == "/redirect":
            raise web.HTTPFound(self.url("/pixel"))
        if path == "/gated":
            self.waiting += 1
            self.most = max(self.most, self.waiting)
            if self.waiting == media.AT_ONCE:
                self.is_full.set()
            await self.gate.wait()
            self.waiting -= 1
            path = "/pixel"
        if path == "/broken":
            raise web.HTTPInternalServerError(text="secret-of-the-server")
        if path == "/chunked":
            response = web.StreamResponse(headers={"content-type": "image/png"})
            response.enable_chunked_encoding()
            await response.prepare(request)
            for _ in range(4):
                await response.write(bytes(LIMIT // 2))
            return response
        types = {"/html": "application/json", "/pdf": "application/pdf", "/sound": "audio/wav; rate=8000"}
        bodies = {"/full": bytes(LIMIT), "/large": bytes(LIMIT + 1), "/bomb": gzip.compress(bytes(100 * LIMIT))}
        if path not in {*types, *bodies, "/pixel", "/bare"}:
            raise web.HTTPNotFound(text="secret-of-the-server")
        headers = {} if path == "/bare" else {"content-type": types.get(path, "image/png")}
        if path == "/bomb":
            headers["content-encoding"] = "gzip"
        return web.Response(body=bodies.get(path, PIXEL), headers=headers)


@pytest_asyncio.fixture
async def site() -> AsyncIterator[Site]:
    new_site = Site()
    server = web.Server(new_site.answer)
    runner = web.ServerRunner(server)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    new_site.port = runner.addresses[0][1]
    yield new_site
    await runner.cleanup()


@pytest_asyncio.fixture
async def fetcher() -> AsyncIterator[MediaFetcher]:
    """One that may reach this machine."""
    fetcher = MediaFetcher(LOOPBACK)
    yield fetcher
    await fetcher.close()


@pytest_asyncio.fixture
async def guarded() -> AsyncIterator[MediaFetcher]:
    """One that may reach another private network, but not this machine."""
    fetcher = MediaFetcher(("10.99.0.0/16",))
    yield fetcher
    await fetcher.close()


async def refusal(fetcher: MediaFetcher, *urls: str) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        await fetcher.fetch(urls)
    fault = caught.value
    assert fault.status == 400
    assert fault.param == "messages"
    assert "secret" not in fault.message
    assert not any(url in fault.message for url in urls)
    return fault


async def test_an_image_comes_as_base64_with_its_type(site: Site, fetcher: MediaFetcher) -> None:
    url = site.url("/pixel")
    fetched = (await fetcher.fetch([url]))[url]
    assert fetched.media_type == "image/png"
    assert base64.b64decode(fetched.data, validate=True) == PIXEL


async def test_a_types_parameters_are_left_out(site: Site, fetcher: MediaFetcher) -> None:
    pdf, sound = site.url("/pdf"), site.url("/sound")
    fetched = await fetcher.fetch([pdf, sound])
    assert list(fetched) == [pdf, sound]
    assert fetched[pdf].media_type == "application/pdf"
    assert fetched[sound].media_type == "audio/wav"


async def test_nothing_is_sent_that_tells_who_asks(site: Site, fetcher: MediaFetcher) -> None:
    await fetcher.fetch([site.url("/pixel")])
    assert {"authorization", "cookie", "referer"}.isdisjoint(name.lower() for name in site.requests[0].headers)


async def test_duplicates_are_fetched_once(site: Site, fetcher: MediaFetcher) -> None:
    url, other = site.url("/pixel"), site.url("/pdf")
    fetched = await fetcher.fetch([url, other, url, url])
    assert set(fetched) == {url, other}
    assert sorted(request.path for request in site.requests) == ["/pdf", "/pixel"]


async def test_no_media_are_no_request(fetcher: MediaFetcher) -> None:
    assert await fetcher.fetch([]) == {}


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("/html", "of a type that is not taken"),
        ("/bare", "of a type that is not taken"),
        ("/missing", "answered 404"),
        ("/broken", "answered 500"),
    ],
)
async def test_an_answer_that_is_no_medium_is_refused(site: Site, fetcher: MediaFetcher, path: str, why: str) -> None:
    fault = await refusal(fetcher, site.url(path))
    assert why in fault.message
    assert fault.code == "invalid_image_url"


async def test_a_redirect_is_not_followed(site: Site, fetcher: MediaFetcher) -> None:
    assert "answered 302" in (await refusal(fetcher, site.url("/redirect"))).message
    assert [request.path for request in site.requests] == ["/redirect"]


async def test_a_medium_of_the_very_limit_is_taken(
    site: Site, fetcher: MediaFetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(media, "MAX_BYTES", LIMIT)
    url = site.url("/full")
    assert len(base64.b64decode((await fetcher.fetch([url]))[url].data)) == LIMIT


@pytest.mark.parametrize("path", ["/large", "/chunked", "/bomb"])
async def test_a_larger_one_is_refused_however_it_is_sent(
    site: Site, fetcher: MediaFetcher, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr(media, "MAX_BYTES", LIMIT)
    assert f"larger than {LIMIT} bytes" in (await refusal(fetcher, site.url(path))).message


async def test_media_of_the_very_total_are_taken(
    site: Site, fetcher: MediaFetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(media, "MAX_TOTAL_BYTES", 3 * LIMIT)
    urls = [site.url(f"/full?{number}") for number in range(3)]
    assert list(await fetcher.fetch(urls)) == urls
    assert list(await fetcher.fetch(urls)) == urls, "the total is that of one request"


async def test_media_that_are_together_larger_are_refused(
    site: Site, fetcher: MediaFetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(media, "MAX_TOTAL_BYTES", 3 * LIMIT - 1)
    urls = [site.url(f"/full?{number}") for number in range(3)]
    assert f"together larger than {3 * LIMIT - 1} bytes" in (await refusal(fetcher, *urls)).message


def test_the_total_is_less_than_that_of_the_most_and_largest() -> None:
    assert media.MAX_BYTES < media.MAX_TOTAL_BYTES == 64 * 1024 * 1024 < MAX_MEDIA * media.MAX_BYTES


async def test_so_many_are_fetched_at_once_and_no_more(site: Site, fetcher: MediaFetcher) -> None:
    fetching = asyncio.create_task(fetcher.fetch([site.url(f"/gated?{number}") for number in range(MAX_MEDIA)]))
    await site.is_full.wait()
    site.gate.set()
    assert len(await fetching) == MAX_MEDIA
    assert site.most == media.AT_ONCE


async def test_the_rest_is_not_fetched_when_one_is_refused(site: Site, fetcher: MediaFetcher) -> None:
    urls = [site.url("/missing"), *[site.url(f"/pixel?{number}") for number in range(19)]]
    await refusal(fetcher, *urls)
    assert len(site.requests) <= 2 * media.AT_ONCE


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://127.0.0.1/pixel",
        "gopher://127.0.0.1/pixel",
        "unix:///run/secret.sock",
        "data:image/png;base64,AAAA",
        "//127.0.0.1/pixel",
        "pixel.png",
        "",
        "http://user:pass@127.0.0.1/pixel",
        "http://user@127.0.0.1/pixel",
        "http://:pass@127.0.0.1/pixel",
        "http://[::1/pixel",
        "http://",
        "http://127.0.0.1:99999/pixel",
    ],
)
async def test_an_address_that_is_not_plain_http_is_refused(fetcher: MediaFetcher, url: str) -> None:
    with pytest.raises(BadRequest) as caught:
        await fetcher.fetch([url])
    assert caught.value.code == "invalid_image_url"


async def test_an_endless_address_is_refused_before_it_is_read_or_kept(site: Site, fetcher: MediaFetcher) -> None:
    fitting = site.url("/pixel?")
    fitting += "a" * (MAX_URL_CHARS - len(fitting))
    assert await fetcher.fetch([fitting])
    kept = locate.cache_info().misses
    assert "its address is longer" in (await refusal(fetcher, fitting + "a")).message
    assert (len(site.requests), locate.cache_info().misses) == (1, kept)


async def test_more_than_the_count_are_refused_before_any_is_fetched(site: Site, fetcher: MediaFetcher) -> None:
    urls = [site.url(f"/pixel?{number}") for number in range(MAX_MEDIA + 1)]
    assert str(MAX_MEDIA) in (await refusal(fetcher, *urls)).message
    assert not site.requests
    assert len(await fetcher.fetch(urls[:MAX_MEDIA])) == MAX_MEDIA


async def test_one_that_cannot_be_fetched_refuses_all(site: Site, fetcher: MediaFetcher) -> None:
    assert "answered 404" in (await refusal(fetcher, site.url("/pixel"), site.url("/missing"))).message


async def test_a_server_that_is_not_there_is_told(fetcher: MediaFetcher) -> None:
    with socket.socket() as bound_socket:  # bound, but without a listener
        bound_socket.bind(("127.0.0.1", 0))
        port = bound_socket.getsockname()[1]
        assert "cannot be reached" in (await refusal(fetcher, f"http://127.0.0.1:{port}/pixel")).message


async def test_a_server_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media, "TIMEOUT_S", 0.05)
    fetcher = MediaFetcher(LOOPBACK)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        fault = await refusal(fetcher, f"http://127.0.0.1:{silent.getsockname()[1]}/pixel")
    assert "cannot be reached" in fault.message
    await fetcher.close()


# The guard

LOOPBACK_HOSTS = ["127.0.0.1", "127.0.0.2", "[::ffff:127.0.0.1]", "①②⑦.⓪.⓪.①"]


@pytest.mark.parametrize("host", LOOPBACK_HOSTS)
async def test_a_private_address_that_is_not_allowed_is_not_connected_to(
    site: Site, guarded: MediaFetcher, host: str
) -> None:
    assert "not public" in (await refusal(guarded, site.url("/pixel", host))).message
    assert not site.requests


@pytest.mark.parametrize("host", ["2130706433", "127.1", "0177.0.0.1", "127.0.1", "0x7f.1", "0x7f000001", "127.0.0.1."])
async def test_no_other_spelling_of_it_is_connected_to(site: Site, guarded: MediaFetcher, host: str) -> None:
    await refusal(guarded, site.url("/pixel", host))
    assert not site.requests


def resolve_to(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> list[str]:
    """Any name stands for these; returns the names that were asked for."""
    names: list[str] = []

    async def getaddrinfo(host: str, port: int, **_: Any) -> list[Any]:
        names.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (text, port)) for text in addresses]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    return names


@pytest.mark.parametrize("addresses", [("127.0.0.1",), ("8.8.8.8", "127.0.0.1"), ("127.0.0.1", "8.8.8.8")])
async def test_a_name_that_leads_to_a_private_address_is_not_connected_to(
    site: Site, guarded: MediaFetcher, monkeypatch: pytest.MonkeyPatch, addresses: tuple[str, ...]
) -> None:
    resolve_to(monkeypatch, *addresses)
    await refusal(guarded, site.url("/pixel", "pictures.example"))
    assert not site.requests


async def test_a_name_that_leads_to_a_private_address_is_refused_in_the_words_for_one_that_leads_nowhere(
    site: Site, guarded: MediaFetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a client could ask which names the inner network knows."""
    url = site.url("/pixel", "pictures.example")
    resolve_to(monkeypatch, "127.0.0.1")
    leads_inside = await refusal(guarded, url)

    async def unknown(*_: Any, **__: Any) -> list[Any]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", unknown)
    assert (await refusal(guarded, url)).message == leads_inside.message


async def test_a_name_that_leads_to_an_allowed_network_is_fetched_under_its_own_name(
    site: Site, fetcher: MediaFetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = resolve_to(monkeypatch, "127.0.0.1")
    url = site.url("/pixel", "pictures.example")
    assert (await fetcher.fetch([url]))[url].media_type == "image/png"
    assert names == ["pictures.example"], "resolved once: what was judged is what is connected to"
    assert site.requests[0].host == f"pictures.example:{site.port}"


@pytest.mark.parametrize("port", [22, 25, 5432, 6379, 9200, 11211, 65535])
async def test_without_an_allowed_network_only_the_ports_of_the_web_are_dialled(port: int) -> None:
    fetcher = MediaFetcher()
    assert "port is not allowed" in (await refusal(fetcher, f"http://8.8.8.8:{port}/pixel")).message
    await fetcher.close()


@pytest.mark.parametrize("port", [22, 25, 5432, 6379, 65535])
async def test_an_allowed_network_opens_no_port_of_the_public_ones(guarded: MediaFetcher, port: int) -> None:
    assert "port is not allowed" in (await refusal(guarded, f"http://8.8.8.8:{port}/pixel")).message


async def test_a_public_name_is_not_dialled_on_another_port_because_a_network_is_allowed(
    guarded: MediaFetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    dialled: list[Any] = []

    async def start_connection(*args: Any, **_: Any) -> Any:
        dialled.append(args)
        raise OSError

    monkeypatch.setattr("aiohappyeyeballs.start_connection", start_connection)
    resolve_to(monkeypatch, "8.8.8.8")
    assert "cannot be reached" in (await refusal(guarded, "http://pictures.example:6379/pixel")).message
    assert dialled == []
    await refusal(guarded, "http://pictures.example:8080/pixel")
    assert len(dialled) == 1


@pytest.mark.parametrize("start", ["http://127.0.0.1", "https://127.0.0.1", "http://127.0.0.1:8080"])
async def test_nothing_is_allowed_unless_it_is_said(start: str) -> None:
    fetcher = MediaFetcher()
    assert "not public" in (await refusal(fetcher, f"{start}/pixel")).message
    await fetcher.close()


async def test_closing_one_that_fetched_nothing_is_no_error() -> None:
    await MediaFetcher().close()
