"""Options, hosts and ports as users write them: what is taken, what is refused and in which words."""

from pathlib import Path

import pytest

from tsq.errors import ConfigError
from tsq.options import (
    ClientOptions,
    LocalClock,
    Target,
    Trust,
    as_options,
    as_target,
    as_targets,
    parse_listen,
    parse_pin,
    parse_port,
    parse_target,
)


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("time.example", Target("time.example", 443)),
        ("time.example:4433", Target("time.example", 4433)),
        ("192.0.2.1", Target("192.0.2.1", 443)),
        ("192.0.2.1:1", Target("192.0.2.1", 1)),
        ("2001:db8::1", Target("2001:db8::1", 443)),
        ("::1", Target("::1", 443)),
        ("[::1]", Target("::1", 443)),
        ("[::1]:65535", Target("::1", 65535)),
        ("[fe80::1%eth0]:443", Target("fe80::1%eth0", 443)),
        ("FE80:0::1%eth0", Target("fe80::1%eth0", 443)),
        ("[2001:DB8:0:0::1]:1", Target("2001:db8::1", 1)),
        ("0:0:0:0:0:0:0:1", Target("::1", 443)),
        ("time.example.", Target("time.example.", 443)),
        ("bücher.example", Target("bücher.example", 443)),
        ("a" * 253, Target("a" * 253, 443)),
    ],
)
def test_targets_that_are_taken(text, target):
    assert parse_target(text) == target


@pytest.mark.parametrize(
    "text",
    ["", ":443", "two words", "tab\there", "host:", "host:443:444", "host:-1", "host:+1", "host:0", "host:65536", "host:4 3",
     "host:٤٤٣", "[]", "[]:443", "[host]:443", "[192.0.2.1]", "[::1", "::1]", "[::1]443", "[::1]:", "[::1]:0", "a" * 254,
     "line\nbreak", "nul\0byte", "https://time.example", "time.example:443/path/"],
)
def test_targets_that_are_refused(text):
    with pytest.raises(ConfigError) as caught:
        parse_target(text)
    assert "expected" in str(caught.value)


def test_a_web_address_is_refused_as_a_host_not_as_a_port():
    with pytest.raises(ConfigError) as caught:
        parse_target("https://time.example/")
    assert str(caught.value) == "host 'https://time.example/' (expected HOST, HOST:PORT, IPv6 or [IPv6]:PORT)"


def test_default_port_is_for_targets_without_one():
    assert parse_target("time.example", 4433).port == 4433
    assert parse_target("[::1]", 4433).port == 4433
    assert parse_target("time.example:1", 4433).port == 1


@pytest.mark.parametrize("text", ["time.example:4433", "192.0.2.1:443", "[2001:db8::1]:4433"])
def test_a_target_as_text_is_the_same_target_again(text):
    assert str(parse_target(text)) == text
    assert parse_target(str(parse_target(text))) == parse_target(text)


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("0.0.0.0:443", Target("0.0.0.0", 443)),
        ("127.0.0.1:0", Target("127.0.0.1", 0)),
        ("[::]:443", Target("::", 443)),
        ("[::1]:0", Target("::1", 0)),
        ("[0::0]:443", Target("::", 443)),
        ("[0:0:0:0:0:0:0:0]:443", Target("::", 443)),
        ("[0::]:443", Target("::", 443)),
        ("[2001:DB8::0:1]:443", Target("2001:db8::1", 443)),
    ],
)
def test_listen_addresses_that_are_taken(text, target):
    assert parse_listen(text) == target


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "expected ADDRESS:PORT, such as 0.0.0.0:443 or [::]:443"),
        ("443", "expected ADDRESS:PORT"),
        (":443", "expected ADDRESS:PORT"),
        ("127.0.0.1", "expected ADDRESS:PORT"),
        ("localhost:443", "expected a numeric IPv4 address, or an IPv6 one in brackets"),
        ("[localhost]:443", "expected a numeric IPv4 address, or an IPv6 one in brackets"),
        ("::1", "expected"),
        ("::1:443", "expected brackets around IPv6, and only there"),
        ("[127.0.0.1]:443", "expected brackets around IPv6, and only there"),
        ("127.0.0.1:", "port '' (expected a number from 0 to 65535)"),
        ("127.0.0.1:65536", "port '65536' (expected a number from 0 to 65535)"),
        ("[::1]:x", "port 'x'"),
        ("127.0.0.256:1", "expected a numeric IPv4 address"),
        ("[fe80::1%eth0]:443", "expected an address without a zone"),
        ("0.0.0.00:443", "expected a numeric IPv4 address"),
    ],
)
def test_listen_addresses_that_are_refused(text, words):
    with pytest.raises(ConfigError) as caught:
        parse_listen(text)
    assert words in str(caught.value)


