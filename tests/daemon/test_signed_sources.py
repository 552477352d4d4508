"""Sources whose answers must be signed: configuration, polls of a real server, the vote at the start."""

import os
from dataclasses import dataclass, replace

import pytest

from tests.daemon.following import config, run
from tests.support.threads import ServerThread
from tsq.client.exchange import Rules
from tsq.daemon import boot
from tsq.daemon.config import SourceConfig
from tsq.daemon.config_file import load, read
from tsq.daemon.description import describe
from tsq.daemon.reload import changes
from tsq.daemon.source_list import source_name
from tsq.host.clock import SystemClock
from tsq.host.key_files import load_verifier, verifier_identity, write_key
from tsq.options import ClientOptions, Target
from tsq.timing.sample import Reason
from tsq.wire.keys import make_key

SIGNED = 'require_signature = true\nverify_key = "a.pub"\n'


def source(host: str, *lines: str) -> str:
    return f'[[source]]\nhost = "{host}"\n' + "".join(lines)


@pytest.fixture
def written(tmp_path):
    """Writes tsqd.toml beside the key files a.pub and b.pub; its path."""
    for name in "ab":
        write_key(str(tmp_path / name), make_key("ed25519"))

    def write(text: str) -> str:
        (tmp_path / "tsqd.toml").write_text(text)
        return str(tmp_path / "tsqd.toml")

    return write


def problems(path: str) -> list[str]:
    found = read(path)[1]
    return [str(problem).replace(f"{os.path.dirname(path)}/", "") for problem in found]


# ------------------------------------------------------------------------------------------------------- configuration


def test_keys_are_files_beside_the_configuration_one_or_several(written, tmp_path):
    both = 'require_signature = true\nverify_key = ["a.pub", "b.pub"]\n'
    one, two, plain = load(written(source("a", SIGNED) + source("b", both) + source("c"))).sources
    assert one.verify_keys == (str(tmp_path / "a.pub"),)
    assert len(one.verifier.keys) == 1
    assert len(two.verifier.keys) == 2
    assert (plain.require_signature, plain.verifier) == (False, None)
    assert len({one.signers, two.signers, plain.signers}) == 3


def test_the_description_has_the_keys(written, tmp_path):
    shown = "\n".join(describe(load(written(source("a", SIGNED)))).splitlines())
    assert f'verify_key = ["{tmp_path}/a.pub"]' in shown
    assert "require_signature = true" in shown


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("require_signature = true\n", "tsqd.toml:3: key `source.require_signature`: found without `verify_key`, expected both"),
        ('verify_key = "a.pub"\n', "tsqd.toml:3: key `source.verify_key`: found without `require_signature`, expected both"),
        ('require_signature = true\nverify_key = "no"\n', "tsqd.toml:4: key `source.verify_key`: found key file"),
        ('require_signature = true\nverify_key = "a"\n', "expected a tsq-verify-key"),
        ('require_signature = true\nverify_key = "tsqd.toml"\n', "is not a key, expected tsq-verify-key"),
        ("require_signature = 1\n", "found 1, expected true or false"),
        ("require_signature = true\nverify_key = 5\n", "found 5, expected files of keys"),
        ('require_signature = true\nverify_key = ["a.pub", "a.pub"]\n', "each of them once"),
    ],
)
def test_mistakes_are_named(written, lines, words):
    found = problems(written(source("a.example", lines)))
    assert len(found) == 1, found
    assert words in found[0]
    # No secret is shown.
    assert "PRIVATE" not in found[0]


def test_another_key_is_another_server_and_another_name_of_its_file_is_not(written, tmp_path):
    old = load(written(source("a", SIGNED)))
    (tmp_path / "c.pub").write_bytes((tmp_path / "a.pub").read_bytes())
    (change,) = changes(old, load(written(source("a", SIGNED.replace("a.pub", "c.pub"))))).changed
    assert change.same_server
    (tmp_path / "a.pub").write_bytes((tmp_path / "b.pub").read_bytes())
    (change,) = changes(old, load(written(source("a", SIGNED)))).changed
    assert not change.same_server
    (change,) = changes(old, load(written(source("a")))).changed
    assert not change.same_server


