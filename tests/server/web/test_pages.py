"""The pages over HTTP/3, asked by aioquic's own client, and over HTTP/1.1."""

import asyncio
import base64
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import replace

import pytest

import tsq
from tests.support.h3 import client
from tests.support.metrics import value
from tests.support.processes import ServerProcess
from tsq.cli.server import _parser, _web, main
from tsq.host.keepers.sync_state import HostClock, Keeper
from tsq.options import ClientOptions, LocalClock, Target, Trust, WebOptions, parse_target
from tsq.quic.selfsigned import CertificateFiles
from tsq.server.driver import Server
from tsq.server.responder import NoResponse
from tsq.server.web.access import Origins
from tsq.server.web.status import policy
from tsq.wire.message import encode_request

LOCAL = HostClock(Keeper.KERNEL, local=LocalClock(3, error=0.004))
UNKNOWN = HostClock(Keeper.CHRONY, chrony=("127.0.0.1", 9), chrony_socket="/nonexistent")


def server(certificates: CertificateFiles, **settings) -> Server:
    files = str(certificates.certificate), str(certificates.key)
    return Server(["127.0.0.1:0"], *files, **{"host_clock": LOCAL, "http3": True, **settings})


@pytest.mark.parametrize("data_plane", [True, False], ids=["both planes", "control plane alone"])
def test_each_page_answers(certificates, data_plane):
    async def main() -> None:
        async with server(certificates, data_plane=data_plane) as running, client(running.addresses[0], certificates) as web:
            for path, kind in [
                ("/", "text/html"), ("/status", "text/html"), ("/status.json", "application/json"), ("/metrics", "text/plain"),
                ("/healthz", "text/plain"), ("/readyz", "text/plain"), ("/livez", "text/plain"), ("/time", "application/json"),
            ]:  # fmt: skip
                answer = await web.ask(path)
                assert answer.status == 200, path
                assert answer.headers["content-type"].startswith(kind)
                assert int(answer.headers["content-length"]) == len(answer.body) > 0
                assert "default-src 'none'" in answer.headers["content-security-policy"]
                assert answer.headers["x-content-type-options"] == "nosniff"
            assert (await web.ask("/nowhere")).status == 404

    asyncio.run(main())


