#!/usr/bin/env bash
# Train a small SimCLR encoder on CIFAR-10, ask the adviser about its augmentations, measure its shift.
#   docs/study/adviser-cifar10.sh CIFAR OUT
# CIFAR: folder with torchvision's CIFAR-10. About an hour on two cores, most of it training.
set -euo pipefail
cifar=$1 out=$2
data=(--data cifar10 --data-root "$cifar" --no-download)
ssa-analyze train --method simclr "${data[@]}" --subset 30000 --width 16 --epochs 12 --warmup 1 --batch 256 --out "$out/simclr"
ssa-analyze views "$out/simclr/last.pt" "${data[@]}" --store "$out/scores.db" --out "$out/advice" | tee "$out/views.txt"
ssa-analyze score "$out/simclr/last.pt" "${data[@]}" --store "$out/scores.db" --measures shift
ssa-analyze report "$out/scores.db" --out "$out/report"
