"""Two nodes of a Ray cluster on this machine: two raylets, each of which can be taken away."""

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

START_SECONDS = 60.0


class Nodes:
    """A head and one more node of so many cores each; `remove` kills the second."""

    def __init__(self, folder: Path, cores: int) -> None:
        """folder: for Ray's sockets and logs; its path is short, since a socket's path is."""
        self.folder, self.cores = folder, cores
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        token = folder / "token"
        token.write_text(secrets.token_hex(32), encoding="utf-8")
        token.chmod(0o600)
        self.env = {  # of the nodes, and of the commands that use them
            **os.environ,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_USAGE_STATS_ENABLED": "0",
            "CUDA_VISIBLE_DEVICES": "",
        }
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Start both nodes. Raises RuntimeError where one does not start."""
        port = self.address.rpartition(":")[2]
        temp = f"--temp-dir={self.folder / 'ray'}"
        self._start("--head", f"--port={port}", temp, "--include-dashboard=false")
        self._start(f"--address={self.address}")

    def _start(self, *words: str) -> None:
        log = self.folder / f"node{len(self.processes)}.log"
        command = [str(Path(sys.executable).with_name("ray")), "start", "--block", *words]
        command += ["--node-ip-address=127.0.0.1", f"--num-cpus={self.cores}", "--num-gpus=0"]
        with log.open("wb") as out:
            process = subprocess.Popen(
                command, stdout=out, stderr=out, env=self.env, start_new_session=True
            )
        self.processes.append(process)
        end = time.monotonic() + START_SECONDS
        while b"Ray runtime started" not in log.read_bytes():
            if process.poll() is not None or time.monotonic() > end:
                last = log.read_text(encoding="utf-8", errors="replace")[-1500:]
                raise RuntimeError(f"a node of Ray did not start: {last}")
            time.sleep(0.1)

    def remove(self) -> None:
        """Kill the second node with all its workers, as if its machine had lost power."""
        _kill(self.processes[1])

    def stop(self) -> None:
        """Kill all nodes."""
        for process in self.processes:
            _kill(process)


def _kill(process: "subprocess.Popen[bytes]") -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@contextlib.contextmanager
def two_nodes(folder: Path, cores: int) -> Iterator[Nodes]:
    """Start two nodes, yield them, and kill what is left of them."""
    nodes = Nodes(folder, cores)
    try:
        nodes.start()
        yield nodes
    finally:
        nodes.stop()
