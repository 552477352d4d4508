"""The clock at the start of the daemon: which sources have a vote."""

from dataclasses import dataclass

from tsq.daemon import boot
from tsq.daemon.config import SourceConfig
from tsq.discipline.settings import SourceSettings
from tsq.host.clock import SystemClock
from tsq.options import ClientOptions, Target, Trust


@dataclass
class Done:
    failed: str = ""
    stepped: float = 0.0


def test_sources_that_prove_nothing_have_no_vote(monkeypatch):
    asked = []
    monkeypatch.setattr(boot, "bootstrap", lambda targets, *_, **__: asked.extend(targets) or Done())
    pinned = Trust(pins=("sha256//47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",))
    sources = [
        SourceConfig(Target("a")), SourceConfig(Target("b"), ClientOptions(trust=pinned)),
        SourceConfig(Target("c"), ClientOptions(trust=Trust(insecure=True))),
        SourceConfig(Target("d"), settings=SourceSettings(no_select=True)),
    ]
    assert boot.set_at_start(sources, SystemClock(), 0, lambda _: None) == "the clock needed no step at the start"
    assert asked == [Target("a"), Target("b")]
