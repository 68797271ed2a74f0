"""`cornernet serve` in another process, and a client of it."""

import http.client
import json
import os
import re
import subprocess
import sys
from pathlib import Path


class Server:
    """Started on a free port, and ready; stopped by :meth:`stop` or a signal to ``process``."""

    def __init__(self, model_file: str, *arguments: str, threads: int = 1) -> None:
        line = [sys.executable, "-m", "cornernet_d2", "serve", model_file, "--port", "0"]
        # No allocator's arenas: what is freed is to be seen as freed.
        environment = os.environ | {"MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": str(threads)}
        self.process = subprocess.Popen(
            [*line, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment,
            text=True,
        )  # fmt: skip
        printed = ""
        while not (found := re.search(r"http://([\d.]+):(\d+)", printed)):
            line = self.process.stdout.readline()
            assert line, printed
            printed += line
        self.address = found[1], int(found[2])
        while self.get("/health")[0] != 200:
            assert self.process.poll() is None

    def get(self, path: str, method: str = "GET", body: object = None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(*self.address, timeout=60)
        try:
            connection.request(method, path, body)
            response = connection.getresponse()
            return response.status, response.read()
        except ConnectionRefusedError:
            return 0, b""
        finally:
            connection.close()

    def predict(self, body: object, query: str = "?score=0") -> tuple[int, dict]:
        status, content = self.get(f"/predict{query}", "POST", body)
        return status, json.loads(content)

    def memory(self) -> int:
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+) kB", text)[1]) * 1024

    def cpu_seconds(self) -> float:
        """Of all its threads so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
