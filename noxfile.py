"""The project's chores: `nox --list` shows them; the README's two are `demo` and `tests`.

The server and Blender live in separate environments, since some Blender versions pin numpy below 2.
A Blender whose Python is not on the PATH is skipped by name; where EX4D_REQUIRE_ALL is set, as in
continuous integration, it fails.
"""

import os
import re
import sys
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.sessions = ["tests"]
nox.options.default_venv_backend = "virtualenv"
nox.options.error_on_missing_interpreters = "EX4D_REQUIRE_ALL" in os.environ
nox.options.stop_on_first_error = True

ROOT = Path(__file__).parent
CONSTRAINTS = ROOT / ".ci" / "constraints.txt"
ENGINE_CONSTRAINTS = ROOT / ".ci" / "constraints-engine.txt"
BLENDER_CONSTRAINTS = ROOT / ".ci" / "constraints-blender.txt"
DIST = ROOT / "dist"
PYTHONS = ["3.11", "3.13"]
#: Blender as a Python module, and the Python that each version was built for.
BLENDERS = {"4.2.23": "3.11", "4.5.15": "3.11", "5.0.1": "3.11", "5.2.3": "3.13"}
#: The Blender that builds the extension and plays the demo.
OLDEST_BLENDER = "4.2.23"
#: How a test file says that it needs torch: the core's sessions skip it.
NEEDS_ENGINE = re.compile(r"^needs_(engine|estimators|torch)\(\)$", re.MULTILINE)
CORE_TESTS = ["house", "protocol", "client", "ex4d", "server", "golden", "e2e", "trials"]


def install_core(session: nox.Session) -> None:
    session.install("-c", str(CONSTRAINTS), "-e", ".[dev]")


def install_blender(session: nox.Session, version: str) -> None:
    session.install(
        "-c", str(BLENDER_CONSTRAINTS), f"bpy=={version}", "pytest", "pytest-timeout", "psutil"
    )


def program(session_folder: str, name: str) -> str:
    """Path of a program in the environment of another session, which must have run before."""
    windows = sys.platform == "win32"
    path = (
        ROOT
        / ".nox"
        / session_folder
        / ("Scripts" if windows else "bin")
        / (f"{name}.exe" if windows else name)
    )
    if not path.exists():
        message = f"expected {path}; run `nox -s {session_folder}` first"
        raise FileNotFoundError(message)
    return str(path)


def linux_zip() -> str:
    """The extension that `addon_zip` built for this platform."""
    zips = sorted(DIST.glob("*linux_x64.zip"))
    if len(zips) != 1:
        message = f"expected one Linux zip in {DIST}, found {len(zips)}; run `nox -s addon_zip`"
        raise FileNotFoundError(message)
    return str(zips[0])


@nox.session(python="3.11")
def lint(session: nox.Session) -> None:
    """Format, rules, spelling and types."""
    install_core(session)
    session.run("ruff", "format", "--check", ".")
    session.run("ruff", "check", ".")
    session.run("codespell", "ex4d", "server", "blender_addon", "tests", "docs", "README.md")
    session.run("python", "build_addon.py", "--vendor")
    session.run("pyright")


@nox.session(python=PYTHONS)
def core(session: nox.Session) -> None:
    """All that runs without Blender."""
    install_core(session)
    session.run("pytest", *(session.posargs or [f"tests/{name}" for name in CORE_TESTS]))


@nox.session(python="3.11")
def engine(session: nox.Session) -> None:
    """The ex4d engine and the depth estimators, on small models whose numbers others computed."""
    constraints = ["-c", str(CONSTRAINTS), "-c", str(ENGINE_CONSTRAINTS)]
    # torch first: it comes in several builds, and the one that is found now stays.
    session.install(*constraints, "torch")
    session.install(*constraints, "-e", ".[dev,diffusion,depth]")
    found = sorted((ROOT / "tests").rglob("test_*.py"))
    files = [str(path) for path in found if NEEDS_ENGINE.search(path.read_text("utf-8"))]
    session.run("pytest", *(session.posargs or files), env={"EX4D_REQUIRE_ENGINE": "1"})


@nox.session(python="3.11")
def addon_zip(session: nox.Session) -> None:
    """The extension for every platform, checked by Blender's own validator."""
    install_blender(session, OLDEST_BLENDER)
    session.run("python", "build_addon.py", "--output", str(DIST), *session.posargs)


@nox.session(python="3.11")
def path(session: nox.Session) -> None:
    """The whole path through a server and Blender: demo, estimator, the flower clip if there."""
    install_core(session)
    blender = {"EX4D_BLENDER": program("addon_zip", "python"), "EX4D_ADDON_ZIP": linux_zip()}
    files = session.posargs or ["tests/e2e/test_demo.py", "tests/e2e/test_flower.py"]
    session.run("pytest", *files, env=blender)
    if not session.posargs:
        # Its server needs torch, which lives in the environment of `engine`.
        session.run(
            program("engine", "python"),
            *("-m", "pytest", "tests/e2e/test_depth_in_blender.py"),
            env={**blender, "EX4D_REQUIRE_ENGINE": "1"},
            external=True,
        )


@nox.session
@nox.parametrize(
    "python,blender",
    [(python, blender) for blender, python in BLENDERS.items()],
    ids=list(BLENDERS),
)
def blender(session: nox.Session, blender: str) -> None:
    """The built extension in one version of Blender, against a real server."""
    install_blender(session, blender)
    session.run(
        "pytest",
        *(session.posargs or ["tests/blender_addon"]),
        env={
            "EX4D_EXECUTABLE": program("core-3-11", "ex4d"),
            "EX4D_ENGINE_EXECUTABLE": program("engine", "ex4d"),
            "EX4D_ADDON_ZIP": linux_zip(),
        },
    )


@nox.session(venv_backend="none")
def tests(session: nox.Session) -> None:
    """Every test, the quick ones first."""
    for name in ["lint", *(f"core-{python}" for python in PYTHONS), "engine", "addon_zip", "path"]:
        session.notify(name)
    for version in BLENDERS:
        session.notify(f"blender({version})")


@nox.session(python="3.11")
def play_demo(session: nox.Session) -> None:
    """The second half of `demo`."""
    install_core(session)
    blender_python = program("addon_zip", "python")
    session.run(
        "ex4d", "demo", "--blender", blender_python, "--addon", linux_zip(), *session.posargs
    )


@nox.session(venv_backend="none")
def demo(session: nox.Session) -> None:
    """The whole path on the sample, from clip to strip; the results are in demo/."""
    session.notify("addon_zip", posargs=["--platform", "linux-x64"])
    session.notify("play_demo", posargs=session.posargs)
