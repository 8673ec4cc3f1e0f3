"""Files that are named by an address, s3://, gs://, http://, memory:// and whatever else fsspec knows, beside paths."""

from xyscannet.addresses.address import Address, Listed
from xyscannet.addresses.places import existing, exists, fetched, place_of, stored, stored_folder

__all__ = ["Address", "Listed", "existing", "exists", "fetched", "place_of", "stored", "stored_folder"]
