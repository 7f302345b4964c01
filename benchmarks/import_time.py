"""Prints what importing tfmetaprune adds to TensorFlow's own import, and how long the command line's `--help` takes.

Each round is a fresh process that imports one thing after the other and notes seconds by the clock and of the processor, which
other work on the machine changes less: TensorFlow, Keras 2 (tf_keras, which TF-GNN and TF-MOT need), `import tfmetaprune`, and all
of its public names. Medians over the rounds, as one JSON object; bytecode is compiled beforehand, as pip does.
Usage: python benchmarks/import_time.py [--rounds 5]
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
STEPS = {
    "tensorflow": "import tensorflow",
    "tfmetaprune": "import tfmetaprune",
    "tf_keras": "import tf_keras",
    "public_names": "[getattr(tfmetaprune, name) for name in tfmetaprune.__all__]",
}
HELP = {"help": "from typer.testing import CliRunner; from tfmetaprune.cli import app; CliRunner().invoke(app, ['prune', '--help'])"}
CODE = """
import json, time
times = {{}}
for name, step in {steps!r}.items():
    started = time.perf_counter(), time.process_time()
    exec(step)
    times[name] = time.perf_counter() - started[0], time.process_time() - started[1]
print(json.dumps(times))
"""


def measure(steps, environment) -> dict[str, tuple[float, float]]:
    """Runs the steps in a fresh process: name -> (seconds by the clock, seconds of the processor)."""
    command = [sys.executable, "-c", CODE.format(steps=steps)]
    run = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, cwd=ROOT)
    return json.loads(run.stdout)


def main():
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as bytecode:
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
        environment |= {"PYTHONPYCACHEPREFIX": bytecode, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": os.pathsep.join(sys.path[1:])}
        measured = []
        for _ in range(rounds + 1):  # the first compiles
            measured.append({**measure(STEPS, environment), **measure(HELP, environment)})
        medians = {
            name: [round(statistics.median(times[name][kind] for times in measured[1:]), 4) for kind in (0, 1)]
            for name in measured[0]
        }
    seconds = {name: {"seconds": clock, "processor_seconds": processor} for name, (clock, processor) in medians.items()}
    print(json.dumps({"rounds": rounds, **seconds}, indent=2))


if __name__ == "__main__":
    main()
