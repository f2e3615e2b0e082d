"""The curvature engine beside PyHessian and curvlinops with scipy's eigsh: time, products, accuracy and memory.

    python benchmarks/curvature.py --data-root DIR [--json] [--device cuda]

Each line is one comparison at stated accuracy. See docs/peers.md for what the numbers mean and what PyHessian gets wrong.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from common import (
    CACHE,
    IN_PROCESS,
    Row,
    alternate,
    compare,
    counted_products,
    load_images,
    measured,
    median,
    print_rows,
    run_worker,
    save_problem,
    trained_checkpoint,
)

SCRIPT = str(Path(__file__).resolve())
TOP = 5
MAX_VECTORS = 60  # of the Lanczos basis, as the measure's default
ACCURACY = 1e-3  # of each eigenvalue, relative
TRACE_ACCURACY = 0.02  # relative standard error
VECTORS = (12, 20)  # of ARPACK's basis; 20 is eigsh's default for five eigenvalues
PARTS = ("eigenvalues", "trace", "density", "memory")

# ---- the tasks, each in a process of its own ----


def _operator(request: dict[str, Any]) -> tuple[Any, Any]:
    """The operator of a saved problem, and the module that holds its weights."""
    import torch

    from ssa_analysis.checkpoints.loading import load_checkpoint
    from ssa_analysis.measures.fixed_loss import contrastive_loss
    from ssa_analysis.numerics.graph_memory import graph_memory
    from ssa_analysis.numerics.hessian import Batch, CurvatureOperator

    torch.set_num_threads(1)
    if "arch" in request:  # untrained, for memory alone
        encoder, inputs = _random_encoder(request["arch"]), torch.rand(2 * request["pairs"], 3, 224, 224)
    else:
        problem = torch.load(request["problem"], weights_only=True)
        encoder, inputs = load_checkpoint(problem["checkpoint"]).encoder, problem["inputs"]
    encoder, inputs = encoder.eval().to(request["device"]), inputs.to(request["device"])
    parameters = [p for p in encoder.parameters() if p.requires_grad]
    batch = Batch(inputs, contrastive_loss(0.5, None))
    size = sum(p.numel() for p in parameters)
    memory, _ = graph_memory(request.get("memory_gib", 1024) * 2**30, size, parameters[0].element_size(), MAX_VECTORS)
    operator = CurvatureOperator(encoder.embed, [batch], parameters, memory=memory)
    operator.network(inputs[:2])  # libraries load what they load lazily
    return operator, encoder


def _random_encoder(arch: str) -> Any:
    from ssa_analysis.models.backbones import build_backbone
    from ssa_analysis.models.encoder import Encoder, Projector

    backbone = build_backbone(arch, None, "imagenet")
    return Encoder(backbone, Projector((int(backbone.feature_dim), 512, 128)), (0.5,) * 3, (0.25,) * 3)


def _start(operator: Any, request: dict[str, Any]) -> Any:
    from ssa_analysis.numerics.lanczos import random_vector

    return random_vector(operator.size, request.get("seed", 0), operator.device, operator.dtype)


def eigenvalues_ours(request: dict[str, Any]) -> Callable[[], dict[str, Any]]:
    """Our Lanczos; with ``products``, run on to that many whatever the tolerance."""
    from ssa_analysis.numerics.lanczos import eigenpairs, krylov_space

    operator, _ = _operator(request)

    def work() -> dict[str, Any]:
        stop = {"max_products": request["products"]} if "products" in request else {"tolerance": request["tolerance"]}
        krylov = krylov_space(operator.matvec, _start(operator, request), top=TOP, **stop)
        found = eigenpairs(krylov, "largest", request.get("top", TOP), ACCURACY)
        return {
            "values": found.values.tolist(),
            "residuals": found.residuals.tolist(),
            "estimates": found.errors.tolist(),
            "products": krylov.products,
            "plan": operator.plan,
            "bytes_per_input": operator.bytes_per_input,
        }

    return work


def _pyhessian(operator: Any, encoder: Any) -> tuple[Any, list[int]]:
    """PyHessian's object, and a list that grows by one with each of its products."""
    from ssa_analysis.measures.backends.pyhessian_backend import build_pyhessian

    hessian = build_pyhessian(operator, encoder)
    return hessian, counted_products(hessian)


