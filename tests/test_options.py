"""Options, hosts and ports as users write them: what is taken, what is refused and in which words."""

import pytest

from tsq.errors import ConfigError
from tsq.options import ClientOptions, Target, Trust, parse_listen, parse_port, parse_target


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
     "line\nbreak", "nul\0byte"],
)
def test_targets_that_are_refused(text):
    with pytest.raises(ConfigError) as caught:
        parse_target(text)
    assert "expected" in str(caught.value)


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
