"""The pages in a real browser: its clock against the server's, which is the same one here; both colour schemes, and a phone."""

import base64
import http.server
import threading
from collections.abc import Iterator

import pytest
from cryptography.hazmat.primitives.hashes import SHA256

from tests.support.chromium import Browser, Page, needs_chromium
from tests.support.short_certificate import key_hash, short_certificate
from tests.support.threads import ServerThread
from tsq.options import Target, WebOptions
from tsq.quic.selfsigned import CertificateFiles
from tsq.server.web.access import Origins

pytestmark = [pytest.mark.foreign, needs_chromium]
PHONE = {"width": 360, "height": 700, "phone": True}


@pytest.fixture(scope="module")
def short(tmp_path_factory) -> CertificateFiles:
    return short_certificate(tmp_path_factory.mktemp("short"))


@pytest.fixture(scope="module")
def web(short) -> Iterator[ServerThread]:
    """A server with HTTP/3, and its pages over HTTP/1.1."""
    with ServerThread(["127.0.0.1:0"], short, http3=True, web=WebOptions(version="1.2.3")) as running:
        running.call(running.server.site.start, Target("127.0.0.1", 0))
        yield running


@pytest.fixture(scope="module")
def browser(tmp_path_factory, web, short) -> Iterator[Browser]:
    pin = base64.b64encode(key_hash(short)).decode()
    flags = (f"--origin-to-force-quic-on={web.target}", f"--ignore-certificate-errors-spki-list={pin}")
    with Browser(tmp_path_factory.mktemp("profile"), *flags) as running:
        yield running


@pytest.fixture(scope="module")
def plain_browser(tmp_path_factory) -> Iterator[Browser]:
    """One without an exception for the server's certificate."""
    with Browser(tmp_path_factory.mktemp("plain")) as running:
        yield running


def tcp(web: ServerThread) -> str:
    return f"http://{web.server.site.address}"


def measured(page: Page, samples: int = 12) -> dict[str, str]:
    """What the clock page has found after so many answers."""
    page.until(f"document.body.dataset.samples >= {samples} || document.body.dataset.done")
    found = dict(page.value("({...document.body.dataset})"))
    assert int(found["samples"]) >= samples, page.value("document.body.innerText")
    return found


def one_clock(found: dict[str, str]) -> None:
    """Both ends have the same clock: the truth is 0, and the interval must contain it."""
    assert abs(float(found["offset"])) <= float(found["bound"]), found
    # Milliseconds. The bound is of use: far below what a wrong formula would give.
    assert 0 < float(found["bound"]) < 250, found


def test_the_clock_page_over_http3_and_webtransport(browser, web):
    page = browser.page(f"https://{web.target}/")
    found = measured(page)
    assert found["mode"] == "WebTransport"
    assert float(found["root"]) == pytest.approx(1e-3, rel=0.5)
    one_clock(found)
    assert page.value("performance.getEntriesByType('navigation')[0].nextHopProtocol") == "h3"
    assert page.value("crossOriginIsolated")
    assert "agrees with the server" in page.value("document.getElementById('verdict').textContent")
    assert page.value("document.querySelectorAll('#chart .sample').length") >= 12
    assert page.complaints() == []
    page.close()
    assert web.server.counters.get("requests", "datagram") >= 12
    assert web.server.counters.get("answered") >= 12


def test_a_certificate_that_no_authority_signed_is_accepted_by_its_hash(plain_browser, web):
    page = plain_browser.page(f"{tcp(web)}/")
    found = measured(page)
    assert found["mode"] == "WebTransport"
    one_clock(found)
    assert page.complaints() == []
    page.close()


def test_without_webtransport_the_page_asks_by_fetch_and_says_so(browser, web):
    page = browser.page("about:blank")
    page.call("Page.addScriptToEvaluateOnNewDocument", source="delete window.WebTransport")
    page.go(f"https://{web.target}/")
    found = measured(page)
    assert found["mode"] == "fetch"
    one_clock(found)
    text = page.value("document.body.innerText")
    assert "Without WebTransport" in text
    assert "coarser" in text
    assert page.complaints() == []
    page.close()


