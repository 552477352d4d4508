"""A server's certificate and key: files as people leave them, keys that cannot serve, chains that lack something. A server that
cannot be used says so when it starts, and one that clients will refuse warns.
"""

import os
import subprocess
import threading
import time
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat

from tests.support.odd_certificates import CLIENT, DAY, NOW, Made, Spec, middle, patched, purposes, root, usage
from tests.support.world import World
from tsq.errors import ConfigError
from tsq.quic import selfsigned
from tsq.quic.certificates import credentials
from tsq.quic.selfsigned import CertificateFiles

PADDING = x509.ObjectIdentifier("1.2.3.4.6")


def pem(*parts: Made) -> bytes:
    return b"".join(part.certificate.public_bytes(Encoding.PEM) for part in parts)


def key_pem(made: Made, form=PrivateFormat.PKCS8, encryption=None) -> bytes:
    return made.key.private_bytes(Encoding.PEM, form, encryption or NoEncryption())


def written(directory: Path, certificates: bytes, key: bytes) -> tuple[str, str]:
    files = directory / "cert.pem", directory / "key.pem"
    files[0].write_bytes(certificates)
    files[1].write_bytes(key)
    files[1].chmod(0o600)
    return str(files[0]), str(files[1])


def serves(directory: Path, files: tuple[str, str], authority: Made) -> None:
    """A client with aioquic's and TSQ's own checks takes what the server sends."""
    trusted = directory / "trusted.pem"
    trusted.write_bytes(pem(authority))
    world = World(CertificateFiles(trusted, Path(files[0]), Path(files[1])))
    session = world.channel()
    world.run(5)
    assert session.established, session.error


def openssl(*arguments) -> None:
    subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True, timeout=60, check=True)


@pytest.fixture(scope="module")
def parts():
    """(the server's certificate, the intermediate, the root)."""
    top = root().by()
    between = middle().by(top)
    return Spec().by(between), between, top


# ------------------------------------------------------------------------------------------------------------------ keys


@pytest.mark.parametrize(
    "make",
    [
        lambda: rsa.generate_private_key(65537, 2048), lambda: rsa.generate_private_key(65537, 4096),
        lambda: ec.generate_private_key(ec.SECP256R1()), lambda: ec.generate_private_key(ec.SECP384R1()),
        ed25519.Ed25519PrivateKey.generate, ed448.Ed448PrivateKey.generate,
    ],
    ids=["RSA 2048", "RSA 4096", "P-256", "P-384", "Ed25519", "Ed448"],
)
def test_keys_that_can_sign_serve(tmp_path, make):
    top = root().by()
    leaf = Spec(key=make).by(top)
    files = written(tmp_path, pem(leaf), key_pem(leaf))
    credentials.load(*files)
    serves(tmp_path, files, top)


CANNOT_SIGN = {
    "P-521": (ec.SECP521R1, "EC secp521r1"), "secp256k1": (ec.SECP256K1, "EC secp256k1"), "P-224": (ec.SECP224R1, "EC secp224r1"),
    "P-192": (ec.SECP192R1, "EC secp192r1"), "brainpool": (ec.BrainpoolP256R1, "EC brainpoolP256r1"),
}


def refuses_to_sign(files: tuple[str, str], kind: str) -> None:
    with pytest.raises(ConfigError) as caught:
        credentials.load(*files)
    assert "no QUIC handshake can be signed with a key of this kind" in str(caught.value)
    assert f"({kind})" in str(caught.value)
    assert "expected RSA, EC P-256, EC P-384, Ed25519 or Ed448" in str(caught.value)


@pytest.mark.parametrize("name", CANNOT_SIGN)
def test_curves_that_cannot_sign_are_refused(tmp_path, name):
    curve, kind = CANNOT_SIGN[name]
    leaf = Spec(key=lambda: ec.generate_private_key(curve())).by(root().by())
    refuses_to_sign(written(tmp_path, pem(leaf), key_pem(leaf)), kind)