@pytest.mark.parametrize(("text", "port"), [("1", 1), ("443", 443), ("65535", 65535), ("00443", 443)])
def test_ports_that_are_taken(text, port):
    assert parse_port(text) == port


@pytest.mark.parametrize("text", ["", "0", "65536", "99999", "-1", "+1", " 1", "1 ", "1\n", "0x1bb", "4e2", "１", "443443"])
def test_ports_that_are_refused(text):
    with pytest.raises(ConfigError) as caught:
        parse_port(text)
    assert str(caught.value) == f"port {text!r} (expected a number from 1 to 65535)"


def test_port_zero_is_for_servers_only():
    assert parse_port("0", least=0) == 0


def test_default_options_are_valid_and_verify():
    options = ClientOptions()
    assert options.trust == Trust()
    assert options.trust.insecure is False


@pytest.mark.parametrize(
    ("field", "good", "bad", "words"),
    [
        ("count", (1, 1_000_000), (0, -1, 1_000_001), "1 to 1000000"),
        ("interval", (0, 0.001, 86400), (-0.001, 86401, float("nan"), float("inf")), "0 to 86400 seconds"),
        ("timeout", (0.001, 3600), (0, -1, 3601, float("nan"), float("inf")), "above 0, at most 3600 seconds"),
        ("family", (0, 4, 6), (1, 2, 10, -4), "0, 4 or 6"),
    ],
)
def test_options_have_limits_and_say_them(field, good, bad, words):
    for value in good:
        assert getattr(ClientOptions(**{field: value}), field) == value
    for value in bad:
        with pytest.raises(ConfigError) as caught:
            ClientOptions(**{field: value})
        assert str(value) in str(caught.value)
        assert f"expected {words}" in str(caught.value)


def test_a_ca_file_and_insecure_exclude_each_other():
    assert Trust(ca_file="ca.pem").ca_file == "ca.pem"
    assert Trust(insecure=True).insecure
    with pytest.raises(ConfigError, match="expected one of them"):
        Trust(ca_file="ca.pem", insecure=True)


def test_options_cannot_be_changed_afterwards():
    with pytest.raises(AttributeError):
        ClientOptions().count = 5


