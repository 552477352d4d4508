"""The boundaries of the design, checked on the source: which module may import what, use aioquic's private names, read or set a
clock, print."""

import ast
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.tls import Context

import tsq
from tests.support import harmless
from tsq.errors import ConfigError, NotPermitted
from tsq.host import _clock
from tsq.quic.aioquic import hibernate, http3, internals, offload_check, trim

PACKAGE = Path(tsq.__file__).parent
SOURCES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in SOURCES.items()}
COMPILED = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): path
    for path in sorted([*PACKAGE.rglob("*.pxd"), *PACKAGE.rglob("*.pyx")])
}
# What PRIVATE_NAMES of `offload_check` is for.
HANDING_OVER = tuple(f"tsq.quic.aioquic.{name}" for name in ("offload", "shared_connection", "transfer", "offload_check"))
TOUCHING = (*HANDING_OVER, *(f"tsq.quic.aioquic.{name}" for name in ("hibernate", "internals", "trim", "http3")))
PURE = [name for name in TREES if name.startswith(("tsq.wire", "tsq.timing"))]
READS_ONLY = {
    "__init__", "may_set", "now_ns", "monotonic", "alone", "daemon_lock", "reading", "daemon_reading", "mark", "state", "_old_slew",
    "_kept",
}  # fmt: skip
# Each drives the clock by the decisions of a module without I/O.
DRIVERS = ("tsq.host.clock", "tsq.oneshot.adjtime", "tsq.oneshot.bootstrap", "tsq.daemon.daemon")
_STATUS_MODE = 0x10
WITHOUT_CLOCK = [
    *PURE,
    "tsq.client.exchange",
    "tsq.server.responder",
    "tsq.client.channel",
    "tsq.client.outcomes",
    "tsq.server.core",
    "tsq.client.association",
    "tsq.client.polling",
]
# The order of docs/reference/architecture.md, from the top: a module uses only modules below it.
LAYOUT = PACKAGE.parent / "docs" / "reference" / "architecture.md"
ORDER = [
    place.removesuffix("/__init__").replace("/", ".")
    for place in re.findall(r"^\| `(tsq/\S+)\.(?:py|pyx|pxd|h)` \|", LAYOUT.read_text(encoding="utf-8"), re.MULTILINE)
]
# Names that set a clock, or load a library that does. `adjtime` is not among them: in Python it is only the name of our command.
SETS_A_CLOCK = re.compile(r"clock_settime|clock_adjtime|adjtimex|settimeofday|stime|ctypes|cffi|CDLL")
ALLOCATES = re.compile(r"=.*\b(?:malloc|calloc|realloc|aligned_alloc|posix_memalign|EVP_\w+_new|PyMem_\w+)\(")
SETS_A_CLOCK_IN_C = re.compile(rf"\b(?:{SETS_A_CLOCK.pattern}|adjtime|ntp_adjtime)\b")


def imports(tree: ast.AST) -> Iterator[str]:
    """Full names of all modules, and of all names from modules, that a module imports at run time, on any line."""
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are written in full"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def compiled_imports(path: Path) -> Iterator[str]:
    """The same for a .pyx, which ast cannot parse; a cimport of a module of TSQ counts as a use."""
    # Its own .pxd is part of the same module.
    texts = [part.read_text(encoding="utf-8") for part in {path, path.with_suffix(".pxd")} if part.exists()]
    for line in "\n".join(texts).splitlines():
        if match := re.match(r"\s*from (\S+) c?import (.+)", line):
            yield from (f"{match[1]}.{name.strip()}" for name in match[2].split(","))
        elif match := re.match(r"\s*c?import (\S+)", line):
            yield match[1]


IMPORTS = {name: set(imports(tree)) for name, tree in TREES.items()} | {
    name: set(compiled_imports(path)) for name, path in COMPILED.items()
}


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def own_modules(names: set[str]) -> set[str]:
    """The modules of TSQ among these imported names, and those that contain them."""
    found = set()
    for name in names:
        parts = name.split(".")
        prefixes = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
        found |= {next((prefix for prefix in prefixes if prefix in IMPORTS), "")}
    return found - {""}


