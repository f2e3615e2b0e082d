"""Several processes that share the rows of each batch give what one process gives."""

from __future__ import annotations

import pickle
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import normalize

from ssa_analysis.errors import MeasureError
from ssa_analysis.measures.fixed_loss import contrastive_loss, supervised_loss
from ssa_analysis.numerics.hessian import Batch, CurvatureOperator
from ssa_analysis.numerics.ranks import Ranks
from ssa_analysis.numerics.spectrum import analyse_spectrum
from ssa_analysis.running.ranks import leave_group

LIMIT = timedelta(seconds=60)
SIZES = (7, 10)  # inputs of the supervised batches: uneven shares for two and for three processes
# bytes for graphs, in units of one input's: all, one batch, four and three inputs (shares of the small batch differ), two
MEMORIES = {"kept": 1e6, "rebuilt": 11.0, "uneven": 3.5, "chunked": 2.5, "one by one": 1e-9}


def operator(loss: str, kind: str = "hessian", memory: str = "kept", ranks: Ranks | None = None) -> CurvatureOperator:
    """The same on every process: float64, two batches of different sizes."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3)).double().eval()
        batches = []
        for size in SIZES:
            labels = torch.randint(3, (size,))
            inputs = torch.randn(size + size % 2, 4, dtype=torch.float64)
            made = supervised_loss(labels) if loss == "supervised" else contrastive_loss(0.5, None)
            batches.append(Batch(inputs[:size] if loss == "supervised" else inputs, made))

    def network(x: Tensor) -> Tensor:
        return net(x) if loss == "supervised" else normalize(net(x), dim=1)

    parameters = list(net.parameters())
    one = CurvatureOperator(network, batches, parameters, ranks=Ranks()).bytes_per_input
    return CurvatureOperator(network, batches, parameters, kind=kind, memory=MEMORIES[memory] * one, ranks=ranks)


def everything(measured: CurvatureOperator) -> dict[str, Any]:
    vectors = torch.randn(3, measured.size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    first = measured.matmat(vectors)
    measured.check_determinism()
    return {
        "plan": measured.plan,
        "loss": measured.loss(),
        "gradient": measured.gradient(),
        "products": first,
        "again": measured.matvec(vectors[1]),
    }


CASES = [
    (loss, kind, memory) for loss in ("supervised", "contrastive") for kind in ("hessian", "gauss-newton") for memory in MEMORIES
]


def spectrum(measured: CurvatureOperator) -> Any:
    return analyse_spectrum(measured.matvec, measured.size, top=2, bottom=1, tolerance=1e-8, seed=0, dtype=torch.float64)


def work(rank: int, size: int, folder: str) -> None:
    """What each process does; its answers go into a file of its own."""
    torch.set_num_threads(1)
    path = Path(folder)
    dist.init_process_group("gloo", init_method=f"file://{path / 'meeting'}", rank=rank, world_size=size, timeout=LIMIT)
    try:
        answers: dict[Any, Any] = {case: everything(operator(*case)) for case in CASES}
        eigen = spectrum(operator("contrastive", memory="chunked"))
        answers["eigenvalues"] = (eigen.largest.values, eigen.smallest.values)
        alone = Ranks().rows(5), Ranks.current().rows(5)
        rows = torch.arange(10.0).view(5, 2)[alone[1]]
        answers["gathered"], answers["summed"] = Ranks.current().gather(rows, 5), Ranks.current().sum(rows.sum())
        try:
            Ranks.current().rows(size - 1)
        except MeasureError as error:
            answers["too few"] = str(error)
        (path / f"{rank}.pkl").write_bytes(pickle.dumps(answers))
    finally:
        leave_group()


@pytest.fixture(scope="module", params=[2, 3])
def answers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[Any, Any]]:
    """Of every process of a job of two or three."""
    folder = tmp_path_factory.mktemp(f"ranks{request.param}")
    torch.multiprocessing.start_processes(work, (request.param, str(folder)), nprocs=request.param, start_method="forkserver")
    return [pickle.loads((folder / f"{rank}.pkl").read_bytes()) for rank in range(request.param)]


def same(found: Any, expected: Any) -> None:
    torch.testing.assert_close(torch.as_tensor(found), torch.as_tensor(expected), rtol=1e-10, atol=1e-12)


@pytest.mark.skipif(not (dist.is_available() and dist.is_gloo_available()), reason="this torch has no gloo")
class TestJob:
    @pytest.mark.parametrize("case", CASES, ids=" ".join)
    def test_everything_equals_one_process(self, answers: list[dict[Any, Any]], case: tuple[str, str, str]) -> None:
        alone = everything(operator(*case, ranks=Ranks()))
        for answer in answers:
            for name in ("loss", "gradient", "products", "again"):
                same(answer[case][name], alone[name])
        same(alone["again"], alone["products"][1])

    def test_all_processes_choose_one_plan(self, answers: list[dict[Any, Any]]) -> None:
        """Processes of different plans would meet in different calls, and wait for ever or add up other things."""
        plans = {memory: {answer["supervised", "hessian", memory]["plan"] for answer in answers} for memory in MEMORIES}
        assert all(len(chosen) == 1 for chosen in plans.values())
        assert plans["kept"] == {"kept"}
        assert plans["one by one"] == {"chunked"}

    def test_all_processes_get_the_same_bits(self, answers: list[dict[Any, Any]]) -> None:
        """They decide by them when to stop."""
        for case in CASES:
            for name in ("gradient", "products"):
                assert all(torch.equal(answer[case][name], answers[0][case][name]) for answer in answers)

    def test_eigenvalues(self, answers: list[dict[Any, Any]]) -> None:
        alone = spectrum(operator("contrastive", ranks=Ranks()))
        for answer in answers:
            same(answer["eigenvalues"][0], alone.largest.values)
            same(answer["eigenvalues"][1], alone.smallest.values)

    def test_rows_are_gathered_in_their_order(self, answers: list[dict[Any, Any]]) -> None:
        for answer in answers:
            assert torch.equal(answer["gathered"], torch.arange(10.0).view(5, 2))
            assert float(answer["summed"]) == 45.0

    def test_too_many_processes_for_a_batch(self, answers: list[dict[Any, Any]]) -> None:
        size = len(answers)
        text = f"a batch of {size - 1} inputs cannot be shared by {size} processes; use fewer processes"
        assert [answer["too few"] for answer in answers] == [text] * size


@pytest.mark.parametrize("count", [3, 4, 7, 10, 100])
def test_the_shares_are_a_partition_into_equal_parts(count: int) -> None:
    for size in range(1, min(count, 5) + 1):
        shares = [range(count)[Ranks(rank, size).rows(count)] for rank in range(size)]
        assert [i for share in shares for i in share] == list(range(count))
        assert max(map(len, shares)) == -(-count // size)
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_an_operator_that_cannot_be_shared_is_refused_at_once() -> None:
    with pytest.raises(MeasureError, match="a batch of 7 inputs cannot be shared by 8 processes"):
        operator("supervised", ranks=Ranks(0, 8))


def test_alone_outside_of_a_job() -> None:
    assert Ranks.current() == Ranks(0, 1)
    rows = torch.ones(3, 2)
    assert Ranks().gather(rows, 3) is rows
    assert Ranks().sum(rows) is rows


def test_the_largest_share_decides_the_plan() -> None:
    """Ten rows by three: the second process has four, the first three; memory for all three of both would not do."""
    first = operator("supervised", memory="uneven", ranks=Ranks(0, 3))
    last = operator("supervised", memory="uneven", ranks=Ranks(2, 3))
    assert first.plan == last.plan == "chunked"
