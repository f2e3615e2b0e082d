"""Small probes are fitted with one thread: more of them only wait for one another."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits

from ssa_analysis.numerics import classifiers
from ssa_analysis.numerics.classifiers import fit_logistic, threads_for


@pytest.fixture
def four_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def test_a_small_probe_is_fitted_with_one_thread(four_threads: None, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    plain = classifiers.minimize

    def minimize(objective: object, start: np.ndarray, **options: object) -> object:
        seen.append(torch.get_num_threads())
        return plain(objective, start, **options)

    monkeypatch.setattr(classifiers, "minimize", minimize)
    fit_logistic(torch.eye(6), torch.arange(6) % 2, 2, l2=0.1)
    assert (seen, torch.get_num_threads()) == ([1], 4)


def test_the_libraries_of_blas_have_one_thread_inside_and_what_they_had_after(monkeypatch: pytest.MonkeyPatch) -> None:
    def threads() -> set[int]:
        libraries = [found for found in threadpool_info() if found["user_api"] == "blas"]
        return {found["num_threads"] for found in libraries if found.get("threading_layer") != "disabled"}  # as OpenCV's is

    seen = []
    plain = classifiers.minimize

    def minimize(objective: object, start: np.ndarray, **options: object) -> object:
        seen.append(threads())
        return plain(objective, start, **options)

    monkeypatch.setattr(classifiers, "minimize", minimize)
    with threadpool_limits(2, user_api="blas"):
        before = threads()
        fit_logistic(torch.eye(6), torch.arange(6) % 2, 2, l2=0.1)
        assert (seen, threads()) == ([{1}], before)
    assert before == {2}


@pytest.mark.parametrize(("rows", "threads"), [(1, 1), (2, 2), (3, 3), (50, 4)])
def test_a_large_one_has_a_thread_for_each_million_numbers(four_threads: None, rows: int, threads: int) -> None:
    with threads_for(torch.empty(1, device="meta").expand(rows, 2**20)):
        assert torch.get_num_threads() == threads
    assert torch.get_num_threads() == 4