USES = {name: own_modules(names) - {name} for name, names in IMPORTS.items()}


def names_used(path: Path) -> list[str]:
    """All NAME tokens. Strings and comments are not code."""
    tokens = tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline)
    return [token.string for token in tokens if token.type == tokenize.NAME]


def attributes(tree: ast.AST) -> Iterator[ast.Attribute]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.Attribute))


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def own_private_names(tree: ast.AST) -> set[str]:
    """Private names of a module's own objects: `self._name`, fields and methods of its classes."""
    names = {node.attr for node in attributes(tree) if isinstance(node.value, ast.Name) and node.value.id == "self"}
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            names |= {item.name for item in node.body if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef)}
            names |= {item.target.id for item in node.body if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)}
    return {name for name in names if is_private(name)}


def test_the_tests_see_the_whole_package():
    assert {"tsq", "tsq.cli.client", "tsq.quic.aioquic.internals", "tsq.wire.message", "tsq.timing.sample", "tsq._fast"} <= set(
        IMPORTS
    )
    assert "tsq.errors" in USES["tsq._fast"]
    assert "tsq.wire.message" in USES["tsq.client.channel"]


@pytest.mark.parametrize("name", IMPORTS)
def test_every_module_has_a_docstring(name):
    if name in COMPILED:
        assert COMPILED[name].read_text(encoding="utf-8").startswith('"""')
    else:
        assert ast.get_docstring(TREES[name])


@pytest.mark.parametrize("name", PURE)
def test_wire_and_timing_import_neither_asyncio_socket_time_nor_aioquic(name):
    forbidden = ("asyncio", "socket", "select", "time", "aioquic", "logging", "tsq.host", "tsq.quic")
    assert not [used for used in IMPORTS[name] if any(within(used, module) for module in forbidden)]


@pytest.mark.parametrize("name", [name for name in IMPORTS if not within(name, "tsq.quic")])
def test_only_quic_imports_aioquic(name):
    assert not [used for used in IMPORTS[name] if within(used, "aioquic")]


@pytest.mark.parametrize("name", [name for name in TREES if name not in TOUCHING])
def test_only_the_package_for_aioquic_touches_private_attributes_of_others(name):
    tree = TREES[name]
    own = own_private_names(tree)
    aioquics = {*internals.PRIVATE_NAMES, *internals.PRIVATE_TLS_NAMES}
    touched = [
        f"line {node.lineno}: {ast.unparse(node)}"
        for node in attributes(tree)
        if is_private(node.attr)
        and not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"))
        and (node.attr not in own or node.attr in aioquics)
        # A compiled module of TSQ.
        and not (isinstance(node.value, ast.Name) and f"{node.value.id}.{node.attr}" in IMPORTS)
    ]
    by_string = [
        f"line {node.lineno}: {ast.unparse(node)}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in ("getattr", "setattr", "hasattr", "delattr")
        and isinstance(node.args[1], ast.Constant)
        and is_private(str(node.args[1].value))
    ]
    assert not touched + by_string


def test_the_tables_of_internals_name_what_internals_touches_and_nothing_else():
    used = {node.attr for node in attributes(TREES["tsq.quic.aioquic.internals"]) if is_private(node.attr)}
    assert used == {*internals.PRIVATE_NAMES, *internals.PRIVATE_SENDER_NAMES, *internals.PRIVATE_TLS_NAMES}


def test_the_table_of_the_hand_over_names_what_it_touches_and_nothing_else():
    trees = {name: TREES[name] for name in HANDING_OVER}
    classes = {node.name: node for tree in trees.values() for node in tree.body if isinstance(node, ast.ClassDef)}
    plane, shared = classes["HandOver"], classes["SharedConnection"]
    used = {node.attr for tree in trees.values() for node in attributes(tree) if is_private(node.attr)} - own_private_names(plane)
    used |= {node.name for node in shared.body if isinstance(node, ast.FunctionDef) and is_private(node.name)}
    assert used == {name for names in offload_check.PRIVATE_NAMES.values() for name in names}


