"""The distances between two samples beside torchdrift, hyppo, POT and geomloss: time, agreement and memory.

    python benchmarks/shift.py [--json] [--only mmd,exact,sliced,sinkhorn] [--repeats R] [--large] [--device cuda]

The samples are Gaussian, float32 unless a row says otherwise; every repeat draws new ones. Errors are relative to a
float64 computation that is not counted; those of the exact distance, which has no third opinion, are relative to POT.
Needs ``pip install torchdrift hyppo POT geomloss``; the rows of a peer that is not there are left out. On a GPU so are
hyppo's and those of the exact distance, which both sides compute on the CPU.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from common import IN_PROCESS, Row, alternate, clock, compare, measured, median, print_rows

SCRIPT = str(Path(__file__).resolve())
PARTS = ("mmd", "exact", "sliced", "sinkhorn")
PERMUTATIONS = 1000
SHIFT = 0.05  # of every coordinate's mean
PROJECTIONS = 200
FORMS = ("numpy float64", "numpy float32", "torch float64", "torch float32")  # of POT's input
SHARES = (0.05, 0.01)  # of the median cost, which eps is
SCALING = 0.9  # by which geomloss brings its blur down

# ---- the tasks, each in a process of its own ----


def _samples(request: dict[str, Any]) -> tuple[Any, Any]:
    """Two samples ``(n, d)`` in float32."""
    import torch

    torch.set_num_threads(1)
    rng, device = torch.Generator().manual_seed(request.get("seed", 0)), request["device"]
    x, y = (torch.randn(request["n"], request["d"], generator=rng).to(device) for _ in range(2))
    torch.randn(8, 8, device=device) @ torch.randn(8, 8, device=device)  # libraries load what they load lazily
    return x, y + SHIFT


def _pooled(request: dict[str, Any]) -> tuple[Any, float]:
    """Both samples as one, and the bandwidth that every side is given."""
    import torch

    from ssa_analysis.numerics.kernels import median_bandwidth

    pooled = torch.cat(_samples(request))
    return pooled, median_bandwidth(pooled)


def mmd_ours(request: dict[str, Any]) -> Callable[[], dict[str, Any]]:
    """Kernel, squared MMD with its error, and all permutations."""
    from ssa_analysis.numerics.kernels import GaussianKernel
    from ssa_analysis.numerics.mmd import mmd_test

    pooled, width = _pooled(request)
    mmd_test(GaussianKernel(pooled[:16], [width]), 8, permutations=2)

    def work() -> dict[str, Any]:
        kernel = GaussianKernel(pooled, [width])
        found = mmd_test(kernel, request["n"], permutations=request["permutations"], seed=request.get("seed", 0))
        return {"value": found.value, "p": found.p_value}

    return work


def mmd_reference(request: dict[str, Any]) -> Callable[[], dict[str, Any]]:
    """The squared MMD in float64, straight from its definition and without a permutation."""
    import torch

    pooled, width = _pooled(request)
    n = request["n"]

    def total(a: Any, b: Any) -> float:
        parts = (torch.cdist(part, b).square_().mul_(-1 / (2 * width**2)).exp_().sum() for part in a.split(512))
        return float(sum(parts))

    def work() -> dict[str, Any]:
        x, y = pooled[:n].double(), pooled[n:].double()
        within = (total(x, x) + total(y, y) - 2 * n) / (n * (n - 1))
        return {"value": within - 2 * total(x, y) / n**2}

    return work


def mmd_products(request: dict[str, Any]) -> Callable[[], dict[str, Any]]:
    """Nothing but as many multiply-adds as the permutations need, in BLAS, with memory that is there already."""
    import torch

    from ssa_analysis.numerics.mmd import TILE

    torch.set_num_threads(1)
    count = 2 * request["n"]
    sides = [min(TILE, count - start) for start in range(0, count, TILE)]
    where = {"device": request["device"]}
    tile, labels = torch.rand(TILE, TILE, **where), torch.randn(TILE, 1 + request["permutations"], **where)
    out = torch.empty(TILE, 1 + request["permutations"], **where)
    torch.mm(tile[:64], labels, out=out[:64])

    def work() -> dict[str, Any]:
        for number, rows in enumerate(sides):
            for columns in sides[number:]:
                torch.mm(tile[:rows, :columns], labels[:columns], out=out[:rows])
        return {}

    return work


def _extrapolated(test: Callable[[int], Any], few: int, permutations: int, device: str) -> dict[str, Any]:
    """Seconds of ``test(permutations)`` from those of ``test(1)`` and ``test(1 + few)``."""
    spent = []
    for count in (1, 1 + few):
        started = clock(device)
        found = test(count)
        spent.append(clock(device) - started)
    each = max(spent[1] - spent[0], 0.0) / few
    return {"value": found, "extrapolated": spent[0] + each * (permutations - 1)}


def mmd_torchdrift(request: dict[str, Any]) -> Callable[[], dict[str, Any]]:
    """Its loop, which permutes the whole kernel matrix each time; its value less the diagonal that it keeps."""
    from torchdrift.detectors.mmd import GaussianKernel, kernel_mmd

    pooled, width = _pooled(request)
    n: int = request["n"]
    kernel_mmd(pooled[:8], pooled[8:16], n_perm=2, kernel=GaussianKernel(width))

    def test(permutations: int) -> float:
        return float(kernel_mmd(pooled[:n], pooled[n:], n_perm=permutations, kernel=GaussianKernel(width))[0]) - 2 / (n - 1)

    return lambda: _extrapolated(test, request["few"], request["permutations"], request["device"])


def mmd_hyppo(request: dict[str, Any]) -> Callable[[], dict[str, Any]]:
    """Its permutation test in float64, which centres the whole matrix each time; its statistic is another one."""
    from hyppo.ksample import MMD

    pooled, width = _pooled(request)
    n, rows = request["n"], pooled.double().numpy()

    def test(permutations: int, data: Any = rows, size: int = n) -> None:
        MMD(gamma=1 / (2 * width**2)).test(data[:size], data[size:], reps=permutations, auto=False)

    test(3, rows[:16], 8)  # compiled here

    def work() -> dict[str, Any]:
        found = _extrapolated(test, request["few"], request["permutations"], request["device"])
        return {"extrapolated": found["extrapolated"]}

    return work


def _euclidean_costs(request: dict[str, Any]) -> Any:
    import torch

    x, y = _samples(request)
    return torch.cdist(x.double(), y.double()).numpy()


def exact_ours(request: dict[str, Any]) -> Callable[[], dict[str, Any]]:
    """The assignment."""
    from ssa_analysis.numerics.transport import exact_wasserstein

    cost = _euclidean_costs(request)
    exact_wasserstein(cost[:8, :8])
    return lambda: {"value": exact_wasserstein(cost)}


def exact_pot(request: dict[str, Any]) -> Callable[[], dict[str, Any]]:
    """Its network simplex."""
    import ot

    cost = _euclidean_costs(request)
    ot.emd2([], [], cost[:8, :8])
    return lambda: {"value": float(ot.emd2([], [], cost, numItermax=10**9))}


def sliced_ours(request: dict[str, Any]) -> Callable[[], dict[str, Any]]:
    """Directions, projections and the distances along them."""
    from ssa_analysis.numerics.sliced import sliced_wasserstein2

    x, y = _samples(request)
    sliced_wasserstein2(x[:8], y[:8], projections=2)

    def work() -> dict[str, Any]:
        return {"value": sliced_wasserstein2(x, y, projections=request["projections"], seed=request.get("seed", 0))[0]}

    return work


def _directions(request: dict[str, Any]) -> Any:
    """Ours, ``(d, projections)``."""
    from ssa_analysis.numerics.sliced import random_directions

    return random_directions(request["d"], request["projections"], request.get("seed", 0)).T.contiguous()


def sliced_reference(request: dict[str, Any]) -> Callable[[], dict[str, Any]]:
    """The same slices in float64, by a sort of the columns."""
    x, y = _samples(request)
    directions = _directions(request).to(x.device)

    def work() -> dict[str, Any]:
        a, b = ((side.double() @ directions).sort(dim=0).values for side in (x, y))
        return {"value": float((a - b).square().mean())}

    return work


def sliced_pot(request: dict[str, Any]) -> Callable[[], dict[str, Any]]:
    """Its Monte-Carlo distance along our directions, squared."""
    import ot
    import torch

    x, y = _samples(request)
    library, precision = request["form"].split()
    given = [t.to(x.device, getattr(torch, precision)) for t in (x, y, _directions(request))]
    if library == "numpy":
        given = [t.cpu().numpy() for t in given]
    ot.sliced_wasserstein_distance(given[0][:8], given[1][:8], projections=given[2])

    def work() -> dict[str, Any]:
        return {"value": float(ot.sliced_wasserstein_distance(given[0], given[1], projections=given[2])) ** 2}

    return work


def _sinkhorn_problem(request: dict[str, Any]) -> tuple[Any, Any, float]:
    from ssa_analysis.numerics.sinkhorn import squared_costs

    x, y = _samples(request)
    return x, y, request["share"] * float(squared_costs(x, y).median())


def sinkhorn_ours(request: dict[str, Any]) -> Callable[[], dict[str, Any]]:
    """With its default tolerance, or the reference with another one."""
    from ssa_analysis.numerics.sinkhorn import sinkhorn_divergence

    x, y, eps = _sinkhorn_problem(request)
    sinkhorn_divergence(x[:8], y[:8], eps)
    accuracy: dict[str, Any] = {"tolerance": 1e-8, "max_iterations": 100000} if request.get("reference") else {}

    def work() -> dict[str, Any]:
        value, converged = sinkhorn_divergence(x, y, eps, **accuracy)
        return {"value": value, "converged": converged}

    return work


def sinkhorn_geomloss(request: dict[str, Any]) -> Callable[[], dict[str, Any]]:
    """Its divergence in float32; its cost is half the squared distance, so its value is half ours at half our eps."""
    import torch
    from geomloss import SamplesLoss

    x, y, eps = _sinkhorn_problem(request)
    loss = SamplesLoss("sinkhorn", p=2, blur=(eps / 2) ** 0.5, scaling=SCALING, backend="tensorized")
    loss(x[:8], y[:8])

    def work() -> dict[str, Any]:
        with torch.no_grad():
            return {"value": 2 * float(loss(x, y))}

    return work


TASKS: dict[str, Callable[[dict[str, Any]], Callable[[], dict[str, Any]]]] = {
    f.__name__: f
    for f in (
        mmd_ours, mmd_reference, mmd_products, mmd_torchdrift, mmd_hyppo, exact_ours, exact_pot, sliced_ours, sliced_reference,
        sliced_pot, sinkhorn_ours, sinkhorn_geomloss,
    )
}  # fmt: skip


# ---- the comparisons ----

Answers = list[dict[str, Any]]


def _installed(peer: str, module: str) -> bool:
    there = importlib.util.find_spec(module) is not None
    if not there:
        print(f"{peer} is not installed: its rows are left out", file=sys.stderr)
    return there


def _marked(answers: Answers, truths: Answers) -> dict[str, Any]:
    """The medians, with the largest relative error, and with the seconds of all permutations where they were extrapolated."""
    if "extrapolated" in answers[0]:
        answers = [{**a, "seconds": a["extrapolated"]} for a in answers]
    found = median(answers)
    if "value" in answers[0]:
        pairs = zip(answers, truths, strict=True)
        found["error"] = max(abs(a["value"] - t["value"]) / abs(t["value"]) for a, t in pairs)
    return found


def _title(work: str, request: dict[str, Any], repeats: int) -> str:
    return f"{work}, n = {request['n']} a side, d = {request['d']}, median of {repeats}"


def mmd_rows(problem: dict[str, Any], few: dict[str, int], repeats: int) -> Iterator[Row]:
    """Against the bare products, and against the peers of ``few``, each with its number of permutations."""
    problem = {**problem, "permutations": PERMUTATIONS}
    peers = {"torchdrift": "float32, the same bandwidth", "hyppo": "ksample.MMD, float64, the same bandwidth"}
    if problem["device"] != "cpu":
        del peers["hyppo"]
    peers = {name: how for name, how in peers.items() if name in few and _installed(name, name)}
    requests = [{**problem, "task": f"mmd_{task}"} for task in ("reference", "ours", "products")]
    requests += [{**problem, "task": f"mmd_{peer}", "few": few[peer]} for peer in peers]
    truths, mine, bare, *others = alternate(SCRIPT, requests, repeats)
    name, ours = _title(f"MMD with {PERMUTATIONS} permutations", problem, repeats), _marked(mine, truths)
    yield compare(name, "the permutations' multiply-adds alone (float32 GEMM, no kernel)", ours, _marked(bare, truths))
    for (peer, how), found in zip(peers.items(), others, strict=True):
        text = f"{peer} ({how}), extrapolated from {few[peer]} permutations"
        yield compare(name, text, ours, _marked(found, truths))


def exact_row(problem: dict[str, Any], repeats: int) -> Row:
    """The same cost matrix on both sides."""
    mine, theirs = alternate(SCRIPT, [{**problem, "task": task} for task in ("exact_ours", "exact_pot")], repeats)
    ours, peer = _marked(mine, theirs), median(theirs)
    name = _title("exact W1 from the cost matrix", problem, repeats)
    return compare(name, "POT ot.emd2, float64 (our error is the difference from it)", ours, peer)


def sliced_rows(problem: dict[str, Any], repeats: int) -> Iterator[Row]:
    """The same slices in POT, given numpy's float64 and torch's float32, and in whichever form is its fastest."""
    problem = {**problem, "projections": PROJECTIONS}
    requests = [{**problem, "task": f"sliced_{task}"} for task in ("reference", "ours")]
    requests += [{**problem, "task": "sliced_pot", "form": form} for form in FORMS]
    truths, mine, *others = alternate(SCRIPT, requests, repeats)
    ours = _marked(mine, truths)
    found = {form: _marked(answers, truths) for form, answers in zip(FORMS, others, strict=True)}
    fastest = min(found, key=lambda form: found[form]["seconds"])
    name = _title(f"sliced W2 (squared), {PROJECTIONS} projections", problem, repeats)
    for form in dict.fromkeys(("numpy float64", "torch float32", fastest)):
        text = f"POT ot.sliced_wasserstein_distance, {form}, the same projections"
        yield compare(name, text + (", its fastest form" if form == fastest else ""), ours, found[form])


def sinkhorn_rows(problem: dict[str, Any], repeats: int) -> Iterator[Row]:
    """At two eps; ours in float64 from the same float32 samples."""
    for share in SHARES:
        request = {**problem, "share": share}
        ours, theirs = {**request, "task": "sinkhorn_ours"}, {**request, "task": "sinkhorn_geomloss"}
        truths, mine, found = alternate(SCRIPT, [{**ours, "reference": True}, ours, theirs], repeats)
        if not all(answer["converged"] for answer in truths):
            print("  the reference of the Sinkhorn divergence did not converge", file=sys.stderr)
        name = _title(f"Sinkhorn divergence, eps = {share:g} of the median cost", problem, repeats)
        text = f"geomloss, float32 (its default), tensorized, scaling {SCALING:g}"
        yield compare(name, text, _marked(mine, truths), _marked(found, truths))


def _sizes(options: argparse.Namespace) -> tuple[list[tuple[int, dict[str, int]]], list[int]]:
    """Rows a side of the MMD, with each peer's permutations, and those of the exact distance."""
    if options.smoke:
        return [(24, {"torchdrift": 2, "hyppo": 2})], [24]
    # hyppo holds several float64 matrices of all pairs: at 10,000 a side they are 3 GiB each
    mmd = [(2000, {"torchdrift": 20, "hyppo": 8}), (5000, {"torchdrift": 10, "hyppo": 2}), (10000, {"torchdrift": 5})]
    return mmd, [2000, 5000, 10000] if options.large else [2000, 5000]


