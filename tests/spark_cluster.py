"""A standalone cluster of Spark's on loopback: a master and workers, started from pyspark's own spark-class."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

CONFIGURATION = """
spark.driver.host 127.0.0.1
spark.driver.bindAddress 127.0.0.1
spark.cores.max 2
spark.scheduler.minRegisteredResourcesRatio 1
spark.scheduler.maxRegisteredResourcesWaitingTime 120s
spark.driver.memory 2g
spark.executor.memory 1g
spark.sql.shuffle.partitions 2
spark.sql.codegen.wholeStage false
spark.ui.enabled false
"""


class Cluster:
    """A master and two workers; an application gets a core of each, so that two run side by side.

    `kill` ends a worker and its executors at once, `close` all.
    """

    def __init__(self, folder: Path) -> None:
        import pyspark

        self.folder = folder
        self._home = Path(pyspark.__file__).parent
        (folder / "conf").mkdir(parents=True)
        (folder / "conf" / "spark-defaults.conf").write_text(CONFIGURATION)
        self.environment = {
            "SPARK_CONF_DIR": str(folder / "conf"),
            "SPARK_LOCAL_IP": "127.0.0.1",
            "PYSPARK_PYTHON": sys.executable,
        }
        self.port = _free_port()
        self.master = f"spark://127.0.0.1:{self.port}"
        self._master = self._start("master.Master", "--host", "127.0.0.1", "--port", str(self.port))
        self.workers = [self._start("worker.Worker", self.master, "-c", "2", "-m", "2500m") for _ in range(2)]
        self._wait_for(2)

    def kill(self, worker: int) -> None:
        """Kill -9 a worker and what it started: its executors and their Python."""
        os.killpg(self.workers[worker].pid, signal.SIGKILL)
        self.workers[worker].wait()

    def close(self) -> None:
        for process in (*self.workers, self._master):
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def _start(self, what: str, *args: str) -> subprocess.Popen[bytes]:
        name = f"{what}-{time.monotonic_ns()}"
        call = [str(self._home / "bin" / "spark-class"), f"org.apache.spark.deploy.{what}", *args, "--webui-port", "0"]
        if what.startswith("worker"):
            call += ["--work-dir", str(self.folder / name)]
        environment = os.environ | self.environment | {"SPARK_HOME": str(self._home), "SPARK_NO_DAEMONIZE": "1"}
        with (self.folder / f"{name}.log").open("wb") as log:
            return subprocess.Popen(call, env=environment, stdout=log, stderr=log, start_new_session=True)

    def _wait_for(self, n_workers: int) -> None:
        deadline = time.monotonic() + 600
        while time.monotonic() < deadline:
            # The workers' own word: the master tells of one that asks too early, and then forgets it for five seconds.
            said = "".join(log.read_text(errors="replace") for log in self.folder.glob("worker*.log"))
            if said.count("Successfully registered with master") == n_workers:
                return
            time.sleep(0.2)
        raise RuntimeError(f"no cluster after two minutes; its logs are in {self.folder}")


def _free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])
