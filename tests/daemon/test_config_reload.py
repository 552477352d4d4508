"""What a reload touches: only what changed, and what cannot change at run time is said."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsq.daemon.config import (
    ClockConfig,
    Config,
    ControlConfig,
    FeedConfig,
    LogConfig,
    MetricsConfig,
    NtpServerConfig,
    SourceConfig,
)
from tsq.daemon.config_file import load
from tsq.daemon.reload import FeedChanges, SourceChange, changes
from tsq.discipline.settings import ClockSettings, Mode, SourceSettings
from tsq.options import ClientOptions, Target, Trust

A, B, C = (SourceConfig(Target(name)) for name in "abc")
OLD = Config(sources=(A, B), files=("/etc/tsq/tsqd.toml",))
HIGH, LOW, ANY = Target("127.0.0.1", 9975), Target("127.0.0.1", 123), Target("127.0.0.1", 0)


def test_nothing_changes_nothing():
    found = changes(OLD, replace(OLD, files=("other",)))
    assert not found
    assert str(found) == "nothing changed"
    assert found.config.files == ("other",)


def test_the_order_of_the_sources_is_no_change():
    assert not changes(OLD, replace(OLD, sources=(B, A)))


def test_sources_are_added_removed_and_changed_and_the_others_are_left_alone():
    slower = replace(B, settings=SourceSettings(min_poll=6))
    found = changes(Config(sources=(A, B, replace(C, pool=2))), Config(sources=(slower, C, SourceConfig(Target("a", 4443)))))
    assert found.removed == (A,)
    assert found.added == (SourceConfig(Target("a", 4443)),)
    assert found.changed == (SourceChange(B, slower), SourceChange(replace(C, pool=2), C))
    assert [change.same_server for change in found.changed] == [True, False]
    assert found.sources
    assert str(found) == "removed: a:443; added: a:4443; changed: b:443, c:443"
    assert (found.settings, found.clock, found.feeds) == (None, None, FeedChanges())


@pytest.mark.parametrize(("other", "same"), [
    (replace(A, client=ClientOptions(timeout=1.0)), True), (replace(A, offline=True), True),
    (replace(A, client=ClientOptions(trust=Trust(ca_file="x"))), False), (replace(A, client=ClientOptions(server_name="x")), False),
    (replace(A, client=ClientOptions(family=6)), False), (replace(A, authorities="another content"), False),
])
def test_another_trust_may_be_another_server(other, same):
    (change,) = changes(OLD, replace(OLD, sources=(other, B))).changed
    assert change.same_server == same


def test_another_content_of_a_certificate_file_changes_the_sources_that_trust_it(tmp_path, certificates):
    (tmp_path / "ca.pem").write_bytes(certificates.authority.read_bytes())
    (tmp_path / "tsqd.toml").write_text('[[source]]\nhost = "a"\nca = "ca.pem"\n[[source]]\nhost = "b"\n')
    old = load(str(tmp_path / "tsqd.toml"))
    assert not changes(old, load(str(tmp_path / "tsqd.toml")))
    (tmp_path / "ca.pem").write_bytes(certificates.authority.read_bytes() + certificates.certificate.read_bytes())
    found = changes(old, load(str(tmp_path / "tsqd.toml")))
    assert [str(change.new.target) for change in found.changed] == ["a:443"]
    assert not found.changed[0].same_server


def test_settings_of_the_clock_and_the_rest_of_its_table_are_apart():
    new = replace(OLD, clock=ClockConfig(ClockSettings(panic=1.0)))
    found = changes(OLD, new)
    assert (found.settings, found.clock) == (ClockSettings(panic=1.0), None)
    assert str(found) == "changed: [clock]"
    new = replace(OLD, clock=ClockConfig(drift_file="x"))
    found = changes(OLD, new)
    assert (found.settings, found.clock) == (None, new.clock)
    assert found


def test_only_feeds_that_changed_end_and_begin():
    old = FeedConfig(("/a", "/b"), (0, 1), NtpServerConfig(HIGH), "/s", "/c")
    new = FeedConfig(("/b", "/d"), (1, 2), NtpServerConfig(ANY), "/s", "")
    found = changes(replace(OLD, feed=old), replace(OLD, feed=new)).feeds
    assert found == FeedChanges(("/a",), ("/d",), (0,), (2,), NtpServerConfig(HIGH), NtpServerConfig(ANY), clockbound_removed="/c")
    back = changes(replace(OLD, feed=new), replace(OLD, feed=old)).feeds
    assert back == FeedChanges(("/d",), ("/a",), (2,), (0,), NtpServerConfig(ANY), NtpServerConfig(HIGH), clockbound_added="/c")
    moved = changes(replace(OLD, feed=old), replace(OLD, feed=replace(old, segment="/t"))).feeds
    assert moved == FeedChanges(segment_removed="/s", segment_added="/t")


@pytest.mark.parametrize(("name", "value"), [
    ("control", ControlConfig(group="root")), ("metrics", MetricsConfig(HIGH)), ("log", LogConfig(level="debug")),
])
def test_a_table_that_changed_is_given_as_a_whole(name, value):
    found = changes(OLD, replace(OLD, **{name: value}))
    assert getattr(found, name) == value
    assert {other for other in ("control", "metrics", "log", "settings", "clock") if getattr(found, other) is not None} == {name}
    assert str(found) == f"changed: [{name}]"


@pytest.mark.parametrize("mode", [Mode.FEED, Mode.OBSERVE])
def test_the_mode_needs_a_restart_in_both_directions(mode):
    steering, other = OLD, replace(OLD, clock=ClockConfig(ClockSettings(mode=mode)))
    for old, new in ((steering, other), (other, steering)):
        wanted = new.clock.settings.mode
        found = changes(old, replace(new, clock=replace(new.clock, settings=replace(new.clock.settings, panic=3.0))))
        assert found.config.clock.settings.mode is old.clock.settings.mode
        # What else is in the table changes.
        assert found.settings == replace(old.clock.settings, panic=3.0)
        assert found.refused == (f"`clock.mode` stays {old.clock.settings.mode} until a restart, which is necessary for {wanted}",)
        assert str(found).endswith(found.refused[0])


def test_a_bootstrap_is_for_the_next_start():
    found = changes(OLD, replace(OLD, clock=ClockConfig(bootstrap=True)))
    assert not found
    assert str(found) == "`clock.bootstrap` is used at the next start: a clock that runs is not set by it"
    assert not found.config.clock.bootstrap


def test_a_port_that_needs_a_privilege_can_be_bound_at_the_start_only():
    new = replace(OLD, feed=FeedConfig(ntp=NtpServerConfig(LOW)), metrics=MetricsConfig(LOW))
    found = changes(OLD, new)
    assert not found
    assert found.refused == (
        "`feed.ntp.listen` stays as it is: port 123 can be bound at the start only",
        "`metrics.listen` stays as it is: port 123 can be bound at the start only",
    )
    assert not changes(new, new).refused
    assert changes(new, OLD).feeds.ntp_removed == NtpServerConfig(LOW)
    assert changes(OLD, replace(OLD, metrics=MetricsConfig(Target("127.0.0.1", 1024)))).metrics


NAMED = st.builds(
    SourceConfig, st.sampled_from([Target("a"), Target("b"), Target("c", 1)]),
    settings=st.sampled_from([SourceSettings(), SourceSettings(5)]), pool=st.integers(0, 1),
)
CLOCKS = st.builds(
    ClockConfig, st.builds(ClockSettings, st.sampled_from(Mode), panic=st.sampled_from([1.0, 2.0])), st.sampled_from("xy"),
    bootstrap=st.booleans(),
)
FEEDS = st.builds(
    FeedConfig, st.lists(st.sampled_from(["/a", "/b"]), unique=True).map(tuple),
    st.lists(st.integers(0, 1), unique=True).map(tuple),
    st.sampled_from([None, NtpServerConfig(HIGH), NtpServerConfig(LOW)]), st.sampled_from(["", "/s"]),
)
CONFIGS = st.builds(
    Config, st.lists(NAMED, max_size=3, unique_by=lambda source: source.target).map(tuple), CLOCKS, FEEDS,
    metrics=st.builds(MetricsConfig, st.sampled_from([None, HIGH, LOW])),
    log=st.builds(LogConfig, st.sampled_from(["info", "debug"])),
)


@given(old=CONFIGS, new=CONFIGS)
@settings(max_examples=300)
def test_after_the_changes_the_new_configuration_runs_but_for_what_was_refused(old, new):
    found = changes(old, new)
    running = {source.target: source for source in old.sources}
    for source in found.removed:
        del running[source.target]
    for change in found.changed:
        assert running[change.new.target] == change.old != change.new
        running[change.new.target] = change.new
    for source in found.added:
        assert source.target not in running
        running[source.target] = source
    assert running == {source.target: source for source in found.config.sources}
    assert (found.settings or old.clock.settings) == found.config.clock.settings
    assert (found.metrics or old.metrics) == found.config.metrics
    assert (found.log or old.log) == found.config.log
    feeds = found.feeds
    assert set(found.config.feed.sock) == set(old.feed.sock) - set(feeds.sock_removed) | set(feeds.sock_added)
    assert set(found.config.feed.shm) == set(old.feed.shm) - set(feeds.shm_removed) | set(feeds.shm_added)
    if not found.refused:
        assert found.config == new
    # A second reload of the same file has nothing more to do, and says the same.
    again = changes(found.config, new)
    assert not again
    assert again.refused == found.refused
