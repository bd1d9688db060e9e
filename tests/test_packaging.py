"""The promises of the repository's outside: pins, extras, make targets, images and the compose file."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

OWN_PACKAGES = {"shared", "trainer", "service"}
EXTRAS = {"service", "trainer", "embedded", "dev"}


@pytest.fixture(scope="module")
def project(repository: Path) -> dict:
    return tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def pins(repository: Path) -> dict[str, str]:
    """Pinned version by canonical name."""
    return {
        canonicalize_name(name): version
        for name, _, version in (line.partition("==") for line in lines_of(repository / "constraints.txt"))
    }


def lines_of(path: Path) -> list[str]:
    """The lines that are neither empty nor a comment."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#")]


def requirements(project: dict, *extras: str) -> list[Requirement]:
    declared = [*project["dependencies"]]
    for extra in extras:
        declared += project["optional-dependencies"][extra]
    return [Requirement(text) for text in declared]


def test_constraints_are_exact_pins_and_nothing_else(repository: Path) -> None:
    for line in lines_of(repository / "constraints.txt"):
        assert re.fullmatch(r"[a-z0-9][a-z0-9._-]*==[0-9][0-9a-z.]*", line), line


def test_every_requirement_is_pinned_within_its_bounds(project: dict, pins: dict[str, str]) -> None:
    assert set(project["optional-dependencies"]) == EXTRAS
    for requirement in requirements(project, *EXTRAS):
        version = pins.get(canonicalize_name(requirement.name))
        assert version, f"{requirement.name} has no pin in constraints.txt"
        assert requirement.specifier.contains(version, prereleases=True), f"{requirement} forbids {version}"


def test_weight_packages_are_pinned_and_no_extra_pulls_them_in(
    repository: Path, project: dict, pins: dict[str, str]
) -> None:
    weights = {canonicalize_name(line) for line in lines_of(repository / "embedded-weights.txt")}
    assert weights <= pins.keys()
    assert not weights & {canonicalize_name(r.name) for r in requirements(project, *EXTRAS)}


@pytest.mark.parametrize(
    ("package", "extras"),
    [
        ("shared", ["embedded", "service"]),  # media decoding serves the service alone
        ("trainer", ["trainer", "embedded"]),
        ("service", ["service", "embedded"]),
    ],
)
def test_every_import_is_declared(repository: Path, project: dict, package: str, extras: list[str]) -> None:
    declared = {canonicalize_name(r.name) for r in requirements(project, *extras)}
    weights = {canonicalize_name(line) for line in lines_of(repository / "embedded-weights.txt")}
    distributions = packages_distributions()
    for path in sorted((repository / package).rglob("*.py")):
        for module in imported_modules(path) - OWN_PACKAGES - sys.stdlib_module_names:
            providers = {canonicalize_name(name) for name in distributions.get(module, [])}
            assert providers & (declared | weights), f"{path.relative_to(repository)} imports {module}"


def test_trainer_and_service_never_import_each_other(repository: Path) -> None:
    forbidden = {"shared": {"trainer", "service"}, "trainer": {"service"}, "service": {"trainer"}}
    for package, others in forbidden.items():
        for path in (repository / package).rglob("*.py"):
            assert not imported_modules(path) & others, path.relative_to(repository)


def imported_modules(path: Path) -> set[str]:
    """Top-level names of every absolute import in a file, those inside functions included."""
    modules = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            modules.add(node.module.partition(".")[0])
    return modules


def test_make_help_lists_the_targets(repository: Path) -> None:
    done = subprocess.run(["make", "help"], cwd=repository, capture_output=True, text=True, check=True)
    for target in ("serve", "test", "lint", "format", "train-embedded", "clean"):
        assert re.search(rf"^  {target} +\S", done.stdout, flags=re.MULTILINE), target


@pytest.mark.parametrize("target", ["serve", "test"])
def test_a_missing_ffmpeg_is_said_in_one_line(repository: Path, tmp_path: Path, target: str) -> None:
    (tmp_path / "sh").symlink_to(shutil.which("sh"))
    done = subprocess.run(
        [shutil.which("make"), target],
        cwd=repository,
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert len(done.stderr.splitlines()) == 1
    assert "ffmpeg is missing" in done.stderr


def test_a_missing_python_is_said_in_one_line(repository: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        ["scripts/install.sh", tmp_path / "venv", "service"],
        cwd=repository,
        env={"PATH": "/usr/bin:/bin", "PYTHON": "/nowhere/python3"},
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert len(done.stderr.splitlines()) == 1
    assert "Python 3.11" in done.stderr
    assert not (tmp_path / "venv").exists()


def test_compose_serves_on_loopback_from_dockerfiles_that_exist(repository: Path) -> None:
    services = yaml.safe_load((repository / "docker-compose.yml").read_text(encoding="utf-8"))["services"]
    assert {name for name, service in services.items() if "profiles" not in service} == {"service"}
    for service in services.values():
        assert (repository / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


@pytest.mark.parametrize("package", ["service", "trainer"])
def test_dockerfile_copies_what_exists_and_runs_as_nobody_special(
    repository: Path, project: dict, package: str
) -> None:
    lines = (repository / "docker" / f"{package}.Dockerfile").read_text(encoding="utf-8").splitlines()
    allowed = {
        line.removeprefix("!") for line in lines_of(repository / ".dockerignore") if line.startswith("!")
    }
    copied = {
        name
        for line in lines
        if line.startswith("COPY ") and "--from" not in line
        for name in line.split()[1:-1]
    }
    assert {"shared", package} <= copied <= allowed
    assert [name for name in sorted(copied) if not (repository / name).exists()] == []
    assert set(re.findall(r"--extra (\S+)", "\n".join(lines))) <= EXTRAS
    assert "USER 1000:1000" in lines
    assert f'ENTRYPOINT ["python", "-m", "{package}"' in "\n".join(lines)


def test_no_tracked_file_names_a_registry_or_this_machine(repository: Path) -> None:
    if not shutil.which("git"):
        pytest.skip("no git here to say which files are tracked")
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=repository, capture_output=True, text=True)
    if listing.returncode != 0:
        pytest.skip("not a git checkout")
    hosts = ["pypi", "pythonhosted", "download.pytorch", "npmjs", "deb.debian"]
    forbidden = re.compile(
        rf"\b({'|'.join(map(re.escape, hosts))})\.(org|com)\b|index-url[ =]+https?:|/work/(main|shared)\b"
    )
    for name in filter(None, listing.stdout.split("\0")):
        path = repository / name
        if not path.is_file():
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found = forbidden.search(text)
        assert not found, f"{name} contains {found.group()}"