def test_a_bootstrap_by_signed_answers_needs_three_such_sources(written):
    three = [source(name, SIGNED) for name in "abc"]
    assert not problems(written("[clock]\nbootstrap = true\nbootstrap_signed = true\n" + "".join(three) + source("d")))
    (found,) = problems(written("[clock]\nbootstrap = true\nbootstrap_signed = true\n" + "".join(three[:2]) + source("d")))
    assert found.startswith("tsqd.toml:3: key `clock.bootstrap_signed`: found true with 2 sources with `require_signature`")
    (found,) = problems(written("[clock]\nbootstrap_signed = true\n" + "".join(three)))
    assert found == "tsqd.toml:2: key `clock.bootstrap_signed`: found true, expected `bootstrap = true` with it"


def test_the_start_is_over_when_the_configuration_is_read_again(written):
    three = "".join(source(name, SIGNED) for name in "abc")
    old = load(written("[clock]\nbootstrap = true\n" + three))
    found = changes(old, load(written("[clock]\nbootstrap = true\nbootstrap_signed = true\n" + three)))
    assert "`clock.bootstrap_signed` is used at the next start" in str(found)
    assert not found.config.clock.bootstrap_signed


# --------------------------------------------------------------------------------------------------------------- polls


@pytest.mark.parametrize("stream", [False, True], ids=["datagrams", "streams"])
@pytest.mark.parametrize("signs", ["its key", "another key", "no key"])
def test_only_answers_with_the_right_signature_are_samples(certificates, tmp_path, signs, stream):
    trusted = write_key(str(tmp_path / "trusted"), make_key("ed25519", 7))
    write_key(str(tmp_path / "other"), make_key("ed25519", 7))
    keys = {"its key": ["trusted"], "another key": ["other"], "no key": []}[signs]
    verifier = load_verifier([trusted])

    async def scenario(following):
        wanted = {"require_signature": True, "verifier": verifier, "signers": verifier_identity(verifier)}
        # Long enough for a handshake on a busy machine: only where there is no answer it is waited for.
        one = replace(config(server.target, server.ca, stream=stream, timeout=3.0), **wanted)
        await following.sources.start([one])
        return [(await following.poll(source_name(one)))[0].sample for _ in range(2)]

    with ServerThread(["127.0.0.1:0"], certificates, sign_keys=[str(tmp_path / name) for name in keys]) as server:
        samples = run(scenario)
    if signs == "its key":
        assert all(sample.valid for sample in samples)
        return
    assert not any(sample.valid for sample in samples)
    # Without a key there is no answer to a datagram (protocol R6).
    reason = {"another key": Reason.SIGNATURE, "no key": Reason.ERROR_REPLY if stream else Reason.NO_ANSWER}[signs]
    assert {sample.reason for sample in samples} == {reason}


# ------------------------------------------------------------------------------------------------------ at the start


@dataclass
class Done:
    failed: str = ""
    stepped: float = 0.0


@pytest.mark.parametrize(("signed", "voters"), [(False, "abc"), (True, "bc")])
def test_each_source_is_asked_with_its_own_keys_and_others_may_have_no_vote(monkeypatch, tmp_path, signed, voters):
    verifiers = {name: load_verifier([write_key(str(tmp_path / name), make_key("ed25519"))]) for name in "bc"}
    asked = {}

    def query_all(targets, options, *, rules, **_):
        asked[targets[0].host] = rules
        return [None]

    def bootstrap(targets, *_, ask, **__):
        ask(targets, ClientOptions(), rules=Rules(offset_limit=5.0))
        return Done()

    monkeypatch.setattr(boot, "query_all", query_all)
    monkeypatch.setattr(boot, "bootstrap", bootstrap)
    sources = [SourceConfig(Target("a"))]
    sources += [SourceConfig(Target(name), require_signature=True, verifier=found) for name, found in verifiers.items()]
    boot.set_at_start(sources, SystemClock(), 0, lambda _: None, signed=signed)
    assert "".join(sorted(asked)) == voters
    assert {name: rules.verifier for name, rules in asked.items()} == {name: verifiers.get(name) for name in voters}
    assert {rules.offset_limit for rules in asked.values()} == {5.0}