def test_dsa_keys_are_refused(tmp_path):
    leaf = Spec(key=lambda: dsa.generate_private_key(2048)).by(root().by())
    refuses_to_sign(written(tmp_path, pem(leaf), key_pem(leaf)), "DSA")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:512"], ("cannot be read", "RSA of 512 bits")),
        (["-algorithm", "RSA-PSS", "-pkeyopt", "rsa_keygen_bits:2048"], ("RSA-PSS",)),
        (["-algorithm", "SM2"], ("cannot be read", "EC SM2", "sm2")),
    ],
    ids=["RSA 512", "RSA-PSS", "SM2"],
)
def test_keys_of_openssls_that_cannot_serve_are_refused(tmp_path, arguments, words):
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    openssl("genpkey", *arguments, "-out", key)
    openssl("req", "-x509", "-key", key, "-subj", "/CN=x", "-days", "9", "-out", certificate)
    with pytest.raises(ConfigError) as caught:
        credentials.load(str(certificate), str(key))
    assert any(part in str(caught.value) for part in words)
    assert "RSA, EC P-256, EC P-384, Ed25519 or Ed448" in str(caught.value)


@pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
@pytest.mark.parametrize("kind", ["RSA", "EC"])
def test_an_encrypted_key_is_told_as_such(tmp_path, form, kind):
    make = {"RSA": lambda: rsa.generate_private_key(65537, 2048), "EC": lambda: ec.generate_private_key(ec.SECP256R1())}[kind]
    leaf = Spec(key=make).by()
    files = written(tmp_path, pem(leaf), key_pem(leaf, form, BestAvailableEncryption(b"secret")))
    with pytest.raises(ConfigError, match=r"the key in \S+ is encrypted .*`openssl pkey -in \S+ -out NEW` removes the passphrase"):
        credentials.load(*files)


def test_a_key_that_belongs_to_none_of_the_certificates_is_told(tmp_path, parts):
    leaf, between, _ = parts
    files = written(tmp_path, pem(leaf, between), key_pem(Spec().by()))
    with pytest.raises(ConfigError, match="do not belong together, nor with any other of its 2 certificates"):
        credentials.load(*files)


@pytest.mark.parametrize(
    ("mode", "owner", "words"),
    [
        (0o600, 0, ""), (0o400, 0, ""), (0o640, 0, ""), (0o640, 4321, "other users can read it"),
        (0o644, 0, "every user of this machine can read it"), (0o604, 4321, "every user of this machine can read it"),
        (0o666, 0, "every user of this machine can change it"), (0o660, 0, "other users can change it"),
    ],
)
def test_a_key_that_others_can_read_is_warned_of(tmp_path, parts, mode, owner, words):
    if os.geteuid() != 0:
        pytest.skip("needs root, to give files away")
    files = written(tmp_path, pem(parts[0], parts[1]), key_pem(parts[0]))
    Path(files[1]).chmod(mode)
    os.chown(files[1], owner, owner)
    found = [warning for warning in credentials.load(*files).warnings if "has mode" in warning]
    assert bool(found) == bool(words)
    assert all(f"has mode {mode:04o}: {words}; `chmod 600 {files[1]}`" in warning for warning in found)
    assert Path(files[1]).stat().st_mode & 0o777 == mode, "modes are not changed"


# ----------------------------------------------------------------------------------------------------------------- files


def forms(parts) -> dict[str, bytes]:
    leaf, between, _ = parts
    plain = pem(leaf, between)
    lines = plain.decode().splitlines()
    return {
        "Windows' line ends": "\r\n".join(lines).encode(), "old line ends": "\r".join(lines).encode(),
        "blanks at line ends": "\t \n".join(lines).encode(), "blanks in front": "\n".join(f"  {line}" for line in lines).encode(),
        "text between": b"subject: server\n" + pem(leaf) + b"\nissuer\n\n" + pem(between) + b"\nthe end",
        "the key in the middle": pem(leaf) + key_pem(leaf) + pem(between), "the key first": key_pem(leaf) + plain,
        "no last line end": plain.rstrip(), "a byte order mark": b"\xef\xbb\xbf" + plain, "twice the same": plain + plain,
        "no line end between": pem(leaf).rstrip() + pem(between),
    }  # fmt: skip


@pytest.mark.parametrize(
    "form",
    [
        "Windows' line ends", "old line ends", "blanks at line ends", "blanks in front", "text between", "the key in the middle",
        "the key first", "no last line end", "a byte order mark", "twice the same", "no line end between",
    ],
)
def test_a_chain_is_served_whole_in_whatever_form_the_file_is(tmp_path, parts, form):
    leaf, between, top = parts
    files = written(tmp_path, forms(parts)[form], key_pem(leaf))
    loaded = credentials.load(*files)
    assert loaded.chain == (leaf.certificate, between.certificate)
    assert loaded.warnings == ()
    serves(tmp_path, files, top)