def test_the_table_of_hibernate_names_what_hibernate_touches_and_nothing_else():
    own = {"_holds_handshake", "_excessive"}
    used = {node.attr for node in attributes(TREES["tsq.quic.aioquic.hibernate"]) if is_private(node.attr)} - own
    used |= {"ack_at", "ack_eliciting_in_flight", "largest_acked_packet", "loss_time", "hp"}
    assert used == {name for names in hibernate.PRIVATE_NAMES.values() for name in names}


def test_the_tables_of_trim_name_what_trim_touches_and_nothing_else():
    tree = TREES["tsq.quic.aioquic.trim"]
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    own = {"_initialize_base", "_holds_handshake", "_excessive"}
    for name in ("_InitialContext", "_FrameHandlers"):
        own |= own_private_names(classes[name])
    used = {node.attr for node in attributes(tree) if is_private(node.attr)} - own
    used |= {node.name for node in classes["TrimmedConnection"].body if isinstance(node, ast.FunctionDef) and is_private(node.name)}
    assert used == {name for names in trim.PRIVATE_NAMES.values() for name in names}
    replaced = {
        (node.args[0].value, keyword.arg)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "_with_names" and isinstance(node.args[0], ast.Constant)
        for keyword in node.keywords
    }
    assert replaced == {(method, name) for method, names in trim.REPLACED_NAMES.items() for name in names}


def test_the_table_of_http3_names_what_http3_touches_and_nothing_else():
    tree = TREES["tsq.quic.aioquic.http3"]
    bounded = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "BoundedHttp3")
    used = {node.attr for node in attributes(tree) if is_private(node.attr)} - {"_check"}
    used |= {node.name for node in bounded.body if isinstance(node, ast.FunctionDef) and is_private(node.name)} - {"_check"}
    assert used == set(http3.PRIVATE_NAMES)
    assert http3.missing_names() == []


def test_the_installed_aioquic_has_every_name_that_the_data_plane_needs(monkeypatch):
    assert offload_check.missing_names() == []
    monkeypatch.setitem(offload_check.PRIVATE_NAMES, "keys", ("_update_key_requested", "_no_such_name"))
    assert offload_check.missing_names() == ["keys._no_such_name"]


@pytest.mark.parametrize("name", SOURCES)
def test_no_python_module_sets_a_clock_by_itself(name):
    assert not [word for word in names_used(SOURCES[name]) if SETS_A_CLOCK.fullmatch(word)]


@pytest.mark.parametrize("name", IMPORTS)
def test_only_the_clock_module_uses_the_compiled_clock_calls(name):
    reached = [used for used in IMPORTS[name] if within(used, "tsq.host._clock")]
    assert bool(reached) == (name == "tsq.host.clock")


@pytest.mark.parametrize("name", [name for name in TREES if name not in DRIVERS])
def test_only_the_drivers_of_tsq_adjtime_and_tsqd_call_setters_of_the_clock(name):
    setters = {item.name for item in system_clock().body if isinstance(item, ast.FunctionDef)} - READS_ONLY
    assert {"step", "slew", "stop_slewing", "steer", "slew_phase"} <= setters
    calls = [node for node in ast.walk(TREES[name]) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)]
    assert not [node.lineno for node in calls if node.func.attr in setters]


def test_readers_of_the_clock_change_nothing():
    for item in system_clock().body:
        if isinstance(item, ast.FunctionDef) and item.name in READS_ONLY:
            assert not [node for node in attributes(item) if node.attr in ("adjust", "stop_old_slew")], item.name


def system_clock() -> ast.ClassDef:
    return next(node for node in TREES["tsq.host.clock"].body if isinstance(node, ast.ClassDef) and node.name == "SystemClock")


@pytest.mark.parametrize(
    "path",
    sorted({*PACKAGE.rglob("*.pyx"), *PACKAGE.rglob("*.pxd")} - {PACKAGE / "host" / "_clock.pyx"}),
    ids=lambda path: path.name,
)
def test_only_one_compiled_module_sets_a_clock(path):
    # Search the whole text: a string in a .pyx may be C code. The table of calls that a confined process may make holds only names.
    text = re.sub(r'#ifdef SYS_\w+\n\s+\{"\w+", SYS_\w+\},', "", path.read_text(encoding="utf-8"))
    assert not SETS_A_CLOCK_IN_C.findall(text)


