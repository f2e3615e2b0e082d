#!/usr/bin/env bash
# The reference study on digits: trains, scores, links, reports, and puts tables and figures where docs/study/digits.md shows them.
#   bash docs/study/digits.sh [OUT]      from the repository's folder; under 45 minutes on two cores
set -euo pipefail
out=${1:-runs/digits}
ssa-analyze study studies/digits.toml --out "$out" --workers 2
for name in summary verdicts predictions; do cp "$out/report/tables/$name.csv" "docs/study/digits/$name.csv"; done
ssa-analyze link "$out/scores.db" --json \
  --scores curvature.lambda_max,curvature.trace,flatness.worst_case,flatness.average_case,flatness.adaptive_worst_case,flatness.adaptive_average_case,flatness.relative_flatness,flatness.fisher_rao,shift.gaussian_w2,shift.mmd2_difference,shift.alignment_gap,shift.loss_gap,robustness.mean_error,representation.alignment,representation.uniformity,representation.effective_rank,representation.feature_rank,representation.contrastive_loss,representation.weight_norm \
  > docs/study/digits/links.json
for name in score_scatter correlations granulated predicted_accuracy method_contrasts; do
  cp "$out/report/figures/$name.png" "docs/study/digits/$name.png"
done
