"""NumPy arrays in one file, with the same bytes on every system."""

import io
import zipfile
from pathlib import Path

import numpy as np

from stages.common.files import placed

UNIX = 3
OWNER_READS_AND_WRITES = 0o600


def save_arrays(path: str | Path, **arrays: np.ndarray) -> None:
    """Put arrays, by name, into a file as np.savez does, to be read with np.load.

    np.savez has Python's zipfile write its headers: they name the operating system, and they differ between Python
    3.11.2 and 3.11.7.
    """
    with placed(path) as temporary, zipfile.ZipFile(temporary, "w") as file:
        for name, values in arrays.items():
            content = io.BytesIO()
            np.lib.format.write_array(content, np.asanyarray(values), allow_pickle=False)
            entry = zipfile.ZipInfo(f"{name}.npy")  # as old as a zip file's entry can be
            entry.create_system, entry.external_attr = UNIX, OWNER_READS_AND_WRITES << 16
            file.writestr(entry, content.getvalue())