def eigenvalues_pyhessian(request: dict[str, Any]) -> Callable[[], dict[str, Any]]:
    """Its power iteration with deflation."""
    import torch

    operator, encoder = _operator(request)
    hessian, spent = _pyhessian(operator, encoder)
    torch.manual_seed(request.get("seed", 0))

    def work() -> dict[str, Any]:
        values, _ = hessian.eigenvalues(maxIter=request["iterations"], tol=request["tolerance"], top_n=TOP)
        return {"values": sorted((float(v) for v in values), reverse=True), "products": len(spent)}

    return work


def eigenvalues_curvlinops(request: dict[str, Any]) -> Callable[[], dict[str, Any]]:
    """Its Hessian operator in ARPACK's implicitly restarted Lanczos."""
    from ssa_analysis.measures.backends.curvlinops_backend import build_curvlinops, eigsh_top

    operator, encoder = _operator(request)
    linear = build_curvlinops(operator, encoder)

    def work() -> dict[str, Any]:
        found = eigsh_top(
            linear,
            _start(operator, request),
            top=TOP,
            tolerance=request["tolerance"],
            max_products=10000,
            vectors=request["vectors"],
        )
        return {"values": found[0].tolist(), "products": linear.products}

    return work


def trace_ours(request: dict[str, Any]) -> Callable[[], dict[str, Any]]:
    """Eigenvalues and trace from one Krylov run and deflated probes."""
    from ssa_analysis.numerics.spectrum import analyse_spectrum

    operator, _ = _operator(request)

    def work() -> dict[str, Any]:
        found = analyse_spectrum(
            operator.matvec,
            operator.size,
            top=TOP,
            tolerance=request["tolerance"],
            trace_tolerance=TRACE_ACCURACY,
            trace_probes=request["probes"],
            density_probes=2,
            density_steps=1,
            seed=request.get("seed", 0),
            device=operator.device,
            dtype=operator.dtype,
            matmat=operator.matmat,
        )
        products = sum(found.products.values())
        return {
            "trace": found.trace.value,
            "error": found.trace.stderr / abs(found.trace.value),
            "square": found.squared_frobenius.value,
            "products": products,
            "marginal": products - found.products["eigenvalues"],
        }

    return work


def trace_pyhessian(request: dict[str, Any]) -> Callable[[], dict[str, Any]]:
    """A given number of its Hutchinson probes."""
    import torch

    operator, encoder = _operator(request)
    hessian, spent = _pyhessian(operator, encoder)
    torch.manual_seed(request.get("seed", 0))

    def work() -> dict[str, Any]:
        samples = np.array(hessian.trace(maxIter=request["samples"], tol=0.0))
        return {"trace": samples.mean(), "deviation": samples.std(ddof=1), "products": len(spent)}

    return work


def products(request: dict[str, Any]) -> Callable[[], dict[str, Any]]:
    """A few products of one side, for memory; ours with a Lanczos basis."""
    from ssa_analysis.numerics.lanczos import krylov_space

    operator, encoder = _operator(request)
    side, count, start = request["side"], request["count"], _start(operator, request)
    if side == "ours":

        def work() -> dict[str, Any]:
            krylov_space(operator.matvec, start, top=TOP, max_products=count)
            return {"products": count, "plan": operator.plan, "size": operator.size}
    elif side == "pyhessian":
        from ssa_analysis.numerics.hessian import unflatten

        hessian, _ = _pyhessian(operator, encoder)

        def work() -> dict[str, Any]:
            for _ in range(count):
                hessian.dataloader_hv_product(unflatten(start, operator.parameters))
            return {"products": count}
    else:
        from ssa_analysis.measures.backends.curvlinops_backend import build_curvlinops

        linear = build_curvlinops(operator, encoder)

        def work() -> dict[str, Any]:
            for _ in range(count):
                linear @ start
            return {"products": count}

    return work


