"""Figures: each a function of a data frame, and of how large it is set, that returns a matplotlib ``Figure`` or None.

The data frame of those in ``FIGURES`` is a store's long table (``Store.frame()``); None means that it holds nothing for them.

Example:
    >>> from ssa_analysis.reports.figures import FIGURES
    >>> from ssa_analysis.reports.style import SIZES
    >>> [entry.name for entry in FIGURES][:2]
    ['score_scatter', 'correlations']
    >>> SIZES["icml-column"].width
    3.25
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from matplotlib.figure import Figure
from ssa_analysis.reports.figures.bounds import (
    bound_against_truth,
    bound_chain,
    bound_waterfall,
    pac_bayes_chain,
    sharpness_complexity,
    slack_over_epochs,
)
from ssa_analysis.reports.figures.curvature import eigenvalues, spectral_density
from ssa_analysis.reports.figures.landscape import (
    landscape_eigen_surfaces,
    landscape_eigenvectors,
    landscape_path_surfaces,
    landscape_paths,
    landscape_slices,
    landscape_surfaces,
    landscape_surfaces_3d,
)
from ssa_analysis.reports.figures.linking import (
    correlations,
    granulated,
    method_contrasts,
    predicted_accuracy,
    score_correlations,
    score_scatter,
)
from ssa_analysis.reports.figures.robustness import corruption_angles, corruption_curves, corruption_heatmap
from ssa_analysis.reports.figures.shift import (
    margins,
    null_histograms,
    pair_differences,
    pair_map,
    pair_similarities,
    shift_statistics,
)
from ssa_analysis.reports.figures.training import training_curves
from ssa_analysis.reports.figures.views import shift_against_strength, views_ranking, views_sheet

GROUPS = {
    "linking": "Scores and accuracy", "curvature": "Sharpness", "landscape": "Sharpness", "shift": "Shift", "views": "Shift",
    "robustness": "Robustness", "bounds": "Bounds", "training": "Training",
}  # fmt: skip


@dataclass(frozen=True)
class FigureEntry:
    """A figure of the report: file name, title, what to read off it, and the function that draws it."""

    name: str
    title: str
    caption: str
    draw: Callable[..., Figure | None]

    @property
    def group(self) -> str:
        """The heading that it stands under, by the module that draws it."""
        return GROUPS[self.draw.__module__.rsplit(".", 1)[-1]]


TRAINING_CURVES = FigureEntry(
    "training_curves",
    "While they trained",
    "Loss and what else the runs recorded, one line a run; bars are 95 % intervals.",
    training_curves,
)
VIEWS_SHEET = FigureEntry(
    "views_sheet",
    "What the augmentations make of the images",
    "Each row an image: its views, then the logarithm of its amplitude spectrum and its phase; the Fourier mix has another "
    "image's amplitudes and, but for what is clipped, the phase of its own. Last, views of such mixes.",
    views_sheet,
)
FIGURES = (
    FigureEntry(
        "score_scatter",
        "Scores against downstream accuracy",
        "One point a checkpoint; bars are 95 % intervals. The accuracy is that of the linear probe on held-out images.",
        score_scatter,
    ),
    FigureEntry(
        "correlations",
        "Rank correlation with downstream accuracy",
        "Spearman's coefficient with its 95 % bootstrap interval over configurations: of all checkpoints, which follows whatever "
        "setting moves both, and within groups of equal settings but the method's. Filled: Holm's p-value is at most 0.05.",
        correlations,
    ),
    FigureEntry(
        "score_correlations",
        "Rank correlations among the scores",
        "Spearman's coefficient over the checkpoints that have all of these scores. In brackets where its 95 % bootstrap "
        "interval over configurations holds 0.",
        score_correlations,
    ),
    FigureEntry(
        "granulated",
        "Rank correlation as one setting varies",
        "Kendall's coefficient over checkpoints that differ in one setting alone; last, the mean over settings (Jiang et al. "
        "2020). rho is 0 without sharpness-aware minimisation, alpha is 0 without the Fourier augmentation.",
        granulated,
    ),
    FigureEntry(
        "predicted_accuracy",
        "Accuracy predicted from scores",
        "Ridge regression on all checkpoints but those of a configuration, or of a method, asked for the accuracy of these; 95 % "
        "bootstrap intervals. A score is of use where it beats the hyper-parameters and the label-free baselines.",
        predicted_accuracy,
    ),
    FigureEntry(
        "method_contrasts",
        "What the methods change",
        "Differences from SimCLR at equal other settings and seed, of a sharpness those of its logarithm: mean over "
        "configurations, Student's 95 % interval.",
        method_contrasts,
    ),
    FigureEntry(
        "eigenvalues",
        "Largest Hessian eigenvalues of the loss",
        "Bars through the points are residual bounds, mostly smaller than the marker.",
        eigenvalues,
    ),
    FigureEntry(
        "spectral_density",
        "Spectral density of the Hessian",
        "Stochastic Lanczos quadrature, one line a checkpoint, the band is one standard error over probes.",
        spectral_density,
    ),
    FigureEntry(
        "landscape_slices",
        "Loss along random filter-normalised directions",
        "Mean over directions; the band spans the directions. Offsets are in units of the filters' norms.",
        landscape_slices,
    ),
    FigureEntry(
        "landscape_surfaces",
        "Loss on a random filter-normalised plane",
        "Contours of the loss minus its value at the weights, in nats, the same levels in every panel. Where the losses range "
        "over more than a factor of 50, contours of the loss, evenly spaced in its logarithm. Grey: the loss is not finite.",
        landscape_surfaces,
    ),
    FigureEntry(
        "landscape_surfaces_3d",
        "Loss on a random filter-normalised plane, as a surface",
        "The planes and the colours of the contours.",
        landscape_surfaces_3d,
    ),
    FigureEntry(
        "landscape_eigenvectors",
        "Loss along the top eigenvectors of its Hessian",
        "Solid: the loss. Dashed: its second-order Taylor polynomial at the weights. Offsets are l2 distances.",
        landscape_eigenvectors,
    ),
    FigureEntry(
        "landscape_eigen_surfaces",
        "Loss on the plane of the two top eigenvectors",
        "Contours as above; offsets are l2 distances.",
        landscape_eigen_surfaces,
    ),
    FigureEntry(
        "landscape_paths",
        "Loss on the straight path to another checkpoint",
        "Markers: the two checkpoints. The barrier is the largest rise over the dotted line between them.",
        landscape_paths,
    ),
    FigureEntry(
        "landscape_path_surfaces",
        "Loss on a plane through two checkpoints",
        "Contours as above; + is the checkpoint, x the other one, up and down a random filter-normalised direction.",
        landscape_path_surfaces,
    ),
    FigureEntry(
        "shift_statistics",
        "Shift between ideal and practical pairs",
        "Unbiased squared MMD in five coordinates with 95 % intervals; a filled marker: permutation p-value of at most 0.05.",
        shift_statistics,
    ),
    FigureEntry(
        "pair_similarities",
        "Similarity within ideal and practical pairs",
        "Distribution of z·z⁺; the distance between the two means (lines) is about the alignment gap.",
        pair_similarities,
    ),
    FigureEntry(
        "pair_differences",
        "Distance within ideal and practical pairs",
        "Length of the difference coordinate (z − z⁺)/√2, in which a change of dependence shows.",
        pair_differences,
    ),
    FigureEntry(
        "margins",
        "Margins under both laws",
        "u = log β + log E exp(z·z⁻/τ) − z·z⁺/τ with the same negatives. The loss is softplus(u), so that the W₁ distance "
        "between the two bounds what the shift can cost (rung R6).",
        margins,
    ),
    FigureEntry(
        "null_histograms",
        "MMD of ideal and practical pairs, and under permutation",
        "Grey: squared MMD when the labels ideal and practical are exchanged at random. Line: the observed one. Joint is over "
        "a ladder of bandwidths, in units of the kernels' spread.",
        null_histograms,
    ),
    FigureEntry(
        "pair_map",
        "Pairs in the plane",
        "Both ends of sixty pairs of each kind on the two principal components of all of them, joined by a line.",
        pair_map,
    ),
    FigureEntry(
        "views_ranking",
        "Augmentations by the shift they leave",
        "Each variant of the recipe with its 95 % interval; the same images for all, so that differences are known better than "
        "the bars suggest (see the scores' settings). Band: views of two images of one class.",
        views_ranking,
    ),
    FigureEntry(
        "shift_against_strength",
        "Shift against augmentation strength",
        "Strength 0 leaves the augmentation out, 1 is the recipe. Band: views of two images of one class.",
        shift_against_strength,
    ),
    FigureEntry(
        "corruption_curves",
        "Accuracy of the frozen probe under corruptions",
        "Mean over the checkpoints of a method; severity 0 is the clean image. The band spans the checkpoints; for one alone it "
        "is the 95 % interval over images.",
        corruption_curves,
    ),
    FigureEntry(
        "corruption_heatmap",
        "Accuracy of the frozen probe, checkpoints by corruptions",
        "Mean over the five severities; the clean images first. Speckle noise, gaussian blur, spatter, saturate are in no mean.",
        corruption_heatmap,
    ),
    FigureEntry(
        "corruption_angles",
        "How far corruptions turn the embedding",
        "Mean angle between the embeddings of an image and of its corrupted twin; needs no labels. Band as above.",
        corruption_angles,
    ),
    FigureEntry(
        "bound_waterfall",
        "Bound waterfall",
        "From the loss of the trained probe up to the bound R2, and from there by the exact decomposition R8 to what the "
        "practical pairs show. The dashed line is the chance level H(π): a bound above it says nothing.",
        bound_waterfall,
    ),
    FigureEntry(
        "bound_chain",
        "The chain of rungs to a certificate",
        "What each rung loses on the tightest route from the trained probe's loss to a bound that the held-out certificate gives "
        "with its stated probability. Where views mix images it ends before the certificate. Dashed: the chance level H(π).",
        bound_chain,
    ),
    FigureEntry(
        "pac_bayes_chain",
        "The chain of rungs to the PAC-Bayes bound",
        "The same with the bound of the training run, prior at the initialisation or at a named checkpoint. Where the step "
        "BatchNorm goes down it is no bound of the network with running statistics.",
        pac_bayes_chain,
    ),
    FigureEntry(
        "bound_against_truth",
        "Bounds against the loss they bound",
        "One point a checkpoint, 95 % intervals. Above the diagonal the inequality holds; above the dashed chance level it says "
        "nothing.",
        bound_against_truth,
    ),
    FigureEntry(
        "slack_over_epochs",
        "Slack of the rungs over training",
        "One line a run whose checkpoints of several epochs were scored; bars are 95 % intervals.",
        slack_over_epochs,
    ),
    FigureEntry(
        "sharpness_complexity",
        "Sharpness and complexity of the PAC-Bayes bound",
        "A wider weight noise costs sharpness and saves complexity. Black: the bound, which ends at the largest loss there is; "
        "grey: loss and parts by Pinsker's inequality, which does not. Above the dashed line, the loss of a constant embedding, "
        "it says nothing.",
        sharpness_complexity,
    ),
)
