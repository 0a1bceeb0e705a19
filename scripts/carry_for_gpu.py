"""Collect what a GPU machine without a network needs to run `benchmarks/gpu_day.py`, and print the command for it.

    python scripts/carry_for_gpu.py [--into .gpu_day] [--has scripts/gpu_machine.txt] [--before FOLDER] [--python 3.12]

Into an ignored folder of the checkout go: wheels of all that this package needs and that machine lacks (in the versions
that are installed here), the commit that is measured, and the results so far (`--before`), so that the day goes on
where it ended. The checkout, with this folder in it, is what must reach the machine. Only pip's download is asked.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
LIMIT_MIB = 64.0  # of the checkout and what is carried, together
_SITE = "/tmp/site-packages"  # called so: dill takes what lies elsewhere for the user's own, and pickles it by value
_GLIBC = (28, 27, 26, 24, 17, 12, 5)  # manylinux tags that such machines take; pip matches each exactly


def environment(python: str) -> dict[str, str]:
    """The markers of Linux on x86-64 with this Python."""
    return {
        "python_version": python, "python_full_version": f"{python}.0", "sys_platform": "linux", "os_name": "posix",
        "platform_system": "Linux", "platform_machine": "x86_64", "implementation_name": "cpython",
        "platform_python_implementation": "CPython", "extra": "",
    }  # fmt: skip


def read_has(path: Path) -> dict[str, str | None]:
    """Packages of the machine, with their versions where these are told."""
    lines = (line.partition("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    parts = (line.partition("==") for line in lines if line)
    return {canonicalize_name(name): version or None for name, _, version in parts}


def needed(roots: list[Requirement], markers: dict[str, str]) -> dict[str, list[Requirement]]:
    """Every package that the roots come to, as the versions installed here ask for them."""
    found: dict[str, list[Requirement]] = {}
    waiting = list(roots)
    while waiting:
        wanted = waiting.pop()
        asked = found.setdefault(canonicalize_name(wanted.name), [])
        asked.append(wanted)
        if len(asked) > 1 and not wanted.extras:
            continue
        for text in distribution(wanted.name).requires or []:
            inner = Requirement(text)
            extras = [{**markers, "extra": extra} for extra in ("", *wanted.extras)]
            if inner.marker is None or any(inner.marker.evaluate(way) for way in extras):
                waiting.append(inner)
    return found


def missing(found: dict[str, list[Requirement]], has: dict[str, str | None]) -> dict[str, str]:
    """Of what is needed, what the machine lacks or has too old: its version here, by name."""
    lacking = {}
    for name, wanted in sorted(found.items()):
        version = has.get(name)
        fits = version is None or all(Version(version) in one.specifier for one in wanted)
        if name not in has or not fits:
            lacking[name] = distribution(name).version
    return lacking


def fetch(name: str, version: str, python: str, into: Path) -> str | None:
    """Download the wheel of a package, or build it where only a source is published; None, or why there is none."""
    platforms = [part for n in _GLIBC for part in ("--platform", f"manylinux_2_{n}_x86_64")]
    platforms += ["--platform", "manylinux2014_x86_64", "--platform", "manylinux1_x86_64"]
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    where = ["-q", "--no-deps", f"{name}=={version}"]
    asked = [*pip, "download", "--only-binary=:all:", "--python-version", python, "--implementation", "cp", *platforms]
    done = subprocess.run([*asked, *where, "-d", str(into)], capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return None
    built = subprocess.run([*pip, "wheel", *where, "-w", str(into)], capture_output=True, text=True, check=False)
    stem = re.sub(r"[-_.]+", "[-_.]", name)
    wheels = [p for p in into.glob("*.whl") if re.match(rf"{stem}-", p.name, re.IGNORECASE)]
    if built.returncode == 0 and wheels and wheels[0].name.endswith("none-any.whl"):
        return None
    for wheel in wheels:
        wheel.unlink()
    return done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "pip gave no reason"


def mib(paths: list[Path]) -> float:
    """Size of files in MiB."""
    return sum(path.stat().st_size for path in paths if path.is_file()) / 2**20


def git(*args: str) -> str:
    """What git says of this checkout."""
    return subprocess.run(["git", *args], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def command(folder: str, deadline: int) -> str:
    """What is typed on the machine; $OUT is the folder whose files come back."""
    steps = [
        "python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade "
        f"--target {_SITE} {folder}/wheels/*.whl || exit",
        f"export PYTHONPATH={_SITE}:$PWD:$PWD/benchmarks HF_HUB_OFFLINE=1 PYTHONUNBUFFERED=1",
        f"cp {folder}/before/*.json $OUT/ 2>/dev/null",
        f"python3 benchmarks/gpu_day.py --out $OUT --deadline {deadline} --commit {folder}/COMMIT 2>&1 "
        "| tee $OUT/log.txt",
    ]
    return "; ".join(steps)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--into", default=".gpu_day", help="folder of the checkout, ignored by git")
    parser.add_argument("--has", type=Path, default=ROOT / "scripts" / "gpu_machine.txt")
    parser.add_argument("--before", type=Path, help="results that came back last time")
    parser.add_argument("--python", default="3.12", help="Python of that machine")
    parser.add_argument("--deadline", type=int, default=520, help="seconds for the day, within the command's own limit")
    args = parser.parse_args()
    folder = ROOT / args.into
    wheels, before = folder / "wheels", folder / "before"
    for path in (wheels, before):
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
    has = read_has(args.has)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    try:
        found = needed([Requirement(text) for text in project["dependencies"]], environment(args.python))
    except PackageNotFoundError as error:
        sys.exit(f"every dependency must be installed here to be carried, but {error.name} is not: make test")
    wanted = missing(found, has)
    failed = {name: why for name, version in wanted.items() if (why := fetch(name, version, args.python, wheels))}
    for name, why in failed.items():
        print(f"no wheel of {name} {wanted[name]} for Python {args.python}: {why}", file=sys.stderr)
    dirty = " with changes" if git("status", "--porcelain") else ""
    (folder / "COMMIT").write_text(f"{git('rev-parse', 'HEAD')}{dirty}\n", encoding="utf-8")
    for path in args.before.glob("*.json") if args.before else ():
        shutil.copy(path, before / path.name)
    tree = mib([ROOT / name for name in git("ls-files").splitlines()])
    carried = mib(list(folder.rglob("*")))
    print(f"{len(wanted) - len(failed)} wheels, {carried:.1f} MiB carried, {tree:.1f} MiB of checkout: "
          f"{carried + tree:.1f} of {LIMIT_MIB:g} MiB")  # fmt: skip
    typed = command(args.into, args.deadline)
    print(f"\ncarry {args.into} beside the checkout; on the machine ({len(typed)} characters):\n\n{typed}")
    if failed or carried + tree > LIMIT_MIB:
        sys.exit(1)


if __name__ == "__main__":
    main()
