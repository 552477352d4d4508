"""Networks, origins, and the budget of each client."""

import pytest

from tsq.errors import ConfigError
from tsq.options import LOOPBACK, WebOptions
from tsq.server.web.access import Networks, Origins, Quota


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"])
def test_this_machine_is_in_its_networks(peer):
    assert Networks(LOOPBACK).contain(peer)


@pytest.mark.parametrize("peer", ["", "192.0.2.1", "::2", "::ffff:192.0.2.1", "fe80::1%eth0", "nonsense", "127.0.0.1.evil"])
def test_others_are_not(peer):
    assert not Networks(LOOPBACK).contain(peer)


def test_a_server_knows_its_own_origin_and_those_that_were_added():
    origins = Origins(("https://www.example.org", "http://lab:8080"))
    for origin, authority in [
        ("https://time.example", "time.example"), ("https://time.example:4433", "time.example:4433"),
        ("https://[::1]", "[::1]:443"),
        ("https://www.example.org", "x"), ("https://www.example.org:443", "x"), ("http://lab:8080", "x"), (None, "x"),
    ]:  # fmt: skip
        assert origins.admit(origin, authority), origin
    for origin, authority in [
        ("https://time.example.evil", "time.example"), ("http://time.example", "time.example"), ("null", "null"), ("", ""),
        ("https://example.org", "x"), ("https://www.example.org/x", "x"), ("file://", "x"), ("https://a:b", "a:b"),
    ]:  # fmt: skip
        assert not origins.admit(origin, authority), origin
    assert Origins(("*",)).admit("https://anything", "x")


@pytest.mark.parametrize("network", ["", "192.0.2.1/24", "192.0.2.0/33", "localhost", 5])
def test_a_network_that_is_none_is_refused(network):
    with pytest.raises(ConfigError, match="network"):
        WebOptions(networks=(network,))


@pytest.mark.parametrize("origin", ["", "example.org", "https://", "https://example.org/", "null", "ftp://x", 5])
def test_an_origin_that_is_none_is_refused(origin):
    with pytest.raises(ConfigError, match="origin"):
        WebOptions(origins=(origin,))


def test_each_client_has_a_budget_of_its_own():
    quota = Quota(rate=1.0, burst=5.0)
    assert [quota.admits("192.0.2.1", 1.0, 0.0) for _ in range(6)] == [True] * 5 + [False]
    assert quota.admits("192.0.2.2", 5.0, 0.0)
    assert not quota.admits("192.0.2.1", 1.0, 0.5)
    assert quota.admits("192.0.2.1", 1.0, 1.6)
    # Of an IPv6 network, one host may have as many addresses as it likes.
    assert quota.admits("2001:db8::1", 5.0, 0.0)
    assert not quota.admits("2001:db8:0:ff::2", 1.0, 0.0)
    assert quota.admits("2001:db8:0:100::2", 1.0, 0.0)
    assert quota.admits("", 5.0, 0.0)
    assert not quota.admits("?", 1.0, 0.0)


def test_the_number_of_clients_that_are_remembered_is_bounded():
    quota = Quota(rate=1.0, burst=2.0)
    for number in range(10_000):
        assert quota.admits(f"10.0.{number >> 8}.{number & 255}", 1.0, 0.0)
    assert len(quota._buckets) <= 4096
    # The one that asked last is remembered.
    assert quota.admits("10.0.39.15", 1.0, 0.0)
    assert not quota.admits("10.0.39.15", 1.0, 0.0)
