"""The choice among the sources: as tsq-client's selection, with chrony's options."""

import pytest

from tsq.discipline.choice import NOT_PREFERRED, choose
from tsq.discipline.settings import SourceSettings
from tsq.timing.filter import Estimate
from tsq.timing.intersection import Interval
from tsq.timing.sample import Sample
from tsq.timing.selection import Criteria, Mark, NoTime, Source, Unused, select
from tsq.timing.server_state import ServerState

NOW = 1_800_000_000_000_000_000


def source(name: str, offset: float = 0.0, distance: float = 1e-3, **state) -> Source:
    server = ServerState(NOW, **({"stratum": 1} | state))
    interval = Interval(offset - distance, offset + distance)
    return Source(name, Estimate(offset, distance, 1e-3, 1e-5, Sample(NOW), server, at_ns=NOW, interval=interval), name)


def marks(sources, options, **criteria):
    found = choose(sources, [SourceSettings(**one) for one in options], NOW, Criteria(**criteria))
    return "".join(mark.value for mark, _ in found.marks), found


def test_without_options_it_is_the_selection():
    sources = [source("a", 0.5), source("b"), source("c", 1e-4), source("d", -1e-4), source("e", stratum=0), Source("f")]
    found, choice = marks(sources, [{}] * 6)
    wanted = select(sources, NOW, Criteria())
    assert [mark for mark, _ in choice.marks] == [one.mark for one in wanted.verdicts]
    assert choice.agreed == wanted.agreed
    assert choice.marks[0] == (Mark.FALSETICKER, Unused.FALSETICKER.value)
    assert found[choice.best] == "*"
    assert set(choice.survivors) == {1, 2, 3}


def test_preferred_sources_are_used_before_the_others():
    found, choice = marks([source("a"), source("b"), source("c")], [{}, {"prefer": True}, {}])
    assert found == "-*-"
    assert choice.marks[0][1] == NOT_PREFERRED
    assert choice.survivors == (1,)
    assert choice.best == 1


def test_but_not_if_they_are_wrong():
    found, _ = marks([source("a"), source("b", 1.0), source("c")], [{}, {"prefer": True}, {}])
    assert found in ("*x+", "+x*")


def test_one_that_is_only_far_from_the_others_may_be_preferred():
    sources = [source("a"), source("b", 1e-6), source("c", 2e-6), source("d", 0.9e-3)]
    assert marks(sources, [{}] * 4)[0][3] == "-"
    assert marks(sources, [{}, {}, {}, {"prefer": True}])[0] == "---*"


def test_a_trusted_source_is_not_outvoted():
    sources = [source("a"), source("b", 1.0), source("c", 1.0), source("d", 1.0)]
    assert marks(sources, [{}] * 4)[0][0] == "x"
    found, choice = marks(sources, [{"trust": True}, {}, {}, {}])
    assert found == "*xxx"
    assert choice.agreed.offset == 0.0


def test_sources_that_agree_with_the_trusted_one_are_combined():
    found, choice = marks([source("a"), source("b", 1e-4), source("c", 1.0)], [{"trust": True}, {}, {}])
    assert found == "*+x"
    assert choice.agreed.interval == Interval(-1e-3, 1e-3)


def test_trusted_sources_that_contradict_each_other():
    found, choice = marks([source("a"), source("b", 1.0), source("c")], [{"trust": True}, {"trust": True}, {}])
    assert found == "xx?"
    assert choice.problem is NoTime.TWO_DISAGREE


def test_a_trusted_source_that_cannot_be_used_has_no_say():
    found, _ = marks([source("a", stratum=0), source("b"), source("c")], [{"trust": True}, {}, {}])
    assert found in ("?*+", "?+*")


@pytest.mark.parametrize(("least", "wanted"), [(2, None), (3, NoTime.TOO_FEW)])
def test_enough_sources_are_needed_with_a_trusted_one_too(least, wanted):
    found, choice = marks([source("a"), source("b"), source("c", 1.0)], [{"trust": True}, {}, {}], min_sources=least)
    assert choice.problem is wanted
    if wanted:
        assert found == "??x"


def test_nobody():
    assert marks([], [])[1].problem is NoTime.NO_SOURCE
    assert marks([Source("a")], [{}])[0] == "?"