def test_without_the_option_h3_is_refused_and_nothing_of_it_is_loaded(certificates):
    async def main() -> None:
        async with server(certificates, http3=False) as running:
            with pytest.raises(ConnectionError):
                async with client(running.addresses[0], certificates):
                    pass
            assert running.counters.get("handshakes", "failed") == 1

    asyncio.run(main())
    script = (
        "import sys, tsq.cli.server; from tsq.server.driver import Server;"
        f"Server(['127.0.0.1:0'], {str(certificates.certificate)!r}, {str(certificates.key)!r});"
        "print([name for name in sys.modules if any(part in name for part in ('lsqpack', 'h3.connection', 'http3', 'server.web'))])"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert found.stdout == "[]\n"


def test_a_client_of_tsq_is_served_as_ever_beside_h3(certificates):
    async def main() -> None:
        async with server(certificates) as running, client(running.addresses[0], certificates) as web:
            trust = Trust(ca_file=str(certificates.authority))
            options = ClientOptions(count=5, interval=0.0, trust=trust, server_name="localhost")
            result = await tsq.aquery(running.addresses[0], options)
            assert len(result.samples) == 5
            assert running.counters.get("taken") >= 1
            answer = await web.ask("/metrics")
            assert value(answer.body.decode(), "tsq_server_answered_total") >= 5
            assert value((await web.ask("/metrics")).body.decode(), "tsq_server_http_requests_total", status="200") == 1
            assert running.connections >= 1

    asyncio.run(main())


def test_a_connection_with_h3_never_goes_to_the_data_plane(certificates):
    async def main() -> None:
        async with server(certificates) as running, client(running.addresses[0], certificates) as web:
            for _ in range(5):
                assert (await web.ask("/livez")).status == 200
            stream_id, _ = await web.session()
            for _ in range(5):
                web.say(stream_id, encode_request(os.urandom(16)))
                await web.heard()
            (connection,) = running._router.connections
            assert connection.plane is not None
            assert connection.plane.session is None
            assert running.counters.get("taken") == 0

    asyncio.run(main())


def test_health_follows_the_clock_and_readiness_the_server(certificates):
    async def main() -> None:
        async with server(certificates, host_clock=UNKNOWN) as running, client(running.addresses[0], certificates) as web:
            answer = await web.ask("/healthz")
            assert answer.status == 503
            assert b"the clock is not trusted" in answer.body
            assert (await web.ask("/readyz")).status == (await web.ask("/livez")).status == 200
        async with server(certificates) as running, client(running.addresses[0], certificates) as web:
            assert (await web.ask("/healthz")).status == 200
            running._router.draining = True
            assert (await web.ask("/readyz")).status == (await web.ask("/healthz")).status == 503
            assert (await web.ask("/livez")).status == 200
            assert (await web.session())[1].status == 503
        unasked = HostClock(Keeper.NONE)
        async with server(certificates, host_clock=unasked) as running, client(running.addresses[0], certificates) as web:
            assert (await web.ask("/healthz")).status == 200

    asyncio.run(main())


def test_private_pages_are_for_the_chosen_networks_only(certificates):
    async def main() -> None:
        elsewhere = WebOptions(networks=("192.0.2.0/24", "2001:db8::/32"))
        async with server(certificates, web=elsewhere) as running, client(running.addresses[0], certificates) as web:
            for path in ("/metrics", "/status", "/status.json"):
                assert (await web.ask(path)).status == 403, path
            for path in ("/", "/time", "/healthz", "/readyz"):
                assert (await web.ask(path)).status == 200, path
        everybody = WebOptions(networks=("0.0.0.0/0",))
        async with server(certificates, web=everybody) as running, client(running.addresses[0], certificates) as web:
            assert (await web.ask("/metrics")).status == 200

    asyncio.run(main())


def test_odd_requests_get_a_status_and_no_more(certificates):
    async def main() -> None:
        async with server(certificates) as running, client(running.addresses[0], certificates) as web:
            for method in ("POST", "DELETE", "BREW", "PRI"):
                answer = await web.ask("/livez", method=method)
                assert answer.status == 405
                assert answer.headers["allow"] == "GET, HEAD"
            head = await web.ask("/metrics", method="HEAD")
            assert (head.status, head.body) == (200, b"")
            assert head.headers["content-type"].startswith("text/plain")
            for path in ("/" + "x" * 5000, "/../../etc/passwd", "//", "*", "/%00", "/status/", "http://[", "/livez?" + "y" * 999):
                assert (await web.ask(path)).status == (200 if path.startswith("/livez?") else 404), path
            # A body that never ends is not waited for.
            _, answer = web.send("POST", "/livez", end=False)
            await answer.over.wait()
            assert answer.status == 405

    asyncio.run(main())


def test_the_status_is_json_for_those_who_ask_for_it(certificates):
    async def main() -> None:
        shown = WebOptions(version="1.2.3")
        async with server(certificates, web=shown) as running, client(running.addresses[0], certificates) as web:
            asked = await web.ask("/status", ("accept", "application/json"))
            browser = await web.ask("/status", ("accept", "text/html,application/xhtml+xml,application/json;q=0.9"))
            assert asked.headers["content-type"] == "application/json"
            assert browser.headers["content-type"].startswith("text/html")
            found = json.loads(asked.body)
            assert found["version"] == "1.2.3"
            assert found["clock"]["stratum"] == 3
            assert found["clock"]["error"] == pytest.approx(0.004, rel=0.5)
            assert found["certificate_expires"] == running.certificate_expiry
            assert found["listening"] == [str(running.addresses[0])]
            assert len(found["history"]) >= 1
            # No address of a client.
            assert b"127.0.0.1" not in asked.body.replace(str(running.addresses[0]).encode(), b"")

    asyncio.run(main())


def test_what_a_page_shows_is_escaped(certificates):
    async def main() -> None:
        async with server(certificates) as running, client(running.addresses[0], certificates) as web:
            evil = "<script>alert(1)</script>\ud800"
            state = running.clock
            running._watch.state = replace(state, keeper=evil, reference=f'"{evil}', stratum=2)
            running.counters.add("dropped", evil)
            page = (await web.ask("/status")).body.decode()
            assert "<script" not in page
            assert "&lt;script&gt;alert(1)" in page
            running._watch.state = replace(state, keeper=evil, stratum=0, trouble=evil)
            assert "<script" not in (await web.ask("/status")).body.decode()
            assert b"alert" in (await web.ask("/healthz")).body

    asyncio.run(main())


def test_the_policy_of_a_page_names_its_own_style_and_script_by_hash():
    found = policy("<style>a</style><script>b</script>", "connect-src 'self'").split("; ")
    digests = [base64.b64encode(hashlib.sha256(text).digest()).decode() for text in (b"a", b"b")]
    assert found[:4] == ["default-src 'none'", f"style-src 'sha256-{digests[0]}'", f"script-src 'sha256-{digests[1]}'",
                         "connect-src 'self'"]  # fmt: skip
    assert "frame-ancestors 'none'" in found


def get(address: Target, path: str) -> tuple[int, str, str]:
    try:
        with urllib.request.urlopen(f"http://{address}{path}", timeout=60) as response:
            return response.status, response.headers["Content-Type"], response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers["Content-Type"], error.read().decode()


def test_the_same_pages_are_served_over_tcp(certificates):
    async def main() -> None:
        for http3 in (True, False):
            async with server(certificates, http3=http3) as running:
                running.site.start(Target("127.0.0.1", 0))
                address = running.site.address
                for path in ("/", "/status", "/status.json", "/metrics", "/healthz", "/readyz", "/livez"):
                    status, kind, text = await asyncio.to_thread(get, address, path)
                    assert (status, bool(text)) == (200, True), path
                    assert kind.startswith(("text/", "application/json"))
                status, _, text = await asyncio.to_thread(get, address, "/time")
                assert status == (200 if http3 else 404)
                if http3:
                    times = json.loads(text)
                    assert 0 <= time.time_ns() - int(times["t3"]) < 60_000_000_000
                    assert int(times["t2"]) <= int(times["t3"])
                running._router.draining = True
                assert (await asyncio.to_thread(get, address, "/healthz"))[0] == 503

    asyncio.run(main())


def test_the_time_over_http_is_between_its_question_and_its_answer(certificates):
    async def main() -> None:
        async with server(certificates) as running, client(running.addresses[0], certificates) as web:
            before = time.time_ns()
            answer = await web.ask("/time")
            after = time.time_ns()
            found = json.loads(answer.body)
            assert before <= int(found["t2"]) <= int(found["t3"]) <= after
            assert found["stratum"] == 3
            assert found["root_delay"] / 2 + found["root_dispersion"] == pytest.approx(0.004, rel=0.5)
            assert running.counters.get("answered") == 1

    asyncio.run(main())


def test_a_clock_that_was_set_back_gives_no_time(certificates):
    async def main() -> None:
        async with server(certificates) as running, client(running.addresses[0], certificates) as web:
            running._endpoints[0]._core._clock = lambda: 1
            assert json.loads((await web.ask("/time")).body) == {}
            assert running.counters.get("unanswered", NoResponse.CLOCK_WENT_BACK) == 1

    asyncio.run(main())


def test_the_command_serves_them(certificates):
    files = ["--cert", certificates.certificate, "--key", certificates.key]
    with ServerProcess(["--listen", "127.0.0.1:0", *files, "--http3", "--metrics", "127.0.0.1:0"]) as running:
        line = running.process.stdout.readline()
        address = parse_target(re.search(r"metrics at http://([^/]+)/metrics", line)[1])
        assert get(address, "/healthz") == (200, "text/plain; charset=utf-8", "ok\n")
        assert json.loads(get(address, "/status.json")[2])["version"] == tsq.__version__

        async def main() -> None:
            async with client(running.target, certificates) as web:
                assert (await web.ask("/status")).status == 200
                assert b"How far is this device" in (await web.ask("/")).body

        asyncio.run(main())


def test_the_clock_page_over_tcp_belongs_to_each_worker(certificates):
    values = _parser().parse_args(["--http3", "--metrics", "127.0.0.1:9976", "--web-origin", "https://a.example"])
    origins = Origins(_web(values).origins)
    for origin in ("http://127.0.0.1:9976", "http://localhost:9976", "https://a.example"):
        assert origins.admit(origin, "time.example")
    assert not origins.admit("http://127.0.0.1:9977", "time.example")


@pytest.mark.parametrize("workers", [1, 2])
def test_probes_see_a_server_that_starts_serves_and_drains(certificates, workers):
    files = ["--cert", certificates.certificate, "--key", certificates.key]
    more = ["--metrics", "127.0.0.1:0", "--workers", str(workers), "--drain", "20"]
    with ServerProcess(["--listen", "127.0.0.1:0", *files, "--http3", *more]) as running:
        address = parse_target(re.search(r"metrics at http://([^/]+)/metrics", running.process.stdout.readline())[1])
        assert get(address, "/readyz")[0] == get(address, "/healthz")[0] == 200

        async def main() -> None:
            async with client(running.target, certificates) as web:
                assert (await web.ask("/readyz")).status == 200
                # It has a client, so that draining takes a while.
                running.send_signal(signal.SIGTERM)
                while (await web.ask("/readyz")).status == 200:
                    await asyncio.sleep(0)
                assert (await web.ask("/livez")).status == 200
                assert (await asyncio.to_thread(get, address, "/readyz"))[0] == 503

        asyncio.run(main())
        # Once more ends it at once.
        assert running.stop() == 0


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (["--status-to", "192.0.2.0/24"], "--status-to without --http3"),
        (["--web-origin", "*"], "--web-origin without --http3"),
        (["--http3", "--status-to", "192.0.2.1/24"], "argument --status-to: network '192.0.2.1/24'"),
        (["--http3", "--web-origin", "example.org"], "argument --web-origin: origin 'example.org'"),
    ],
)
def test_options_that_do_not_fit_are_named(capsys, options, found):
    with pytest.raises(SystemExit) as ended:
        main(["--cert", "a", "--key", "b", *options])
    assert ended.value.code == 2
    assert found in capsys.readouterr().err
