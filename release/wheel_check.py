"""Builds wheel and sdist from a clean checkout, and tries the wheel in a fresh environment of every Python it finds.

  python release/wheel_check.py              builds, compares, tries on every Python found
  python release/wheel_check.py --build-only builds and compares alone
  python release/wheel_check.py 3.12 3.13    tries on these alone

What is committed counts (HEAD), nothing else. The archives are left in dist/.
"""

import argparse
import glob
import hashlib
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import venv
import zipfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
# Where Pythons are that are not on the PATH: pyenv, uv, python.org and deadsnakes, in this order.
PLACES = ("~/.pyenv/versions/{}.*/bin/python", "~/.local/share/uv/python/cpython-{}.*/bin/python", "/opt/python*{}*/bin/python3")


def find_python(version):
    """The path of a Python of a version "3.x" that can make virtual environments, or None."""
    on_path = shutil.which(f"python{version}")
    places = [path for place in PLACES for path in sorted(glob.glob(os.path.expanduser(place.format(version))))]
    for path in filter(None, (on_path, *places)):
        code = "import ensurepip, sys, venv; print(*sys.version_info[:2], sep='.')"
        found = subprocess.run([path, "-c", code], capture_output=True, text=True)
        if found.returncode == 0 and found.stdout.strip() == version:
            return path
    return None


def build(folder):
    """Builds from HEAD in `folder`: the wheel of the checkout, the sdist, and the wheel that the sdist makes."""
    checkout = folder / "checkout"
    checkout.mkdir(parents=True)
    archive = subprocess.run(["git", "archive", "HEAD"], cwd=ROOT, capture_output=True, check=True).stdout
    subprocess.run(["tar", "-x"], cwd=checkout, input=archive, check=True)
    venv.create(folder / "builder", with_pip=True)
    python = folder / "builder/bin/python"
    run(python, "-m", "pip", "install", "--quiet", "build")
    for options in (("--wheel", "--outdir", folder / "direct"), ("--outdir", folder / "both")):
        command = [str(part) for part in (python, "-m", "build", *options, checkout)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{done.stdout[-2000:]}{done.stderr[-2000:]}\nBuilding failed.")
    (direct,), (wheel,) = ((folder / name).glob("*.whl") for name in ("direct", "both"))
    (sdist,) = (folder / "both").glob("*.tar.gz")
    return direct, sdist, wheel


def contents(wheel):
    """File name -> digest, of all files of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: hashlib.sha256(archive.read(name)).hexdigest() for name in archive.namelist()}


def check_contents(direct, wheel):
    """The sdist makes the same wheel; and it holds every committed file of the package, and the metanetworks."""
    has, same = contents(wheel), contents(direct)
    different = sorted(name for name in {*has, *same} if has.get(name) != same.get(name))
    assert not different, f"the sdist makes another wheel: {different}"
    tracked = subprocess.run(["git", "ls-tree", "-r", "--name-only", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
    names = tracked.stdout.splitlines()
    wanted = {name for name in names if name.startswith("tfmetaprune/")}
    wanted |= {f"tfmetaprune/{name}" for name in names if name.startswith("saved_models/")}
    packed = {name for name in has if name.startswith("tfmetaprune/")}
    assert wanted == packed, f"the wheel lacks {sorted(wanted - packed)} and should not hold {sorted(packed - wanted)}"
    return len(packed)


def try_wheel(python, wheel, folder):
    """Installs the wheel into a fresh environment and runs `smoke.py` there; raises CalledProcessError if it fails."""
    environment = folder / "environment"
    try:
        run(python, "-m", "venv", environment)
        inside = environment / "bin/python"
        run(inside, "-m", "pip", "install", "--quiet", "--upgrade", "pip")  # old ones take long to choose versions
        run(inside, "-m", "pip", "install", "--quiet", wheel)
        run(inside, "-m", "pip", "check")
        empty = folder / "empty"
        empty.mkdir(parents=True)
        script = shutil.copy(ROOT / "release/smoke.py", folder)
        run(inside, script, cwd=empty)
    finally:
        shutil.rmtree(environment, ignore_errors=True)  # 2.7 GB each


def run(*command, cwd=None):
    """Runs a command whose failure ends the check."""
    settings = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    settings.pop("PYTHONPATH", None)
    subprocess.run([str(part) for part in command], cwd=cwd, env=settings, check=True)


def main():
    """Builds, compares and tries; exit code 1 if a Python failed or none was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("versions", nargs="*", help=f"of {', '.join(PYTHONS)}; all without")
    parser.add_argument("--build-only", action="store_true", help="try on no Python")
    options = parser.parse_args()
    results = {}
    with tempfile.TemporaryDirectory(prefix="tfmetaprune-wheel-") as temporary:
        folder = pathlib.Path(temporary)
        direct, sdist, wheel = build(folder / "build")
        count = check_contents(direct, wheel)
        (ROOT / "dist").mkdir(exist_ok=True)
        for path in (sdist, wheel):
            shutil.copy(path, ROOT / "dist")
            print(f"dist/{path.name}: {path.stat().st_size:,} bytes", flush=True)
        print(f"The wheel holds {count} files of the package; the sdist makes the same wheel.", flush=True)
        for version in () if options.build_only else options.versions or PYTHONS:
            python = find_python(version)
            if python is None:
                results[version] = "not found, not tried"
                continue
            try:
                try_wheel(python, wheel, folder / version)
                results[version] = f"works ({python})"
            except subprocess.CalledProcessError as error:
                results[version] = f"FAILED: {' '.join(error.cmd[:4])} ... ended with {error.returncode}"
            print(f"Python {version}: {results[version]}", flush=True)
    print(*(f"Python {version}: {result}" for version, result in results.items()), sep="\n")
    failed = any("FAILED" in result for result in results.values())
    none_tried = not options.build_only and not any("works" in result for result in results.values())
    return 1 if failed or none_tried else 0


if __name__ == "__main__":
    sys.exit(main())
