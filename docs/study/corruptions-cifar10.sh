#!/usr/bin/env bash
# Train two small encoders on CIFAR-10, score them on regenerated corruptions of 1,000 test images, draw the report.
#   docs/study/corruptions-cifar10.sh CIFAR FROST OUT
# CIFAR: folder with torchvision's CIFAR-10. FROST: folder with the official frost textures (see docs/measures.md).
set -euo pipefail
cifar=$1 frost=$2 out=$3
data=(--data cifar10 --data-root "$cifar" --no-download)
train=("${data[@]}" --subset 7500 --width 16 --epochs 12 --warmup 1 --batch 128)
for method in simclr simclr-fourier; do
  [ -e "$out/$method/last.pt" ] || ssa-analyze train --method $method "${train[@]}" --out "$out/$method"
done
ssa-analyze corruptions "${data[@]}" --frost-textures "$frost" --out "$out/sheet"
ssa-analyze score "$out"/simclr/last.pt "$out"/simclr-fourier/last.pt "${data[@]}" --store "$out/scores.db" \
  --measures robustness,downstream --set robustness.images=1000 --frost-textures "$frost"
ssa-analyze export "$out/scores.db" --out "$out/scores.csv"
ssa-analyze report "$out/scores.db" --out "$out/report"