def test_the_data_plane_allocates_when_a_connection_or_a_table_begins_and_not_for_a_packet():
    found = set()
    for path in PACKAGE.rglob("*.pyx"):
        function = ""
        for line in path.read_text(encoding="utf-8").splitlines():
            if head := re.match(r"\s*(?:cdef|def|cpdef)\b[^=(]*?(\w+)\(", line):
                function = head.group(1)
            elif ALLOCATES.search(line) and function:
                found.add(f"{path.stem}.{function}")
    assert found == {
        "admission.__cinit__", "batches.__cinit__", "cache.cache_init", "records.chunk_new", "_sockets.io_new",
        "packet.keys_set_aead", "packet.keys_set_protection", "prefixes.access_set", "prefixes.known_init", "prefixes.resize",
        "session.__cinit__", "stamps.stamps_init", "table.table_init", "table.grow",
    }  # fmt: skip


def test_that_module_has_one_call_that_sets_a_clock():
    text = (PACKAGE / "host" / "_clock.pyx").read_text(encoding="utf-8").partition('"""')[2].partition('"""')[2]
    # The declaration and the call.
    assert SETS_A_CLOCK_IN_C.findall(text) == ["clock_adjtime", "clock_adjtime"]


def test_no_test_can_set_this_machines_clock():
    """The kernel permits no clock call to this process and its children."""
    assert not harmless.holds()
    child = subprocess.run(["cat", "/proc/self/status"], capture_output=True, text=True, timeout=60, check=True)
    (effective,) = re.findall(r"^CapEff:\t(\w+)$", child.stdout, re.MULTILINE)
    assert not int(effective, 16) >> harmless.CAP_SYS_TIME & 1
    state = _clock.read()
    with pytest.raises(NotPermitted):
        # This would change nothing if it were permitted.
        _clock.adjust(_STATUS_MODE, status=state[0])


@pytest.mark.parametrize("name", [name for name in TREES if not within(name, "tsq.cli")])
def test_only_cli_prints(name):
    tree = TREES[name]
    printed = [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id in ("print", "input", "breakpoint")]
    streams = [node.lineno for node in attributes(tree) if ast.unparse(node) in ("sys.stdout", "sys.stderr", "sys.__stdout__")]
    assert not printed + streams
    assert not IMPORTS[name] & {"sys.stdout", "sys.stderr"}


PACKAGES = [name for name in TREES if SOURCES[name].name == "__init__.py"]


def test_the_layout_names_every_module_once():
    assert len(ORDER) == len(set(ORDER))
    assert {name for name in IMPORTS if name not in PACKAGES} == set(ORDER) - {"tsq.dataplane.aesgcm"}


@pytest.mark.parametrize("name", [name for name in IMPORTS if name not in PACKAGES])
def test_a_module_uses_only_what_stands_below_it_in_the_layout(name):
    below = ORDER[ORDER.index(name) + 1 :]
    # A package itself has no code; `tsq` re-exports names of its upper modules, which the command lines use.
    packages = {"tsq"} & USES[name] if within(name, "tsq.cli") else set()
    assert USES[name] <= {*below, *packages}, f"{name} uses {sorted(USES[name] - {*below})}, which does not stand below it"


@pytest.mark.parametrize("name", [name for name in IMPORTS if within(name, "tsq.client") or within(name, "tsq.server")])
def test_client_and_server_do_not_use_each_other(name):
    other = "tsq.server" if within(name, "tsq.client") else "tsq.client"
    assert not [used for used in USES[name] if within(used, other)]


@pytest.mark.parametrize("package", [name for name in PACKAGES if name != "tsq"])
def test_a_package_names_its_modules_in_the_order_of_the_layout(package):
    depth = package.count(".") + 1
    found = [".".join(name.split(".")[depth:][:1]) for name in ORDER if within(name, package)]
    # A package inside another one is named at the place of its first module.
    expected = list(dict.fromkeys(found))
    assert re.findall(r"`(\w+)`", (ast.get_docstring(TREES[package]) or "").partition("From the top")[2]) == expected


