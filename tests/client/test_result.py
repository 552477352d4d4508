"""Results: their text for a developer, their dictionaries, and the result that always has an estimate."""

import json
import pickle
import re

import pytest

import tsq
from tests.report.test_text import host, sample
from tsq.errors import NoAnswer, WrongName
from tsq.report.document import document
from tsq.timing.intersection import with_bound
from tsq.timing.sample import Reason, Sample

SHOWN = re.compile(r"([+-]\d+\.\d{9}) ± (\d+\.\d{9}) s")


def bad(**more) -> tsq.HostResult:
    return tsq.HostResult(tsq.Target("dead.example"), error=NoAnswer("nothing came", advice="wait"), **more)


def test_text_of_results_shows_offset_and_bound_in_one_line():
    result = host(sample(1_234_567), sample(1_234_567))
    chosen = tsq.selection([result])
    for thing in (result, result.estimate, chosen, chosen.agreed, tsq.QueryResult.of(result)):
        assert SHOWN.search(repr(thing))[1] == "+0.001234567"
        assert "\n" not in repr(thing)
    assert repr(result).startswith("<HostResult time.example:443 +0.001234567 ± ")
    assert repr(result).endswith(", 2 of 2 samples>")
    assert repr(tsq.QueryResult.of(result)).startswith("<QueryResult time.example:443 ")
    assert repr(chosen).endswith(", 1 of 1 sources>")


def test_text_of_what_failed_shows_why():
    assert repr(bad()) == "<HostResult dead.example:443 NoAnswer('nothing came', advice='wait'), 0 of 0 samples>"
    assert repr(tsq.selection([bad()])) == "<Selection no time: no source can be used>"


def test_text_from_the_network_cannot_write_to_the_terminal():
    shown = repr(tsq.HostResult(tsq.Target("h"), error=NoAnswer("\x1b[2Jowned\n")))
    assert shown.isprintable()


@pytest.mark.parametrize("offset", [0.0, 1e-10, -1.4999999996e-3, 0.4999999995, -86400.123456789123, 3e8])
@pytest.mark.parametrize("bound", [0.0, 1e-9, 1.00000000049e-5, 0.1, 16.0])
def test_a_bound_as_text_holds_for_the_offset_as_text(offset, bound):
    shown, around = map(float, SHOWN.fullmatch(with_bound(offset, bound)).groups())
    # But for what a float cannot hold.
    slack = 1e-14 + abs(offset) * 1e-15
    assert shown - around <= offset - bound + slack
    assert shown + around >= offset + bound - slack
    assert around <= bound + 2e-9


def test_results_as_dictionaries_are_what_the_command_prints():
    refused = host(Sample(1, reason=Reason.NO_ANSWER), name="third.example", error=WrongName("no"))
    results = [host(sample(250), sample(250)), bad(), refused]
    chosen = tsq.selection(results)
    printed = document(results, chosen, "1")
    dictionaries = [result.to_dict(verdict) for result, verdict in zip(results, chosen.verdicts, strict=True)]
    assert json.dumps(printed["hosts"]) == json.dumps(dictionaries)
    assert json.dumps(printed["selection"]) == json.dumps(chosen.to_dict())
    assert [result.to_dict().keys() for result in results] == [dictionaries[0].keys()] * 3


def test_the_dictionary_of_one_host_alone_is_that_of_a_selection_of_it():
    result = host(sample(250), sample(250))
    assert result.to_dict() == result.to_dict(tsq.selection([result]).verdicts[0])
    assert (result.to_dict()["mark"], bad().to_dict()["mark"]) == ("*", "?")


def test_dictionaries_of_the_parts_of_a_result_are_parts_of_its_dictionary():
    result = host(sample(250), sample(250))
    whole = result.to_dict()
    assert result.estimate.to_dict().items() <= whole.items()
    assert tsq.selection([result]).verdicts[0].to_dict().items() <= whole.items()
    assert [one.to_dict() for one in result.samples] == whole["samples"]
    assert bad().error.to_dict().items() <= bad().to_dict().items()


def test_a_query_result_always_has_an_estimate():
    result = host(sample(250), Sample(1, reason=Reason.NO_ANSWER), notices=("a notice",), zero_rtt=True)
    found = tsq.QueryResult.of(result)
    assert isinstance(found, tsq.HostResult)
    assert found.estimate == result.estimate
    assert (found.target, found.samples, found.notices, found.zero_rtt) == (result.target, result.samples, ("a notice",), True)
    assert pickle.loads(pickle.dumps(found)) == found


def test_what_has_no_estimate_is_no_query_result():
    with pytest.raises(NoAnswer) as caught:
        tsq.QueryResult.of(bad())
    assert str(caught.value) == "nothing came: wait"
    with pytest.raises(NoAnswer):
        tsq.QueryResult(tsq.Target("time.example"))


@pytest.mark.parametrize("now", [3, 0.5, "now"])
def test_a_selection_refuses_a_time_that_is_no_reading_of_the_clock(now):
    with pytest.raises(tsq.errors.ConfigError) as caught:
        tsq.selection([bad()], now=now)
    assert str(caught.value) == f"now {now!r} (expected a tsq.ClockReading): write now=tsq.clock_reading()"


def test_the_repr_of_a_client_names_its_server():
    assert repr(tsq.connect("time.example")) == "<Client time.example:443>"
