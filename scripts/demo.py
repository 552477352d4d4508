"""Run a server on a free loopback port with a temporary CA, and a client that verifies it and takes five samples."""

import signal
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(sys.executable).parent


def main() -> int:
    """Run the demo; its exit status is the client's."""
    with tempfile.TemporaryDirectory(prefix="tsq-demo-") as directory:
        options = ["--local-stratum", "1", "--log-level", "error"]
        command = [HERE / "tsq-server", "--listen", "127.0.0.1:0", "--self-signed", directory, *options]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            try:
                line = server.stdout.readline() if server.stdout else ""
                if "listening on" not in line:
                    sys.stderr.write("demo: the server did not start; its message is above\n")
                    return 1
                address = line.split()[3]
                client = [HERE / "tsq-client", address, "--ca", f"{directory}/ca.pem", "--count", "5", "-v"]
                sys.stdout.write(f"$ {' '.join(map(str, ['tsq-server', *command[1:]]))}\n{line}")
                sys.stdout.write(f"$ {' '.join(map(str, ['tsq-client', *client[1:]]))}\n")
                sys.stdout.flush()
                return subprocess.run(client, check=False, timeout=60).returncode
            finally:
                server.send_signal(signal.SIGTERM)
                server.wait(10)


if __name__ == "__main__":
    sys.exit(main())