def exact_spectrum(request: dict[str, Any]) -> Callable[[], dict[str, Any]]:
    """All eigenvalues of the dense float64 Hessian, saved beside the problem."""
    import torch

    operator, encoder = _operator(request)
    encoder.double()
    operator.batches = [type(b)(b.inputs.double(), b.loss) for b in operator.batches]

    def work() -> dict[str, Any]:
        eye = torch.eye(operator.size, dtype=torch.float64, device=operator.device)
        dense = torch.cat([operator.matmat(rows) for rows in eye.split(64)])
        values = torch.linalg.eigvalsh((dense + dense.T) / 2).cpu().numpy()
        np.save(request["exact"], values)
        return {"size": operator.size, "products": operator.size, "asymmetry": float((dense - dense.T).norm() / dense.norm())}

    return work


def _distance(request: dict[str, Any], nodes: np.ndarray, weights: np.ndarray) -> float:
    """W1 from the exact spectrum, relative to its mean distance from zero."""
    from ssa_analysis.numerics.transport import wasserstein_1d

    exact = np.load(request["exact"])
    return wasserstein_1d(nodes, exact, weights, None) / float(np.abs(exact).mean())


def density_ours(request: dict[str, Any]) -> Callable[[], dict[str, Any]]:
    """Nodes and weights of our density; its products are those of the eigenvalues and of the probes.

    The time includes one probe more, for the standard error of the trace.
    """
    from ssa_analysis.numerics.spectrum import analyse_spectrum

    operator, _ = _operator(request)

    def work() -> dict[str, Any]:
        found = analyse_spectrum(
            operator.matvec,
            operator.size,
            top=TOP,
            tolerance=0.0,
            max_products=request["krylov"],
            max_vectors=request["krylov"],
            trace_tolerance=math.inf,
            trace_probes=request["probes"],
            density_probes=request["probes"],
            density_steps=request["steps"],
            seed=request.get("seed", 0),
            device=operator.device,
            dtype=operator.dtype,
            matmat=operator.matmat,
        )
        return {
            "error": _distance(request, found.density.nodes, found.density.weights),
            "products": found.products["eigenvalues"] + found.products["density"],
        }

    return work


def density_pyhessian(request: dict[str, Any]) -> Callable[[], dict[str, Any]]:
    """Its SLQ, with a stand-in for the ``torch.eig`` that torch has removed."""
    import torch

    def eig(matrix: Any, eigenvectors: bool = False) -> Any:
        values, vectors = torch.linalg.eigh(matrix)
        return values[:, None], vectors

    torch.eig = eig
    operator, encoder = _operator(request)
    hessian, spent = _pyhessian(operator, encoder)
    torch.manual_seed(request.get("seed", 0))

    def work() -> dict[str, Any]:
        nodes, weights = hessian.density(iter=request["steps"], n_v=request["probes"])
        nodes, weights = np.concatenate(nodes), np.concatenate(weights)
        return {"error": _distance(request, nodes, weights), "products": len(spent)}

    return work


def density_curvlinops(request: dict[str, Any]) -> Callable[[], dict[str, Any]]:
    """Its fast Lanczos; the nodes before they are widened, which only helps it."""
    import torch
    from curvlinops.papyan2020traces.spectrum import fast_lanczos

    from ssa_analysis.measures.backends.curvlinops_backend import build_curvlinops

    operator, encoder = _operator(request)
    linear = build_curvlinops(operator, encoder)
    torch.manual_seed(request.get("seed", 0))

    def work() -> dict[str, Any]:
        runs = [fast_lanczos(linear, request["steps"]) for _ in range(request["probes"])]
        nodes = torch.cat([r[0] for r in runs]).double().cpu().numpy()
        weights = torch.cat([r[1][0] ** 2 for r in runs]).double().cpu().numpy()
        return {"error": _distance(request, nodes, weights), "products": linear.products}

    return work


