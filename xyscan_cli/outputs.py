"""Files and folders of results, on this machine or at addresses: looked at before the work, written whole after it."""

from __future__ import annotations

from pathlib import Path

from xyscannet.addresses import Address, place_of, stored
from xyscannet.errors import ConfigError, InputError, UnavailableError
from xyscannet.files import write_text

Place = Path | Address


def file(option: str, text: str | Path | None) -> Place | None:
    """Where the file of an option goes; None where it is not given.

    Raises:
        ConfigError: its folder does not exist, it is a folder itself or stdout, where another option than --json has no
            place, or nothing can be written to such an address.
        UnavailableError: the address's bucket is missing, it cannot be reached, or its package is not installed.
    """
    place = folder(text)
    if str(place) == "-" and option != "--json":
        raise ConfigError(f"{option} -: only --json writes to stdout; name a file")
    if isinstance(place, Path) and not place.absolute().parent.is_dir():
        raise ConfigError(f"{option} {place}: its folder does not exist")
    is_folder = place.is_dir() if isinstance(place, Path) else str(place).endswith("/")
    if is_folder:
        raise ConfigError(f"{option} {place}: is a folder; name a file")
    return place


def folder(text: str | Path | None) -> Place | None:
    """Where results go that are several files; None where it is not given. Raises as `file` does for addresses."""
    if text is None or isinstance(text, Path):
        return text
    place = place_of(text)
    if isinstance(place, Address):
        try:
            place.refuse_writing()
        except InputError as error:
            raise UnavailableError(str(error)) from error
    return place


def put(place: Place, text: str) -> None:
    """Write a text file in one step. Raises InputError where that is not possible."""
    with stored(place) as path:
        write_text(path, text)