def rows(options: argparse.Namespace) -> Iterator[Row]:
    """All comparisons that the options ask for."""
    parts = set(options.only.split(","))
    unknown = parts - set(PARTS)
    if unknown:
        raise SystemExit(f"--only takes some of {','.join(PARTS)}, got {','.join(sorted(unknown))}")
    d, repeats, device = 4 if options.smoke else 256, options.repeats, options.device
    mmd, exact = _sizes(options)
    if "mmd" in parts:
        for n, few in mmd:
            yield from mmd_rows({"n": n, "d": d, "device": device}, few, repeats)
    if "exact" in parts and device == "cpu" and _installed("POT", "ot"):
        for n in exact:
            yield exact_row({"n": n, "d": d, "device": device}, repeats)
    if "sliced" in parts and _installed("POT", "ot"):
        yield from sliced_rows({"n": 48 if options.smoke else 10000, "d": d, "device": device}, repeats)
    if "sinkhorn" in parts and _installed("geomloss", "geomloss"):
        yield from sinkhorn_rows({"n": 48 if options.smoke else 2000, "d": d, "device": device}, repeats)


def main() -> None:
    """Parse the options, and run a task or the comparisons."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--only", default=",".join(PARTS), help=f"some of {','.join(PARTS)}")
    parser.add_argument("--repeats", type=int, default=3, help="of every comparison; sides alternate, medians are printed")
    parser.add_argument("--large", action="store_true", help="the exact distance at 10,000 a side too, which takes POT minutes")
    parser.add_argument("--smoke", action="store_true", help="tiny samples, in seconds: the figures mean nothing")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--data-root", help="not needed here; so that one ARGS of make benchmark fits all")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        request = json.loads(options.worker)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            print(json.dumps(measured(TASKS[request["task"]](request))))
        return
    if options.smoke:
        options.repeats = 1
    if options.smoke or options.device != "cpu":
        warnings.simplefilter("ignore")
        IN_PROCESS.update(TASKS)
    print_rows(rows(options), options.json)


if __name__ == "__main__":
    main()