TASKS: dict[str, Callable[[dict[str, Any]], Callable[[], dict[str, Any]]]] = {
    f.__name__: f
    for f in (
        eigenvalues_ours, eigenvalues_pyhessian, eigenvalues_curvlinops, trace_ours, trace_pyhessian, products,
        exact_spectrum, density_ours, density_pyhessian, density_curvlinops,
    )
}  # fmt: skip


# ---- the comparisons ----


def _relative_error(values: list[float], truth: list[float]) -> float:
    return float(np.max(np.abs(np.array(values) - truth) / np.abs(truth)))


def eigenvalue_rows(work: str, problem: dict[str, Any], repeats: int, reference_products: int) -> Iterator[Row]:
    """Top five: against curvlinops + eigsh, PyHessian at its default tolerance, PyHessian at equal accuracy."""
    reference = run_worker(SCRIPT, {**problem, "task": "eigenvalues_ours", "products": reference_products, "seed": 99})
    truth = reference["values"]
    worst = max(r / v for r, v in zip(reference["estimates"], truth, strict=True))
    print(f"  reference values {[round(v, 4) for v in truth]}, known to {worst:.0e}", file=sys.stderr)
    ours = {**problem, "task": "eigenvalues_ours", "tolerance": ACCURACY}
    arpack = [{**problem, "task": "eigenvalues_curvlinops", "tolerance": ACCURACY, "vectors": v} for v in VECTORS]
    default = {**problem, "task": "eigenvalues_pyhessian", "tolerance": 1e-3, "iterations": 100}

    def marked(answers: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{**answer, "error": _relative_error(answer["values"], truth)} for answer in answers]

    mine, power, *linear = (marked(found) for found in alternate(SCRIPT, [ours, default, *arpack], repeats))
    best = min(range(len(linear)), key=lambda i: median(linear[i])["seconds"])
    name, engine = f"top {TOP} eigenvalues, {work}", median(mine)
    how = f"curvlinops + eigsh, tol {ACCURACY:g}, {VECTORS[best]} vectors (the faster of {' and '.join(map(str, VECTORS))})"
    yield compare(name, how, engine, median(linear[best]))
    yield compare(name, "PyHessian, default tolerance 1e-3", engine, median(power))
    for tolerance in (1e-3, 1e-4, 1e-5, 1e-6):
        if tolerance < 1e-3:
            power = []
            for seed in range(repeats):
                request = {**default, "tolerance": tolerance, "iterations": 2000, "seed": seed}
                power += marked([run_worker(SCRIPT, request)])
                if power[-1]["error"] > ACCURACY:
                    break
        if max(found["error"] for found in power) <= ACCURACY:
            how = f"PyHessian, tolerance {tolerance:g}, the first of 1e-3, 1e-4, .. to be right with every seed"
            yield compare(name, how, engine, median(power))
            return
    yield compare(name, "PyHessian, tolerance 1e-6, still not right", engine, median(power))