@pytest.mark.parametrize("name", WITHOUT_CLOCK)
def test_rules_of_the_protocol_read_no_clock(name):
    clocks = ("time", "datetime", "tsq.host", "tsq._fast.clock_ns", "tsq._fast.realtime_ns")
    assert not [used for used in IMPORTS[name] if any(within(used, clock) for clock in clocks)]
    assert not [node.lineno for node in attributes(TREES[name]) if node.attr in ("clock_ns", "time_ns", "monotonic")]


@pytest.mark.parametrize("name", [*PURE, "tsq.client.exchange", "tsq.server.responder"])
def test_packages_with_message_content_cannot_log_it(name):
    assert not [used for used in IMPORTS[name] if within(used, "logging") or within(used, "warnings")]


@pytest.mark.parametrize(
    "name",
    [
        "tsq.client.channel",
    "tsq.client.outcomes",
        "tsq.server.core",
        "tsq.client.exchange",
        "tsq.server.responder",
        "tsq.client.association",
        "tsq.client.polling",
        *PURE,
    ],
)
def test_rules_of_the_protocol_touch_no_socket(name):
    sockets = ("socket", "select", "asyncio", "selectors", "threading", "tsq.quic.udp.UdpSocket")
    assert not [used for used in IMPORTS[name] if any(within(used, module) for module in sockets)]


def test_the_client_starts_without_event_loop_package_metadata_and_server():
    # json is not in the list: aioquic imports it.
    code = "import sys, tsq.cli.client; print(*sorted(sys.modules))"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    loaded = set(process.stdout.split())
    assert "tsq.cli.client" in loaded
    assert not loaded & {
        "asyncio",
        "importlib.metadata",
        "tsq.server.driver",
        "tsq.server.core",
        "tsq.client.asynchronous",
        "tsq.quic.selfsigned",
    }


def test_the_blocking_library_call_starts_without_event_loop_and_server():
    code = "import sys, tsq; tsq.query; print(*sorted(sys.modules))"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    loaded = set(process.stdout.split())
    assert "tsq.client.blocking" in loaded
    assert not loaded & {"asyncio", "importlib.metadata", "tsq.server.driver", "tsq.cli"}


@pytest.fixture
def unchecked(monkeypatch):
    """The state of a process before its first connection."""
    monkeypatch.setattr(internals._Checked, "done", False)


def test_the_installed_aioquic_has_every_private_name():
    connection = QuicConnection(configuration=QuicConfiguration(is_client=True))
    assert not [name for name in internals.PRIVATE_NAMES if not hasattr(connection, name)]
    context = Context(is_client=True)
    assert not [name for name in internals.PRIVATE_TLS_NAMES if not hasattr(context, name)]


@pytest.mark.usefixtures("unchecked")
def test_check_accepts_the_installed_aioquic():
    internals.check(QuicConnection(configuration=QuicConfiguration(is_client=True)))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", internals.PRIVATE_NAMES)
def test_check_refuses_a_connection_that_lacks_a_private_name(name):
    connection = QuicConnection(configuration=QuicConfiguration(is_client=True))
    delattr(connection, name)
    with pytest.raises(ConfigError) as caught:
        internals.check(connection)
    assert name in str(caught.value)
    assert "install aioquic" in str(caught.value)


@pytest.mark.usefixtures("unchecked")
def test_check_refuses_an_aioquic_that_cannot_be_trimmed(monkeypatch):
    monkeypatch.setitem(trim.PRIVATE_NAMES, "tls", ("_no_such_name",))
    with pytest.raises(ConfigError) as caught:
        internals.check(QuicConnection(configuration=QuicConfiguration(is_client=True)))
    assert "tls._no_such_name" in str(caught.value)


@pytest.mark.usefixtures("unchecked")
def test_a_refused_aioquic_is_refused_again_for_the_next_connection():
    connection = QuicConnection(configuration=QuicConfiguration(is_client=True))
    del connection._spaces
    for _ in range(2):
        with pytest.raises(ConfigError):
            internals.check(connection)
