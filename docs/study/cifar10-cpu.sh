#!/usr/bin/env bash
# The small CPU study of CIFAR-10: trains, scores, links, reports, and puts tables and figures where docs/study/cifar10-cpu.md shows them.
#   bash docs/study/cifar10-cpu.sh ROOT [OUT]      ROOT: where torchvision's files of CIFAR-10 lie; about 70 minutes on two cores
set -euo pipefail
out=${2:-runs/cifar10-cpu}
ssa-analyze study studies/cifar10-cpu.toml --data-root "$1" --no-download --out "$out" --workers 2
mkdir -p docs/study/cifar10-cpu
for name in summary verdicts predictions; do cp "$out/report/tables/$name.csv" "docs/study/cifar10-cpu/$name.csv"; done
for name in score_scatter method_contrasts; do cp "$out/report/figures/$name.png" "docs/study/cifar10-cpu/$name.png"; done