def trace_rows(work: str, problem: dict[str, Any], samples: int) -> Iterator[Row]:
    """Trace to 2 % standard error: PyHessian's Hutchinson, and Hutch++ as in curvlinops."""
    ours = {**problem, "task": "trace_ours", "tolerance": ACCURACY, "probes": 1000 if samples > 5 else 8}
    hutchinson = {**problem, "task": "trace_pyhessian", "samples": samples}
    product = {**problem, "task": "products", "side": "curvlinops", "count": 2}
    spectrum = {**problem, "task": "eigenvalues_ours", "products": 60, "top": 40}
    mine, power, linear, ritz = (found for (found,) in alternate(SCRIPT, [ours, hutchinson, product, spectrum], 1))
    name = f"trace to {TRACE_ACCURACY:.0%}, {work}"
    # the probes' variance from the norm of the matrix: 2 |H|_F^2, less the diagonal's part, which is small
    deviation = math.sqrt(2 * mine["square"])
    count = math.ceil((deviation / (TRACE_ACCURACY * abs(mine["trace"]))) ** 2)
    seconds = power["seconds"] / power["products"] * count
    peer = {**power, "seconds": seconds, "products": count, "error": TRACE_ACCURACY}
    how = f"PyHessian's Hutchinson, extrapolated from {power['products']} probes for the time and |H|_F for the variance"
    yield compare(f"{name}, Krylov run included", how, mine, peer)
    marginal = {**mine, "products": mine["marginal"], "seconds": mine["seconds"] * mine["marginal"] / mine["products"]}
    yield compare(f"{name}, where the eigenvalues are there already", how, marginal, peer)
    values = np.sort(np.square(ritz["values"]))[::-1]
    for third in range(1, 5000):
        rest = max(mine["square"] - values[:third].sum(), 0.0)
        if math.sqrt(2 * rest / third) <= TRACE_ACCURACY * abs(mine["trace"]):
            break
    peer = {**linear, "seconds": linear["seconds"] / 2 * 3 * third, "products": 3 * third, "error": TRACE_ACCURACY}
    how = "curvlinops' Hutch++, time of a product measured, their number as if its basis were perfect"
    yield compare(f"{name}, Krylov run included", how, mine, peer)


def density_rows(work: str, problem: dict[str, Any], settings: list[tuple[int, int]], repeats: int) -> Iterator[Row]:
    """W1 from the exact spectrum, relative to the mean |eigenvalue|: ours with at most a fifth of the products."""
    exact = str(CACHE / "exact.npy")
    problem = {**problem, "exact": exact}
    found = run_worker(SCRIPT, {**problem, "task": "exact_spectrum"})
    work = f"{work}, {found['size']} weights"
    for probes, steps in settings:
        budget = probes * steps // 5
        mine = {**problem, "task": "density_ours", **_spend(budget)}
        theirs = {**problem, "task": "density_pyhessian", "probes": probes, "steps": steps}
        linear = {**problem, "task": "density_curvlinops", "probes": probes, "steps": steps}
        runs = [[run_worker(SCRIPT, {**request, "seed": seed}) for seed in range(repeats)] for request in (mine, theirs, linear)]
        medians = [median(answers) for answers in runs]
        name = f"density, W1 (relative; median of {repeats} seeds), {work}"
        yield compare(name, f"PyHessian's SLQ, {probes} x {steps}, torch.eig replaced", medians[0], medians[1])
        yield compare(name, f"curvlinops' fast Lanczos, {probes} x {steps}", medians[0], medians[2])


