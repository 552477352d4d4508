"""What an operator may say about a server, and its canonical form (protocol R14)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.messages import SITE
from tsq.errors import ConfigError
from tsq.wire.annotations import annotations, annotations_tlv, parse_pair
from tsq.wire.message import decode_metadata

PRINTED = st.text(st.characters(exclude_categories=["C", "Z"], exclude_characters="="), min_size=1, max_size=8)


def test_the_documented_example():
    assert annotations_tlv(dict([parse_pair("site=us-east")])) == ((253, SITE),)
    assert annotations_tlv({}) == ()


def test_the_first_equals_sign_ends_the_key_and_a_value_may_be_empty():
    assert parse_pair("query=a=b") == ("query", "a=b")
    assert parse_pair("decommissioned=") == ("decommissioned", "")


def test_keys_are_in_the_order_of_their_bytes_whatever_the_order_in_which_they_were_given():
    # As text, U+FF5E stands before U+1F600; in UTF-16 it would not.
    keys = ["b", "a", "aa", "Z", "é", "～", "😀"]
    (_, value), = annotations_tlv(dict.fromkeys(keys, "1"))
    assert list(decode_metadata(value)) == sorted(keys, key=str.encode)
    assert annotations_tlv(dict.fromkeys(reversed(keys), "1")) == ((253, value),)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("site", "'site' (expected KEY=VALUE"),
        ("=us-east", "key '' (expected one or more"),
        ("tsq.leap=0", "key 'tsq.leap' (expected another one"),
        ("tsq.=0", "key 'tsq.' (expected another one"),
        ("si\x1bte=us", "that can be printed, without ="),
        ("site=\x1b[2J", "value '\\x1b[2J' of the key 'site' (expected characters that can be printed)"),
        ("site=a\u202eb", "characters that can be printed"),
        ("site=\udcff", "characters that can be printed"),
    ],
)
def test_a_bad_pair_is_refused_with_what_was_found_and_what_was_expected(text, words):
    with pytest.raises(ConfigError) as refused:
        parse_pair(text)
    assert words in str(refused.value)


@pytest.mark.parametrize(("size", "good"), [(249, True), (250, False)])
def test_all_pairs_fit_into_one_tlv(size, good):
    pairs = {"site": "x" * size}
    if good:
        assert len(annotations_tlv(pairs)[0][1]) == 255
        return
    with pytest.raises(ConfigError, match=r"metadata of 256 bytes .expected at most 255 bytes in all"):
        annotations_tlv(pairs)


@pytest.mark.parametrize("pairs", ["site=us", [("site", "us")], {"site": 5}, {5: "us"}, {"a=b": "c"}])
def test_a_program_may_give_text_alone(pairs):
    with pytest.raises(ConfigError):
        annotations_tlv(pairs)


@given(st.dictionaries(PRINTED.filter(lambda key: not key.startswith("tsq.")), PRINTED, max_size=6))
def test_what_is_accepted_comes_back_without_the_keys_of_the_protocol(pairs):
    tlvs = annotations_tlv(pairs)
    found = decode_metadata(tlvs[0][1]) if tlvs else {}
    assert annotations({**found, "tsq.t3": "00", "tsq.leap": "1"}) == pairs