@pytest.mark.parametrize("seconds", [3.5, -7200])
def test_a_wrong_clock_is_measured(browser, web, seconds):
    """The browser's idea of the present time is moved by a known amount: that is what the page must find."""
    page = browser.page("about:blank")
    shift = f"const real = Date.now.bind(Date); Date.now = () => real() + {round(seconds * 1000)};"
    page.call("Page.addScriptToEvaluateOnNewDocument", source=shift)
    page.go(f"https://{web.target}/")
    found = measured(page)
    assert abs(float(found["offset"]) - seconds * 1000) <= float(found["bound"]), found
    verdict = page.value("document.getElementById('verdict').textContent")
    assert ("ahead" if seconds > 0 else "behind") in verdict
    page.close()


def test_a_server_that_does_not_trust_its_clock_is_not_trusted(browser, web):
    page = browser.page("about:blank")
    leap = "fetch = () => Promise.resolve(new Response(JSON.stringify({t2: String(BigInt(Date.now()) * 1000000n), "
    leap += "t3: String(BigInt(Date.now()) * 1000000n), leap: 3, stratum: 0, root_delay: 0, root_dispersion: 16})));"
    page.call("Page.addScriptToEvaluateOnNewDocument", source=f"delete window.WebTransport; {leap}")
    page.go(f"https://{web.target}/")
    measured(page, 2)
    assert "do not trust this" in page.value("document.getElementById('notes').textContent")
    page.close()


class Elsewhere(http.server.BaseHTTPRequestHandler):
    """Another web site, with an empty page."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_a_page_of_another_site_gets_no_session(plain_browser, web):
    digest = web.server._router.configuration.certificate.fingerprint(SHA256())
    asked = (
        f"new WebTransport('https://{web.target}/time', {{serverCertificateHashes: [{{algorithm: 'sha-256', value: "
        f"new Uint8Array({list(digest)})}}]}}).ready.then(() => 'open', error => 'refused')"
    )
    with http.server.HTTPServer(("127.0.0.1", 0), Elsewhere) as site:
        thread = threading.Thread(target=site.serve_forever, daemon=True)
        thread.start()
        page = plain_browser.page(f"http://127.0.0.1:{site.server_port}/")
        web.call(setattr, web.server.site, "_origins", Origins((f"http://127.0.0.1:{site.server_port}",)))
        assert page.value(asked) == "open"
        web.call(setattr, web.server.site, "_origins", Origins(()))
        # Last: Chromium lets a page wait for a minute and more that asks again after a refusal.
        before = web.server.counters.get("http requests", "403")
        assert page.value(asked) == "refused"
        assert web.server.counters.get("http requests", "403") == before + 1
        page.close()
        site.shutdown()
        thread.join()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("size", [{"width": 1000, "height": 900}, PHONE], ids=["wide", "phone"])
@pytest.mark.parametrize("path", ["/status", "/"])
def test_pages_look_right(browser, web, tmp_path, dark, size, path):
    page = browser.page(f"https://{web.target}{path}", dark=dark, **size)
    if path == "/":
        measured(page, 3)
    # Nothing is wider than the screen, and the colours follow the scheme.
    assert page.value("document.documentElement.scrollWidth") <= size["width"]
    colours = page.value("[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]")
    light = [sum(int(part) for part in colour.strip("rgb()").split(",")) / 3 for colour in colours]
    assert (light[0] < 60 < 200 < light[1]) if dark else (light[1] < 60 < 200 < light[0]), colours
    text = page.value("document.body.innerText")
    for part in ("right within", "version 1.2.3", "Answers a second") if path == "/status" else ("agrees with the server",):
        assert part in text
    # Every text of the pictures is inside its picture.
    outside = (
        "[...document.querySelectorAll('svg text')].filter(text => { const box = text.getBoundingClientRect(), frame = "
        "text.closest('svg').getBoundingClientRect(); return box.left < frame.left - 8 || box.right > frame.right + 2; }).length"
    )
    assert page.value(outside) == 0
    assert page.complaints() == []
    page.picture(tmp_path / "page.png")
    assert (tmp_path / "page.png").stat().st_size > 10_000
    page.close()
