"""A small study's folder for the tests of its report."""

import functools
import shutil

import pytest
from tiny_study import Finished


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """Each study is made once, for all tests."""
    return functools.cache(
        lambda options: Finished(tmp_path_factory.mktemp("study") / "out", **dict(options)).out
    )


@pytest.fixture
def finished(made, tmp_path):
    """`finished(seeds=…, languages=…, failed=…)`: the folder of such a study, for this test to write into."""
    return lambda **options: shutil.copytree(made(tuple(options.items())), tmp_path / "out")