def _spend(budget: int) -> dict[str, int]:
    """How we spend a number of products: a little more than half on the Krylov space, the rest on one or two probes."""
    krylov = round(0.6 * budget)
    probes = 1 if budget < 40 else 2
    return {"krylov": krylov, "probes": probes, "steps": (budget - krylov) // probes}


def memory_rows(work: str, problem: dict[str, Any], budget_gib: float) -> Iterator[Row]:
    """Peak of two products under a budget in which the graph does not fit, so that it is rebuilt."""
    request = {**problem, "task": "products", "count": 2}
    peers = {"pyhessian": "PyHessian", "curvlinops": "curvlinops"}
    requests = [{**request, "side": "ours", "memory_gib": budget_gib}, *({**request, "side": side} for side in peers)]
    mine, *others = (found for (found,) in alternate(SCRIPT, requests, 1))
    for label, theirs in zip(peers.values(), others, strict=True):
        yield compare(f"memory with --set curvature.memory={budget_gib:g} ({mine['plan']}), {work}", label, mine, theirs)


def large_net_row(arch: str, pairs: int, budget_gib: float, count: int, device: str) -> Row:
    """A product and a Lanczos basis of a large net at 224 pixels."""
    request = {"task": "products", "arch": arch, "pairs": pairs, "side": "ours", "memory_gib": budget_gib, "count": count}
    mine = run_worker(SCRIPT, {**request, "device": device})
    net = f"{arch} ({mine['size'] / 1e6:.1f} M weights), 224 px, {pairs} pairs"
    work = f"memory of {count} Lanczos products, {net}, curvature.memory={budget_gib:g} ({mine['plan']})"
    return Row(work, "none", mine["seconds"], ours_peak_mib=mine["peak_mib"], ours_products=count, device=mine["device"])


def _net_rows(options: argparse.Namespace, data: Any, parts: set[str]) -> Iterator[Row]:
    smoke = options.smoke
    arch = "convnet" if smoke else options.arch
    checkpoint = options.checkpoint or trained_checkpoint(
        data, arch=arch, width=options.width, projector=(8, 4) if smoke else (512, 128), epochs=options.train_epochs,
        device=options.device,
    )  # fmt: skip
    trained = "own checkpoint" if options.checkpoint else f"{options.train_epochs} epochs"
    pairs = min(options.pairs, len(data.splits["held-out"]))
    work = f"{arch} width {options.width} ({trained}), {pairs} pairs of {data.name}"
    saved = save_problem(f"{arch}-w{options.width}-{data.name}-{pairs}", checkpoint, data, pairs)
    problem = {"problem": str(saved), "device": options.device}
    timed = {**problem, "memory_gib": options.memory}
    if "eigenvalues" in parts:
        yield from eigenvalue_rows(f"{work}, {options.repeats} seeds", timed, options.repeats, 20 if smoke else 30)
    if "trace" in parts:
        yield from trace_rows(work, timed, 5 if smoke else 10)
    if "memory" in parts:
        yield from memory_rows(work, problem, 0.001 if smoke else 0.5)
        if not smoke:
            yield large_net_row("resnet50", 16, 8.0, 3, options.device)


def rows(options: argparse.Namespace) -> Iterator[Row]:
    """All comparisons that the options ask for."""
    data = load_images(options.data or ("cifar10" if options.data_root else "digits"), options.data_root)
    parts = set(options.only.split(","))
    smoke = options.smoke
    if parts - {"density"}:
        yield from _net_rows(options, data, parts)
    if "density" in parts:
        small = trained_checkpoint(
            data, arch="convnet", width=2 if smoke else 4, projector=(8, 4) if smoke else (16, 8), epochs=1 if smoke else 10,
            device=options.device,
        )  # fmt: skip
        saved = save_problem(f"small-net-{data.name}", small, data, 32 if smoke else 128)
        tiny = {"problem": str(saved), "device": options.device}
        settings = [(1, 20)] if smoke else [(1, 100), (5, 100)]
        yield from density_rows(f"convnet on {data.name}", tiny, settings, 1 if smoke else 7)


def main() -> None:
    """Parse the options, and run a task or the comparisons."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--data-root", help="folder of torchvision's CIFAR-10; without it the bundled digits are used")
    parser.add_argument("--data", metavar="FILE.npz", help="images with x (n, h, w, c) and y (n,) in their place")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--arch", default="resnet18")
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--pairs", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3, help="seeds of the eigenvalues; sides alternate, medians are printed")
    parser.add_argument("--checkpoint", type=Path, help="one of ssa-analyze train; otherwise one is trained and kept")
    parser.add_argument("--train-epochs", type=int, default=6)
    parser.add_argument("--memory", type=float, default=8.0, help="GiB that ours may take in the timed comparisons")
    parser.add_argument("--only", default=",".join(PARTS), help=f"some of {','.join(PARTS)}")
    parser.add_argument("--smoke", action="store_true", help="a tiny net on digits, in seconds: the figures mean nothing")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        request = json.loads(options.worker)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            print(json.dumps(measured(TASKS[request["task"]](request))))
        return
    if options.smoke:
        warnings.simplefilter("ignore")
        IN_PROCESS.update(TASKS)
        options.width, options.pairs, options.repeats, options.train_epochs, options.data_root = 2, 16, 1, 1, None
    if options.device != "cpu":
        warnings.simplefilter("ignore")
        IN_PROCESS.update(TASKS)
    print_rows(rows(options), options.json)


if __name__ == "__main__":
    main()
