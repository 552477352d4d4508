"""Wrong types and values raise errors at once, with a message that says what was expected."""

import asyncio
import math
from pathlib import Path

import pytest

import tsq
from tsq.errors import ConfigError
from tsq.quic.limits import PeerLimits


@pytest.mark.parametrize(
    ("listen", "words"),
    [
        ("127.0.0.1:0", "listen '127.0.0.1:0' (expected a list of addresses"),
        (b"127.0.0.1:0", "expected a list of addresses"),
        (tsq.Target("127.0.0.1", 443), "expected a list of addresses"),
        (None, "listen None (expected a list of addresses"),
        ({"127.0.0.1:0"}, "expected a list of addresses"),
        ([], "no address to listen on (expected at least one)"),
        ([443], "address to listen on 443 (expected text such as"),
        (["localhost:443"], "a numeric IPv4 address"),
        (["127.0.0.1:4433", "127.0.0.2:4433", "127.0.0.1:4433"], "address 127.0.0.1:4433 to listen on is given twice"),
    ],
)
def test_addresses_that_are_none_or_given_twice_are_refused(certificates, listen, words):
    with pytest.raises(ConfigError) as refused:
        tsq.Server(listen, str(certificates.certificate), str(certificates.key))
    assert words in str(refused.value)


def test_any_free_port_may_be_asked_for_twice(certificates):
    assert tsq.Server(["127.0.0.1:0", "127.0.0.1:0"], str(certificates.certificate), str(certificates.key))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"limits": 500}, "limits 500 (expected a Limits)"),
        ({"limits": {"max_connections": 500}}, "expected a Limits"),
        ({"host_clock": tsq.Keeper.NONE}, "expected a HostClock"),
        ({"certificate_file": 5}, "certificate_file 5 (expected the path of a file, as text)"),
        ({"key_file": None}, "key_file None (expected the path of a file, as text)"),
    ],
)
def test_options_of_another_type_are_refused(certificates, options, words):
    files = {"certificate_file": str(certificates.certificate), "key_file": str(certificates.key)}
    with pytest.raises(ConfigError) as refused:
        tsq.Server(["127.0.0.1:0"], **{**files, **options})
    assert words in str(refused.value)


def test_the_certificate_and_the_key_may_be_pathlib_paths(certificates):
    assert tsq.Server(["127.0.0.1:0"], Path(certificates.certificate), Path(certificates.key)).reload()


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"max_connections": -1}, "max_connections -1 (expected a whole number, 0 or more)"),
        ({"max_connections": 0}, "max_connections 0 (expected 1 or more)"),
        ({"max_connections": 10.5}, "a whole number"),
        ({"max_connections": True}, "a whole number"),
        ({"max_connections": "500"}, "max_connections '500'"),
        ({"half_open": None}, "half_open None"),
        ({"handshake_timeout": -1.0}, "handshake_timeout -1.0 (expected a number, 0 or more)"),
        ({"handshake_timeout": math.nan}, "handshake_timeout nan"),
        ({"newcomers": math.inf}, "newcomers inf"),
        ({"newcomers": "many"}, "newcomers 'many'"),
        ({"retry": "always"}, "retry 'always' (expected RetryPolicy.AUTO, RetryPolicy.ALWAYS, RetryPolicy.NEVER)"),
        ({"peer": 5}, "peer 5 (expected a PeerLimits)"),
    ],
)
def test_impossible_limits_are_refused(limits, words):
    with pytest.raises(ConfigError) as refused:
        tsq.Limits(**limits)
    assert words in str(refused.value)


def test_limits_of_a_peer_are_checked_and_rates_may_be_whole_numbers():
    with pytest.raises(ConfigError, match="frames -1"):
        PeerLimits(frames=-1)
    assert tsq.Limits(newcomers=300, half_open=0).newcomers == 300


def test_a_host_clock_with_a_name_in_place_of_a_keeper_is_refused():
    with pytest.raises(ConfigError, match="keeper 'chrony'"):
        tsq.HostClock("chrony")
    with pytest.raises(ConfigError, match="local 1"):
        tsq.HostClock(local=1)


def test_the_repr_of_a_server_shows_its_addresses_and_connections(certificates):
    async def shown() -> None:
        server = tsq.Server(["127.0.0.1:0"], str(certificates.certificate), str(certificates.key))
        assert repr(server) == "<Server 127.0.0.1:0, connections: 0>"
        async with server:
            assert server.addresses[0].port
            assert repr(server) == f"<Server {server.addresses[0]}, connections: 0>"
        assert repr(server) == "<Server 127.0.0.1:0, connections: 0>"

    asyncio.run(shown())


def test_files_may_be_paths(certificates):
    assert tsq.Server(["127.0.0.1:0"], Path(certificates.certificate), Path(certificates.key))