def test_a_key_file_may_hold_more_than_the_key(tmp_path, parts):
    leaf, between, _ = parts
    for content in (
        pem(leaf) + key_pem(leaf), key_pem(leaf).replace(b"\n", b"\r\n"), key_pem(Spec().by()) + key_pem(leaf),
        b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
        + key_pem(leaf, PrivateFormat.TraditionalOpenSSL),
    ):  # fmt: skip
        files = written(tmp_path, pem(leaf, between), content)
        assert credentials.load(*files).key.public_key() == leaf.key.public_key()


@pytest.mark.parametrize("order", [(1, 0), (2, 1, 0), (0, 2, 1), (1, 2, 0)])
def test_certificates_in_the_wrong_order_are_sent_in_the_right_one(tmp_path, parts, order):
    leaf, _, top = parts
    files = written(tmp_path, pem(*(parts[place] for place in order)), key_pem(leaf))
    loaded = credentials.load(*files)
    assert loaded.chain == tuple(part.certificate for part in parts[: len(order)])
    (warning,) = loaded.warnings
    assert "are in the wrong order" in warning
    place = next(place for place, part in enumerate(order) if part != place)
    found, right = (parts[part].certificate.subject.rfc4514_string() for part in (order[place], place))
    assert f"certificate {place + 1} is {found} (expected certificate {order.index(place) + 1}, {right}" in warning
    assert ("which the key belongs to" in warning) == (place == 0)
    serves(tmp_path, files, top)


def test_what_is_no_part_of_the_chain_is_named(tmp_path, parts):
    leaf, between, top = parts
    stranger = root(subject="stranger").by()
    files = written(tmp_path, pem(leaf, stranger, between), key_pem(leaf))
    loaded = credentials.load(*files)
    assert loaded.chain == tuple(part.certificate for part in (leaf, between, stranger))
    assert any("holds a certificate that is no part of the chain: CN=stranger" in warning for warning in loaded.warnings)
    serves(tmp_path, files, top)


@pytest.mark.parametrize("which", [0, 1], ids=["certificate", "key"])
@pytest.mark.parametrize(
    ("path", "words"),
    [("fifo", "is a FIFO, not a regular file"), ("/dev/zero", "is a device, not a regular file"), ("/", "Is a directory")],
)
def test_special_files_are_refused_and_never_waited_for(tmp_path, parts, which, path, words):
    files = list(written(tmp_path, pem(parts[0]), key_pem(parts[0])))
    if path == "fifo":
        path = str(tmp_path / "fifo")
        os.mkfifo(path)
    files[which] = path
    done: list[str] = []

    def load() -> None:
        with pytest.raises(ConfigError) as caught:
            credentials.load(*files)
        done.append(str(caught.value))

    loading = threading.Thread(target=load, daemon=True)
    loading.start()
    loading.join(30)
    assert done, "it hangs"
    assert f"{path}: {words}" in done[0]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (lambda made: made.certificate.public_bytes(Encoding.DER), "it seems to be in DER form"),
        (lambda made: pem(made).decode().encode("utf-16"), "it is text in UTF-16"),
        (lambda made: pem(made).replace(b"MII", b"???", 1), "is damaged: certificate 1 cannot be read"),
        (lambda made: pem(made)[:200], "is damaged: the block 1 (CERTIFICATE) has no end"),
        (lambda made: pem(made).replace(b"CERTIFICATE", b"CERTIFICATE REQUEST"), "holds no certificate"),
    ],
)
def test_files_that_hold_no_certificate_say_what_they_hold(tmp_path, parts, content, words):
    files = written(tmp_path, content(parts[0]), key_pem(parts[0]))
    with pytest.raises(ConfigError) as caught:
        credentials.load(*files)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_certificate_whose_parts_cannot_be_read_is_an_error_in_words(tmp_path):
    made = Spec(subject="a subject").by(root().by())
    spoiled = patched(made, Spec().by(), b"a subject", b"a \xffubject")
    files = written(tmp_path, pem(spoiled), key_pem(spoiled))
    with pytest.raises(ConfigError, match="a certificate is malformed: "):
        credentials.load(*files)


# ---------------------------------------------------------------------------------------------------------------- chains


