"""The settings of docs/howto/balancers.md: the programs accept them, and nginx forwards with them."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.support.chronyd import until
from tests.support.namespaces import inside, need_root_and, pair
from tests.support.ports import free_port
from tests.support.processes import ServerProcess, run_client

PAGE = Path(__file__).resolve().parent.parent / "docs" / "howto" / "balancers.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("rules", blocks("nft"), ids=lambda text: "server ID" if "@th" in text else "hash")
def test_nft_accepts_the_rules(rules, tmp_path):
    need_root_and("nft")
    file = tmp_path / "rules.nft"
    file.write_text(rules)
    with pair(["192.0.2.1"], ["192.0.2.2"]) as network:
        for text, status in ((rules, 0), (rules.replace("jhash", "jcrash"), 1)):
            file.write_text(text)
            command = [*inside(network.one), "nft", "--check", "--file", file]
            done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
            assert done.returncode == status, done.stderr


def nginx(directory: Path, text: str, *options: str) -> list[str | Path]:
    """The command, with all that it writes in this directory."""
    file = directory / "nginx.conf"
    own = f"pid {directory}/pid;\nerror_log stderr;\n"
    file.write_text(text.replace("events {", own + "events {"))
    return ["nginx", "-p", directory, "-e", "stderr", "-c", file, *options]


def test_nginx_accepts_the_settings(tmp_path):
    if shutil.which("nginx") is None:
        pytest.skip("nginx is not installed (Debian: apt-get install nginx libnginx-mod-stream)")
    (text,) = blocks("nginx")
    text = text.replace("modules/", "/usr/lib/nginx/modules/")
    done = subprocess.run(nginx(tmp_path, text, "-t"), capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 0, done.stderr
    assert "syntax is ok" in done.stderr
    wrong = nginx(tmp_path, text.replace("proxy_pass", "proxy_past"), "-t")
    done = subprocess.run(wrong, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode != 0


def test_nginx_forwards_to_one_of_the_servers_and_resumes_there(certificates, tmp_path):
    if shutil.which("nginx") is None:
        pytest.skip("nginx is not installed (Debian: apt-get install nginx libnginx-mod-stream)")
    (text,) = blocks("nginx")
    server = ["--listen", "127.0.0.1:0", "--cert", certificates.certificate, "--key", certificates.key, "--workers", "1"]
    with ServerProcess(server) as one, ServerProcess(server) as other:
        port = free_port()
        servers = f"server {one.target};\nserver {other.target};\n"
        text = text.replace("modules/", "/usr/lib/nginx/modules/").replace("listen 443", f"listen 127.0.0.1:{port}")
        text = re.sub(r"( *server 192\S+;\n)+", servers, text)
        command = nginx(tmp_path, text, "-g", "daemon off; user root;")
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
        try:
            until(lambda: (tmp_path / "pid").exists() or process.poll() is not None, 60)
            done = run_client(f"127.0.0.1:{port}", "--ca", certificates.authority, "--count", "5", "--interval", "0.01", "--json")
        finally:
            process.terminate()
            process.communicate(timeout=60)
        assert done.returncode == 0, done.stderr
        assert len(json.loads(done.stdout)["hosts"][0]["samples"]) == 5
        one.stop()
        other.stop()
    # A hash of the address: all of a client's packets go to the same one.
    answered = [int(found[1]) if (found := re.search(r"answered: (\d+)", each.errors)) else 0 for each in (one, other)]
    assert sorted(answered)[0] == 0
    assert sorted(answered)[1] >= 5


def test_the_settings_of_envoy_name_one_cluster():
    (text,) = blocks("yaml")
    resources = yaml.safe_load(text)["static_resources"]
    (listener,), (cluster,) = resources["listeners"], resources["clusters"]
    (configuration,) = (filtered["typed_config"] for filtered in listener["listener_filters"])
    assert configuration["matcher"]["on_no_match"]["action"]["typed_config"]["cluster"] == cluster["name"]
    assert cluster["load_assignment"]["cluster_name"] == cluster["name"]
    assert listener["address"]["socket_address"]["protocol"] == "UDP"
