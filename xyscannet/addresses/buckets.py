"""Buckets, which writing does not make: whether one is there is asked before the work."""

from __future__ import annotations

from typing import Any


def missing_bucket(scheme: str, fs: Any, path: str) -> str | None:
    """The bucket of the path in that file system, if there is known to be none. Raises what the file system does."""
    look = _MISSING.get(scheme)
    return None if look is None else look(fs, path)


def _missing_in_s3(fs: Any, path: str) -> str | None:
    """The bucket, if there is none; one that may be written to and not looked into is there."""
    bucket = fs.split_path(path)[0]
    try:
        fs.call_s3("head_bucket", Bucket=bucket)
    except FileNotFoundError:
        return bucket
    except PermissionError:
        pass
    return None


def _missing_in_gcs(fs: Any, path: str) -> str | None:
    """The bucket, if there is none; one that may be written to and not looked into is there.

    Where an account may list a bucket and not describe it, gcsfs takes an empty one for missing: then its listing
    decides.
    """
    bucket = path.partition("/")[0]
    try:
        if not fs.exists(bucket):
            fs.ls(bucket)
    except FileNotFoundError:
        return bucket
    except OSError as error:
        if not str(error).startswith("Forbidden"):
            raise
    return None


_MISSING = {"s3": _missing_in_s3, "s3a": _missing_in_s3, "gs": _missing_in_gcs, "gcs": _missing_in_gcs}