PIN = "sha256//" + "A" * 43 + "="


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ClientOptions(trust="ca.pem"), "trust 'ca.pem' (expected a tsq.Trust): write Trust(ca_file='ca.pem')"),
        (lambda: ClientOptions(trust=None), "trust None (expected a tsq.Trust)"),
        (lambda: ClientOptions(count="3"), "count '3' (expected a whole number)"),
        (lambda: ClientOptions(count=3.0), "count 3.0 (expected a whole number)"),
        (lambda: ClientOptions(count=True), "count True (expected a whole number)"),
        (lambda: ClientOptions(interval="0.1"), "interval '0.1' (expected a number)"),
        (lambda: ClientOptions(timeout=None), "timeout None (expected a number)"),
        (lambda: ClientOptions(timeout=True), "timeout True (expected a number)"),
        (lambda: ClientOptions(server_error=float("nan")), "server error nan (expected 0 to 1 second)"),
        (lambda: ClientOptions(server_error="1"), "server error '1' (expected a number)"),
        (lambda: ClientOptions(family="4"), "address family '4' (expected a whole number)"),
        (lambda: ClientOptions(server_name=b"host"), "server name b'host' (expected text)"),
        (lambda: ClientOptions(stream="yes"), "stream 'yes' (expected True or False)"),
        (lambda: ClientOptions(accept_unknown=1), "accept_unknown 1 (expected True or False)"),
        (lambda: ClientOptions(session_file=3), "session file 3 (expected a file's name)"),
        (lambda: ClientOptions(session_file=""), "session file '' (expected a file's name)"),
        (lambda: Trust(ca_file=b"ca.pem"), "CA file b'ca.pem' (expected a file's name)"),
        (lambda: Trust(insecure="no"), "insecure 'no' (expected True or False)"),
        (lambda: Trust(pins=PIN), f"pins {PIN!r} (expected a tuple of texts"),
        (lambda: Trust(pins=("sha256//short",)), "pinned key 'sha256//short'"),
        (lambda: Trust(pins=(3,)), "pinned key 3 (expected text)"),
        (lambda: Trust(pins=None), "pins None"),
        (lambda: Trust(valid_at="2026-01-01"), "valid_at '2026-01-01' (expected a number)"),
        (lambda: Trust(valid_at=float("inf")), "valid_at inf (expected seconds since 1970)"),
        (lambda: Target("h", 70000), "port 70000 (expected a number from 1 to 65535)"),
        (lambda: Target("h", -1), "port -1 (expected"),
        (lambda: Target("h", "443"), "port '443' (expected a whole number)"),
        (lambda: Target("h", 443.0), "port 443.0 (expected a whole number)"),
        (lambda: Target(""), "host '' (expected a name or an address, without a port)"),
        (lambda: Target("two words"), "host 'two words' (expected"),
        (lambda: Target("[::1]"), "host '[::1]' (expected"),
        (lambda: Target("h:443"), "host 'h:443' (expected a name or an address, without a port)"),
        (lambda: Target(None), "host None (expected"),
        (lambda: LocalClock("1"), "local stratum '1' (expected a whole number)"),
        (lambda: LocalClock(1, error="1"), "local error '1' (expected a number)"),
        (lambda: LocalClock(1, error=float("nan")), "local error nan (expected above 0, at most 16 seconds)"),
        (lambda: parse_target(443), "host 443 (expected text)"),
        (lambda: parse_pin(b"sha256//"), "pinned key b'sha256//' (expected text)"),
        (lambda: as_target(("h", 443)), "host ('h', 443) (expected text such as 'time.example'"),
        (lambda: as_target(Target("h", 0)), "port 0 (expected a number from 1 to 65535)"),
        (lambda: as_targets("time.example"), "hosts 'time.example' (expected a list of hosts)"),
        (lambda: as_targets(Target("h")), "(expected a list of hosts)"),
        (lambda: as_targets(None), "hosts None (expected a list of hosts)"),
        (lambda: as_targets(["h", 3]), "host 3 (expected text"),
        (lambda: as_options(Trust()), "(expected a tsq.ClientOptions)"),
        (lambda: as_options({"count": 3}), "options {'count': 3} (expected a tsq.ClientOptions)"),
    ],
)
def test_a_wrong_type_or_value_is_refused_where_it_is_given(make, words):
    with pytest.raises(ConfigError) as caught:
        make()
    assert str(caught.value).startswith(words) or str(caught.value).endswith(words)


def test_files_may_be_paths_and_pins_a_list():
    assert Trust(ca_file=Path("lab/ca.pem")) == Trust(ca_file="lab/ca.pem")
    assert ClientOptions(session_file=Path("sessions")).session_file == "sessions"
    assert Trust(pins=[PIN]).pins == (PIN,)


def test_hosts_are_text_or_targets():
    assert as_target("h:1") == as_target(Target("h", 1)) == Target("h", 1)
    assert as_targets(["h:1", Target("h", 1)]) == as_targets(host for host in ("h:1", "h:1")) == [Target("h", 1)] * 2


def test_options_are_the_default_ones_where_none_are_given():
    chosen = ClientOptions(count=5)
    assert as_options(chosen) is chosen
    assert as_options(None) == ClientOptions()
