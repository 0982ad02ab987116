"""Files of arrays: what NumPy reads, and the same bytes on every system."""

import hashlib
import zipfile

import numpy as np
import pytest

from stages.common.arrays import save_arrays


def test_numpy_reads_what_was_saved(tmp_path):
    arrays = {
        "matrix": np.arange(6, dtype=np.float32).reshape(2, 3),
        "columns": np.asfortranarray(np.arange(6).reshape(2, 3)),
        "names": np.array(["a", "bc"]),
        "number": np.array(3.5),
        "empty": np.zeros((0, 4)),
    }
    save_arrays(tmp_path / "all.npz", **arrays)
    with np.load(tmp_path / "all.npz") as found:
        assert list(found) == list(arrays)
        for name, values in arrays.items():
            assert found[name].dtype == values.dtype
            np.testing.assert_array_equal(found[name], values)


def test_bytes_are_these_on_every_system(tmp_path):
    save_arrays(tmp_path / "a.npz", ones=np.ones(3, dtype="<f4"), twos=[2, 2])
    assert hashlib.md5((tmp_path / "a.npz").read_bytes()).hexdigest() == "a5bd832e24a464b6d5674a018794d7e4"
    with zipfile.ZipFile(tmp_path / "a.npz") as file:
        headers = [(entry.create_system, entry.extract_version, entry.date_time[0]) for entry in file.infolist()]
    assert headers == [(3, 20, 1980)] * 2


def test_objects_are_refused(tmp_path):
    with pytest.raises(ValueError, match="allow_pickle"):
        save_arrays(tmp_path / "a.npz", objects=np.array([{}], dtype=object))
