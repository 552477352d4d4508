"""What checks certificates is loaded when one is checked, and then it is the real thing."""

import subprocess
import sys

import pytest

from tests.support.world import World
from tsq.errors import CertificateError

LAZILY = "from tsq.cli.lazy_imports import load_aioquic\nload_aioquic()\n"
CHECKS = {"service_identity", "OpenSSL", "OpenSSL.crypto", "certifi"}


def run(code):
    done = subprocess.run([sys.executable, "-c", f"import sys\n{code}"], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.splitlines()


def test_loading_the_client_loads_nothing_that_only_checks_certificates():
    (loaded,) = run(f"{LAZILY}import tsq.cli.client\nprint(*sorted(sys.modules))")
    assert "aioquic.tls" in loaded.split()
    assert not CHECKS & set(loaded.split())


@pytest.mark.parametrize("name", ["service_identity.CertificateError", "certifi.where", "crypto.X509Store"])
def test_what_aioquic_finds_is_the_real_thing(name):
    module, attribute = name.split(".")
    home = "OpenSSL.crypto" if module == "crypto" else module
    same, again, stands_in = run(
        f"{LAZILY}import aioquic.tls\nfound = aioquic.tls.{name}\nimport {home}\n"
        f"print(found is {home}.{attribute})\nprint(aioquic.tls.{name} is found)\n"
        f"print(type(sys.modules['{home}']).__name__ == '_Later')"
    )
    assert (same, again, stands_in) == ("True", "True", "False")


@pytest.mark.parametrize("first", [*sorted(CHECKS), "aioquic.tls"])
def test_modules_that_are_loaded_already_stay_what_they_are(first):
    (line,) = run(f"import {first}\nbefore = sys.modules['{first}']\n{LAZILY}print(sys.modules['{first}'] is before)")
    assert line == "True"
    # And the rest can still be loaded by whoever wants it.
    rest = "import OpenSSL.SSL, service_identity.pyopenssl, certifi"
    (line,) = run(f"import {first}\n{LAZILY}{rest}\nprint(OpenSSL.SSL.Context.__name__)")
    assert line == "Context"


def test_loading_the_rest_loads_all_of_it():
    (loaded,) = run("from tsq.quic import tls\ntls.load_checks()\nprint(*sorted(sys.modules))")
    assert set(loaded.split()) >= {"tsq.quic.certificates.chain", "OpenSSL.crypto"}


def test_a_check_that_cannot_be_loaded_fails_the_handshake_and_says_so(certificates, monkeypatch):
    world = World(certificates)
    monkeypatch.delattr("tsq.quic.certificates.chain", raising=False)
    monkeypatch.setitem(sys.modules, "tsq.quic.certificates.chain", None)
    session = world.channel()
    world.run(3)
    assert not session.established
    assert isinstance(session.error, CertificateError)
    assert "certificates cannot be checked here" in str(session.error)
    assert "is the installation of TSQ complete?" in str(session.error)
    assert session.samples == []
