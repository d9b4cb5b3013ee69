"""`srun` as deploy/slurm.sh calls it, with the tasks of all nodes on this machine.

Each task is a process group of its own, which gets what Slurm would send to all processes of a task.
"""

import os
import signal
import subprocess
import sys


def main() -> None:
    words = sys.argv[1:]
    options = [word for word in words if word.startswith("--")]
    count = next(int(word.split("=")[1]) for word in options if word.startswith("--ntasks="))
    command = words[len(options) :]
    tasks = [
        subprocess.Popen(command, env={**os.environ, "SLURM_PROCID": str(number)}, start_new_session=True)
        for number in range(count)
    ]

    def forward(number: int, frame: object) -> None:
        for task in tasks:
            if task.poll() is None:
                os.killpg(task.pid, number)

    signal.signal(signal.SIGTERM, forward)
    sys.exit(max(task.wait() for task in tasks))


if __name__ == "__main__":
    main()
