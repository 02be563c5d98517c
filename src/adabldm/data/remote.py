"""Folders in an object store: they are mirrored into a cache here, and what is made is uploaded as it is finished.

Everything else in this package works on local files. An address such as s3://bucket/folder is therefore a local
folder in the cache: before the work its files are brought up to date, by their sizes and the store's digests, and after
it what changed is sent back. Fsspec does the transport, so that any store that it knows can be named.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from adabldm.core.errors import InputError, OutputError
from adabldm.core.events import Event, ImageFinished, Listener, Note
from adabldm.core.images import atomic_file
from adabldm.data.claim import HOLDER, LOCK

ADDRESS = re.compile(r"^([a-z][a-z0-9+]+):/+(.+)$")
"""An address; a path has lost one of its two slashes."""
KNOWN = ".adabldm-mirror.json"
"""File beside a mirror that says what it holds by name: size and digest of the store, and when the file was written."""
THREADS = 8
Known = dict[str, list[Any]]


def address_of(path: Path) -> str | None:
    """The address that a path stands for, such as s3://bucket/folder; `None` for a local one."""
    found = ADDRESS.match(str(path))
    return None if found is None or path.exists() else f"{found[1]}://{found[2]}"


def mirror_of(address: str) -> Path:
    """Where the mirror of an address lies; the last part of its name is that of the folder there."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    name = PurePosixPath(address).name or "bucket"
    return home / "adabldm" / "mirrors" / hashlib.sha256(address.encode()).hexdigest()[:16] / name


class Store:
    """A folder in an object store and its mirror.

    Args:
        address: of the folder.

    Raises:
        InputError: the store cannot be reached, or the package for it is not installed.
    """

    def __init__(self, address: str) -> None:
        self.address, self.mirror = address, mirror_of(address)
        self._state = self.mirror.parent / KNOWN
        try:
            from fsspec.core import url_to_fs

            self._files, self._root = url_to_fs(address)
        except (ImportError, ValueError) as error:
            raise InputError(f"{address}: cannot be read ({error}); pip install 'adabldm[remote]'.") from error
        self._root = self._root.rstrip("/")

    def listing(self) -> Known:
        """Size and digest of every file there, by its path below the folder; empty where there is no such folder."""
        try:
            self._files.invalidate_cache()
            found = self._files.find(self._root, detail=True)
        except FileNotFoundError:
            return {}
        except Exception as error:
            raise InputError(
                f"{self.address}: {_reason(error)}; check the address, the rights and the network."
            ) from error
        names = {name[len(self._root) + 1 :]: info for name, info in found.items() if name != self._root}
        outside = [name for name in names if ".." in PurePosixPath(name).parts or name.startswith("/")]
        if outside:
            raise InputError(f"{self.address}: holds {outside[0]!r}, expected names inside the folder; rename it.")
        return {
            name: [info.get("size"), str(info.get("ETag") or info.get("etag") or info.get("mtime") or "")]
            for name, info in names.items()
            if name and not name.endswith("/")
        }

    def fetch(self) -> int:
        """Bring the mirror up to date; the number of files that were fetched.

        Raises:
            InputError: a file cannot be read.
        """
        there, known = self.listing(), self._known()
        for name in known.keys() - there.keys():
            (self.mirror / name).unlink(missing_ok=True)
        wanted = [name for name, one in there.items() if known.get(name) != one or not (self.mirror / name).is_file()]
        written = self._written()
        self.mirror.mkdir(parents=True, exist_ok=True)
        kept = {name: one for name, one in known.items() if name in there and name not in wanted}
        try:
            with ThreadPoolExecutor(THREADS) as pool:
                for name in pool.map(self._fetch, wanted):
                    kept[name] = there[name]
        except OutputError:
            raise
        except Exception as error:
            raise InputError(f"{self.address}: {_reason(error)}; run the same command again, it goes on.") from error
        finally:
            fresh = self._times(name for name in wanted if name in kept)
            self._remember(kept, {**{name: at for name, at in written.items() if name not in wanted}, **fresh})
        return len(wanted)

    def _fetch(self, name: str) -> str:
        content = self._files.cat_file(f"{self._root}/{name}")
        with atomic_file(self.mirror / name, durable=False) as file:
            file.write(content)
        return name

    def send(self, names: list[str]) -> None:
        """Upload files of the mirror.

        Raises:
            OutputError: the store does not take them.
        """

        def put(name: str) -> None:
            self._files.pipe_file(f"{self._root}/{name}", (self.mirror / name).read_bytes())

        try:
            with ThreadPoolExecutor(THREADS) as pool:
                list(pool.map(put, names))
        except Exception as error:
            raise OutputError(
                f"{self.address}: could not be written ({_reason(error)}); what was made lies in {self.mirror}. Run "
                "the same command again: it goes on where it stopped."
            ) from error

    def send_changed(self, last: str = "") -> None:
        """Upload what was changed here since it was fetched, and remove there what is gone here since.

        What others wrote there meanwhile stays, but where the same file was changed here too.

        Args:
            last: name of the file that is uploaded after all others, because it stands for them.
        """
        there = self.listing()
        here = {
            path.relative_to(self.mirror).as_posix(): path
            for path in self.mirror.rglob("*")
            if path.is_file() and path.name not in {LOCK, HOLDER} and not path.name.startswith(".adabldm-part-")
        }
        known, written, times = self._known(), self._written(), self._times(here)
        as_fetched = {name for name in here if name in there and written.get(name) == times[name]}
        same = {name for name, path in here.items() if name not in as_fetched and _is_same(path, there.get(name))}
        changed = sorted(here.keys() - as_fetched - same)
        self.send([name for name in changed if name != last])
        self.send([name for name in changed if name == last])
        for name in there.keys() & known.keys() - here.keys():
            if there[name] == known[name]:
                self._files.rm_file(f"{self._root}/{name}")
        sent = self.listing()
        held = {name for name in sent if name in same or name in changed or sent[name] == known.get(name)} & here.keys()
        self._remember({name: sent[name] for name in held}, times)

    def _known(self) -> Known:
        """Size and digest in the store of every file that the mirror holds as it is there."""
        return {name: one[:2] for name, one in self._stored().items()}

    def _written(self) -> dict[str, int]:
        """When each of these files was written here, in ns."""
        return {name: one[2] for name, one in self._stored().items() if len(one) > 2}

    def _stored(self) -> Known:
        try:
            values = json.loads(self._state.read_bytes())
        except (OSError, ValueError):
            return {}
        known = values if isinstance(values, dict) else {}
        return {name: one for name, one in known.items() if isinstance(one, list) and len(one) in {2, 3}}

    def _times(self, names: Iterable[str]) -> dict[str, int]:
        """When files of the mirror were written, in ns."""
        return {name: (self.mirror / name).stat().st_mtime_ns for name in names}

    def _remember(self, known: Known, times: dict[str, int]) -> None:
        """Note what the mirror holds, and when it was written as it is in the store."""
        stored = {name: [*one, *([times[name]] if name in times else [])] for name, one in known.items()}
        with atomic_file(self._state) as file:
            file.write(json.dumps(stored).encode())


def _is_same(path: Path, there: list[Any] | None) -> bool:
    """Whether a file is the one in the store: by size, and by MD5 where that is the store's digest."""
    if there is None or there[0] != path.stat().st_size:
        return False
    tag = str(there[1]).strip('"')
    return bool(re.fullmatch(r"[0-9a-f]{32}", tag)) and hashlib.md5(path.read_bytes()).hexdigest() == tag


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def at_hand(path: Path | None, listen: Listener) -> Path | None:
    """A folder that can be read here: a local one as it is, the mirror of one in a store.

    Raises:
        InputError: the store cannot be read, or the folder is empty.
    """
    address = None if path is None else address_of(path)
    if address is None:
        return path
    store = Store(address)
    fetched = store.fetch()
    if not any(store.mirror.iterdir()):
        raise InputError(f"{address}: holds no files; check the address.")
    listen(Note(f"{address}: {fetched} files fetched into {store.mirror}"))
    return store.mirror


@contextmanager
def uploaded(path: Path, listen: Listener, last: str) -> Iterator[tuple[Path, Listener]]:
    """A folder to write into, and a listener: what is written goes to the store, if the folder is one there.

    Every image is uploaded when it is finished, the rest at the end, also after an error.

    Args:
        path: of the folder.
        listen: is told everything.
        last: name of the file that stands for the others.
    """
    address = address_of(path)
    if address is None:
        yield path, listen
        return
    store = Store(address)
    store.fetch()
    finished = [False]

    def tell(event: Event) -> None:
        listen(event)
        if isinstance(event, ImageFinished):
            record = event.record
            store.send([name for name in (record.image, record.mask, record.labels) if name is not None])

    try:
        yield store.mirror, tell
        finished[0] = True
    finally:
        _send_rest(store, last, quiet=not finished[0])
    listen(Note(f"{address}: holds everything; the mirror in {store.mirror} may be deleted"))


def _send_rest(store: Store, last: str, *, quiet: bool) -> None:
    """Upload what is left; after another error, one of the upload is not told."""
    try:
        store.send_changed(last)
    except (InputError, OutputError):
        if not quiet:
            raise