def test_a_chain_is_refused_where_the_quic_stack_cannot_send_it_and_served_up_to_there(tmp_path):
    top = root().by()
    for key in (lambda: ec.generate_private_key(ec.SECP256R1()), lambda: rsa.generate_private_key(65537, 4096)):
        leaf = Spec(key=key, extensions=[padding(10_000)]).by(top)
        space = credentials.largest_chain(leaf.key) - len(leaf.certificate.public_bytes(Encoding.DER)) - 5
        for more, fits in ((space - 4, True), (space + 8, False)):
            # A signature of an elliptic curve is a byte or two shorter now and then.
            made = Spec(key=lambda leaf=leaf: leaf.key, extensions=[padding(10_000 + more)]).by(top)
            files = written(tmp_path, pem(made), key_pem(made))
            if fits:
                serves(tmp_path, files, top)
            else:
                with pytest.raises(ConfigError, match=r"the chain of 1 has \d+ bytes \(expected \d+ at the most"):
                    credentials.load(*files)


def padding(size: int):
    return x509.UnrecognizedExtension(PADDING, bytes(size)), False


def test_a_certificate_without_its_intermediate_is_warned_of(tmp_path, parts):
    leaf, between, top = parts
    files = written(tmp_path, pem(leaf), key_pem(leaf))
    (warning,) = credentials.load(*files).warnings
    assert "lacks the certificate of CN=middle, which signed the server's" in warning
    assert "append its certificate" in warning
    (warning,) = credentials.load(*written(tmp_path, pem(leaf, top), key_pem(leaf))).warnings[1:]
    assert "lacks the certificate of CN=middle" in warning
    assert credentials.load(*written(tmp_path, pem(leaf, between), key_pem(leaf))).warnings == ()
    lonely = Spec().by()
    assert credentials.load(*written(tmp_path, pem(lonely), key_pem(lonely))).warnings == ()


def test_the_throw_away_authority_is_not_missed(tmp_path):
    assert credentials.THROW_AWAY_AUTHORITY == selfsigned._AUTHORITY_NAME
    files = selfsigned.self_signed(str(tmp_path / "lab"), ["localhost"])
    assert credentials.load(str(files.certificate), str(files.key)).warnings == ()


REFUSED = {
    "no name": (Spec(names=None), [root()], "it has no name that clients look at (subjectAltName)"),
    "for clients": (Spec(extensions=[purposes(CLIENT)]), [root()], "it is for TLS clients, not for TLS servers"),
    "not for TLS": (Spec(extensions=[(usage("key_cert_sign"), True)]), [root()], "must not be used for TLS"),
    "RSA of 1024 bits": (Spec(key=lambda: rsa.generate_private_key(65537, 1024)), [root()], "an RSA key of 1024 bits"),
    "SHA-1": (
        Spec(old_digest="SHA1"), [root(key=lambda: rsa.generate_private_key(65537, 2048))], "a signature with SHA-1",
    ),
    "not valid yet": (Spec(not_before=NOW + DAY), [root()], "it is not valid before "),
    "no authority": (Spec(), [middle(authority=False), root()], "CN=middle, which signed it, is no authority"),
    "an old authority": (Spec(), [middle(not_after=NOW - DAY / 2), root()], "its authority CN=middle is outside its validity"),
    "an authority for clients": (
        Spec(), [middle(extensions=[purposes(CLIENT)]), root()], "its authority CN=middle is for TLS clients",
    ),
    "a weak authority": (
        Spec(), [middle(key=lambda: ec.generate_private_key(ec.SECP192R1())), root()],
        "its authority CN=middle has a key of 192 bits",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_clients_will_refuse_is_served_with_a_warning(tmp_path, case):
    leaf, above, words = REFUSED[case]
    chain: list[Made] = []
    issuer = None
    for spec in reversed(above):
        issuer = spec.by(issuer)
        chain.insert(0, issuer)
    made = leaf.by(issuer)
    loaded = credentials.load(*written(tmp_path, pem(made, *chain), key_pem(made)))
    (warning,) = loaded.warnings
    assert warning.startswith("clients will refuse certificate ")
    assert words in warning


def test_loading_takes_a_small_part_of_a_reload(tmp_path, parts):
    files = written(tmp_path, pem(parts[0], parts[1]), key_pem(parts[0]))
    before = time.process_time()
    for _ in range(10):
        credentials.load(*files)
    assert time.process_time() - before < 5
